"""Tables as Markdown and CSV."""

from __future__ import annotations

import math

import pandas as pd

from reports.tables import Table


def markdown(table: Table) -> str:
    """The table for a README, with its caption and footnotes."""
    cells = table.grid.map(
        lambda cell: (
            (f"**{cell.text}**" if cell.bold else cell.text) + (f" [{table.marks[cell.note]}]" if cell.note else "")
        )
    )
    cells = cells.rename(index=_escape_pipe, columns=_escape_pipe)
    notes = [f"[{mark}] {note}." for note, mark in table.marks.items()]
    body = cells.to_markdown(colalign=["left"] + ["right"] * cells.shape[1], disable_numparse=True)
    return "\n\n".join([f"**{table.title}**", body, *notes, *table.caption, *table.notices]) + "\n"


def _escape_pipe(text: str) -> str:
    return text.replace("|", "\\|")


def csv(table: Table) -> str:
    """Unrounded values, fractions not in percent: for each column its mean, standard deviation and number of seeds.

    A column of text has one number or word in each row, and neither deviation nor seeds where no seed gave a number.
    """
    columns = {}
    for label, cells in table.grid.items():
        columns[str(label)] = cells.map(lambda cell: cell.word if cell.word and math.isnan(cell.mean) else cell.mean)
        if any(cell.word for cell in cells) and not any(cell.values for cell in cells):
            continue
        columns[f"{label}: std"] = cells.map(lambda cell: cell.std)
        columns[f"{label}: seeds"] = cells.map(lambda cell: "" if cell.word and not cell.values else len(cell.values))
    return (
        pd.DataFrame(columns).rename_axis(str(table.grid.index.name)).to_csv(float_format="%.6f", lineterminator="\n")
    )
