"""What figures share: sizes for print, and for each variant a colour with a marker, a dash and a hatch of its own.

A figure is as wide as one column of a two-column paper, or as its text where more than two panels stand side by side:
letters keep their size there, and are those of such papers (STIX looks like Times). By marker, dash and hatch it can be
read in greyscale and by the colour-blind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from benchmarks.schema import IMAGE_CONVENTION
from reports.aggregate import Cell
from reports.vocabulary import IDENTITY, PROTOCOLS, as_printed, labels, metric

STYLE: dict[Any, Any] = {
    "font.family": ["STIXGeneral", "DejaVu Sans"],  # both come with Matplotlib; the latter for letters of other scripts
    "mathtext.fontset": "stix",
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
    "svg.hashsalt": "proctor",  # the same figure gives the same bytes
    "savefig.transparent": True,  # the page behind it may be light or dark
}
WIDTH, COLUMN = 7.0, 3.4  # inches
INK, PALE = "#222222", "#bbbbbb"  # these, black, white and the greys of STYLE turn round on a dark page (page.css)
ON_LIGHT = "#111111"  # text on a light patch, which stays light
HATCHES = ["", "///", "...", "xx", "\\\\\\", "++", "oo", "--"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
DASHES = ["-", "--", "-.", ":", (0, (6, 1)), (0, (1, 1, 4, 1)), (0, (8, 3)), (0, (3, 1, 1, 1))]


class Drawing(NamedTuple):
    """A figure, and the sentences without which it cannot be read, for its caption: there is no small print in it."""

    figure: Figure
    note: str


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


def panels(count: int, most: int, height: float, extra: float = 0.6, **shared: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, at most `most` in a row, each `height` inches high, and `extra` for the rest."""
    across = min(most, count)
    down = -(-count // across)
    # A figure of its own, unknown to pyplot, needs no closing.
    figure = Figure(figsize=(COLUMN if across <= 2 else WIDTH, height * down + extra), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, **shared).ravel()
    for unused in axes[count:]:
        unused.remove()
    for axis in axes[max(0, count - across) : count]:
        axis.tick_params(labelbottom=True)  # the lowest of its column, even where the last row is not full
    return figure, list(axes[:count])


def filled(data: pd.DataFrame, what: str = "value") -> pd.DataFrame:
    """The rows whose cell has a value, with the label of their variant as `name`.

    Raises:
        ValueError: no cell has a value.
    """
    data = data[[bool(cell.values) for cell in data.cell]]
    if data.empty:
        raise ValueError(f"no variant has a {what}")
    return data.assign(name=labels(data[IDENTITY["variant"]]))


def first_conventions(data: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The rows of each metric's first convention, and a sentence that names those of pixel metrics."""
    data = data[data.convention == data.groupby("metric").convention.transform("first")]
    named = data[data.convention != IMAGE_CONVENTION].groupby("convention", sort=False).metric.unique()
    listed = [f"{', '.join(metric(name).title for name in of)} ({how})" for how, of in named.items()]
    return data, [f"Conventions: {'; '.join(listed)}."] if listed else []


def ordered(protocols: Iterable[str]) -> list[str]:
    """These protocols, one-class first."""
    names = set(protocols)
    return [name for name in PROTOCOLS if name in names] + sorted(names - set(PROTOCOLS))


def span(counts: Iterable[int]) -> str:
    """The least and the largest count, such as "2 to 3", or the only one."""
    values = sorted(set(counts))
    return " to ".join(str(value) for value in dict.fromkeys((values[0], values[-1])))


def over_seeds(cells: Iterable[Cell], whiskers: str = "one standard deviation over seeds") -> str:
    """A sentence on how many seeds there are and what whiskers show, if there are any."""
    seeds = span(len(cell.values) for cell in cells)
    if seeds == "1":
        return "One seed: no deviation." if whiskers else "One seed."
    return f"Mean over {seeds} seeds" + (f"; whiskers: {whiskers}." if whiskers else ".")


def protocol_keys(axis: Axes, protocols: Iterable[str]) -> None:
    """Entries for the legend: one-class is drawn open, other protocols filled."""
    for protocol in protocols:
        axis.plot([], [], "o", ms=4.5, color=INK, mfc=face(protocol, INK), label=as_printed(protocol))


def face(protocol: str, colour: Any) -> Any:
    """What fills a marker."""
    return "white" if protocol == "one_class" else colour


def scale(name: str) -> float:
    """What values of a metric are multiplied by to be drawn: fractions in percent, others as they are."""
    return 100 if metric(name).is_fraction else 1


def unit(names: Iterable[str]) -> str:
    """The label of an axis that these metrics share."""
    fractions = [metric(name).is_fraction for name in names]
    return "percent" if all(fractions) else "percent, or the metric's own unit" if any(fractions) else "value"


def are_fractions(names: Iterable[str]) -> bool:
    """Whether all these metrics are shown in percent, and can share an axis."""
    return all(metric(name).is_fraction for name in names)


def log_ticks(axis: Axis) -> None:
    """A few plain numbers on a logarithmic axis whose data are drawn: at 1, 2 and 5 of each decade if there are two."""
    low, high = axis.get_view_interval()
    few = MaxNLocator(4) if high < 10 * low else LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,))
    axis.set_major_locator(few)
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def legend(figure: Figure, axes: Sequence[Axes], names: Sequence[str]) -> None:
    """One legend above all panels, in the order of `names`."""
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    shown = [name for name in names if name in handles]
    # As many columns as the figure is wide; a legend wider than it would squeeze the panels.
    columns = max(1, min(len(shown), int(figure.get_figwidth() * 14 // (7 + max(map(len, shown), default=0)))))
    figure.legend([handles[name] for name in shown], shown, loc="outside upper center", ncols=columns, handlelength=2.6)


def described(figure: Figure, *sentences: str, xlabel: str = "") -> Drawing:
    """The figure with a label that all panels share, and what the reader has to know, for its caption."""
    if xlabel:
        figure.supxlabel(xlabel)
    return Drawing(figure, " ".join(filter(None, sentences)))
