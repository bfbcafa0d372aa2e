"""What figures share: sizes for print, and for each variant a colour with a marker, a dash and a hatch of its own.

A figure is as wide as the text of a two-column paper or as one of its columns, so that fonts keep their size there. By
marker, dash and hatch it can be read in greyscale and by the colour-blind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from textwrap import fill
from typing import Any, NamedTuple

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.tables import IDENTITY, IMAGE_CONVENTION, METRICS, Cell, labels

STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titleweight": "normal",
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 8,
    "figure.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.linewidth": 0.7,
    "axes.grid": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
    "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3
}
WIDTH, COLUMN = 7.0, 3.4  # inches
INK, PALE = "#222222", "#bbbbbb"
HATCHES = ["", "///", "...", "xx", "\\\\\\", "++", "oo", "--"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
DASHES = ["-", "--", "-.", ":", (0, (6, 1)), (0, (1, 1, 4, 1)), (0, (8, 3)), (0, (3, 1, 1, 1))]


class Look(NamedTuple):
    """How a variant is drawn in one figure."""

    colour: Any
    marker: str
    dash: Any
    hatch: str


def looks(names: Sequence[str]) -> dict[str, Look]:
    """A look for each name; markers, dashes and hatches come again after eight, colours after ten."""
    colours = sns.color_palette("colorblind", max(len(names), 1))
    return {
        name: Look(colours[place], MARKERS[place % 8], DASHES[place % 8], HATCHES[place % 8])
        for place, name in enumerate(names)
    }


def panels(count: int, across: int, height: float, extra: float = 0.5, **shared: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, at most `across` in a row, each `height` inches high, and `extra` for the rest."""
    across = min(across, count)
    down = -(-count // across)
    # A figure of its own, unknown to pyplot, needs no closing.
    figure = Figure(figsize=(COLUMN if across == 1 else WIDTH, height * down + extra), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, **shared).ravel()
    for unused in axes[count:]:
        unused.remove()
    for axis in axes[max(0, count - across) : count]:
        axis.tick_params(labelbottom=True)  # the lowest of its column, even where the last row is not full
    return figure, list(axes[:count])


def filled(data: pd.DataFrame, what: str = "value") -> pd.DataFrame:
    """The rows whose cell has a value, with the label of their variant as `name`.

    Raises:
        ValueError: there is none.
    """
    data = data[[bool(cell.values) for cell in data.cell]]
    if data.empty:
        raise ValueError(f"no variant has a {what}")
    return data.assign(name=labels(data[IDENTITY["variant"]]))


def first_conventions(data: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The rows of each metric's first convention, and a sentence that names those of pixel metrics."""
    data = data[data.convention == data.groupby("metric").convention.transform("first")]
    named = data.drop_duplicates("metric")[["metric", "convention"]].itertuples(index=False, name=None)
    told = [f"{METRICS.get(metric, metric)}: {how}" for metric, how in named if how != IMAGE_CONVENTION]
    return data, [f"{'; '.join(told)}."] if told else []


def title(metric: str, convention: str = IMAGE_CONVENTION) -> str:
    """A panel's title, folded: the metric, and its convention where it has several."""
    name = METRICS.get(metric, metric)
    return name if convention == IMAGE_CONVENTION else f"{name}\n{fill(convention, 26)}"


def over_seeds(cells: Iterable[Cell], spread: str = "one standard deviation over seeds") -> str:
    """A sentence on how many seeds there are and what whiskers say."""
    counts = sorted({len(cell.values) for cell in cells if cell.values})
    if counts == [1]:
        return "One seed: no deviation."
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"Mean over {seeds} seeds; whiskers: {spread}."


def legend(figure: Figure, axes: Sequence[Axes], names: Sequence[str]) -> None:
    """One legend above all panels, in the order of `names`."""
    found = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    shown = [name for name in names if name in found]
    # As many columns as the figure is wide; a legend wider than it would squeeze the panels.
    columns = max(1, min(len(shown), int(figure.get_figwidth() * 14 // (7 + max(map(len, shown), default=0)))))
    figure.legend([found[name] for name in shown], shown, loc="outside upper center", ncols=columns, handlelength=2.6)


def note(figure: Figure, *sentences: str) -> None:
    """What the reader has to know, in small print under the panels."""
    text = fill(" ".join(sentences), int(figure.get_figwidth() * 19))
    # An empty legend, because the layout makes room for legends only.
    figure.legend([], [], title=text, title_fontsize=6.5, loc="outside lower left", borderpad=0, alignment="left")
