"""The tables of papers, laid out as printed, with what was measured under each number of our variants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from benchmarks.metrics.registry import METRICS
from benchmarks.official_counts import official_counts
from reports.aggregate import Cell, text_cell
from reports.analysis.reproduction import Match, printed, verdict_on
from reports.vocabulary import IDENTITY, shared

RULE = (
    "A footnote at a measured number is the verdict on the published one, by the rule under the tables of "
    "reproduction. Methods without a measured row are not implemented here; their numbers are their sources'."
)
SETTING = {"backbone": "teacher", "selection": "selection", "epochs": "epochs", "image_size": "image size in px"}
# Papers print what was measured under several conventions in one column, so `convention` is no column here.
PLACE = ["paper", "table", "dataset", "protocol", "subset", "metric", "category"]
COLUMNS = [*PLACE, "method", "cell", *IDENTITY["variant"], "measured_convention"]
PUBLISHED = ["number", "covered"]  # the row of `reports/published`; whether the suite covers it


def rows(published: pd.DataFrame, matches: Mapping[Any, Match]) -> pd.DataFrame:
    """Every published number as a row, and for each of our variants one more with the measured number.

    `method` is "AE", or, of our variants, "dskd, published" and "dskd, measured". `covered` is whether a table has
    something to show: a number that the suite covers, or one of such a paper on a data set that nobody can run here.

    Args:
        published: rows as in `reports/published/README.md`.
        matches: the result of `reproduction.matches`.
    """
    of_suite = {published.paper[index] for index in matches}
    rows = []
    for index, number in published.to_dict("index").items():
        unknown = not official_counts(number["dataset"])
        covered = index in matches or (unknown and number["paper"] in of_suite)
        place = {name: number[name] for name in PLACE}
        place |= {"covered": covered, "number": number, "variant": "", "selection": "", "teacher": ""}
        label = number["variant"] and f"{number['variant']}, published"
        rows.append({**place, "method": label or number["method"], "cell": _published(number)})
        if number["variant"]:
            match = matches.get(index)
            best = (match and match.best) or {}
            why = "there is no such data set here" if unknown else "not in this suite"
            cell = _measured(number, match) if match else text_cell("", why)
            place |= {name: best.get(name, "") for name in IDENTITY["variant"]}
            place["measured_convention"] = best.get("convention", "")
            rows.append({**place, "method": f"{number['variant']}, measured", "cell": cell})
    return pd.DataFrame(rows, columns=[*COLUMNS, *PUBLISHED])


def notes(part: pd.DataFrame) -> list[str]:
    """What the sources of a table's numbers state of our variants, and which sources were read."""
    numbers = pd.DataFrame(part.number.tolist()).drop_duplicates()
    numbers = numbers[numbers.value != ""]
    ours = numbers[numbers.variant != ""]
    sentences = []
    if len(ours):
        stated = {name: _by("variant", ours, column) for column, name in SETTING.items()}
        stated["convention"] = _by(
            "metric", ours.replace({"metric": {name: of.title for name, of in METRICS.items()}}), "convention"
        )
        sentences.append(f"As published: {'; '.join(f'{name} {value}' for name, value in stated.items())}.")
    if len(numbers):
        status = [f" ({status})" if status != "read" else "" for status in numbers.status]
        sentences.append(f"Read in: {'; '.join(dict.fromkeys(numbers.source + status))}.")
    return [*sentences, RULE]


def _by(facet: str, numbers: pd.DataFrame, column: str) -> str:
    """What the sources state in a column, by each name of the facet if it differs."""
    return shared({
        str(name): " or ".join(sorted({value or "not stated" for value in rows[column]}))
        for name, rows in numbers.groupby(facet, sort=False)
    })  # fmt: skip


def _published(number: Mapping[Any, Any]) -> Cell:
    if not number["value"]:
        return text_cell("", f"{number['status']}: {number['source']}")
    gain = "" if number["unit"] == "fraction" else f"a {number['unit']}"
    return replace(text_cell(printed(number), gain), mean=float(number["value"]))


def _measured(number: Mapping[Any, Any], match: Match) -> Cell:
    if match.best and "protocol" in match.differences:  # the nearest there is, but no number of this table
        return text_cell("", f"measured under {match.best['protocol']} only")
    if not number["value"]:
        return match.best["cell"] if match.best else text_cell("", "not run")
    word, why, _ = verdict_on(number, match)
    cell: Cell = match.best["cell"] if match.best else text_cell("")
    return replace(cell, note="; ".join(filter(None, [word, why, cell.note])))
