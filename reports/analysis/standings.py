"""What a report says first: the leaderboard of each data set and protocol, who leads, and whether the papers hold.

Of all anomalies, means over categories, by the suite's first convention. The first metric decides the order.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import takewhile
from typing import NamedTuple

import pandas as pd

from benchmarks.wording import counted
from reports.aggregate import Cell, empty_cell
from reports.analysis import reproduction, significance
from reports.vocabulary import DASH, IDENTITY, MEAN, PROTOCOLS, as_printed, labels, metric, number, sign

METRICS = ("image_auroc", "pixel_auroc", "aupro", "spro")


class Score(NamedTuple):
    """One number of a leaderboard."""

    cell: Cell
    place: int  # by the mean: 1 is the best, 2 the second; 0: neither, or no value


class Standing(NamedTuple):
    """A row of a leaderboard."""

    name: str
    scores: list[Score]  # by column
    rank: str  # mean over categories, by the first column; empty where a rank has no meaning
    interval: str  # of 95%


class Column(NamedTuple):
    """A metric, and how it was computed."""

    metric: str
    convention: str


class Verdicts(NamedTuple):
    """What became of the published numbers that a suite covers."""

    counts: Mapping[str, int]  # by verdict, in the order of `reproduction.VERDICTS`
    reasons: Mapping[str, int]  # why numbers are not comparable, the most frequent reason first

    @property
    def total(self) -> int:
        return sum(self.counts.values())


class Leaderboard(NamedTuple):
    """The variants on a data set under a protocol, best first."""

    dataset: str
    protocol: str
    columns: list[Column]
    standings: list[Standing]
    lead: str  # who is ahead, by how much and how surely, as sentences; empty with one variant
    verdicts: Verdicts


def leaderboards(
    cells: pd.DataFrame, ranks: pd.DataFrame, samples: significance.Samples, entries: pd.DataFrame
) -> list[Leaderboard]:
    """One leaderboard for each data set and protocol, one-class first.

    Args:
        cells: rows of `significance.highlight`.
        ranks: rows of `significance.ranks`.
        samples: of `significance.auroc_samples`.
        entries: rows of `reproduction.entries`.
    """
    shown = cells[(cells.subset == "all") & cells.metric.isin(METRICS)]
    shown = shown[shown.convention == shown.groupby(["dataset", "metric"]).convention.transform("first")]
    boards = [
        _leaderboard(str(dataset), str(protocol), block, ranks, samples, entries)
        for (dataset, protocol), block in shown.groupby(["dataset", "protocol"], sort=False)
    ]
    order = {name: place for place, name in enumerate(PROTOCOLS)}
    return sorted(boards, key=lambda board: (board.dataset, order.get(board.protocol, len(order)), board.protocol))


def _leaderboard(
    dataset: str,
    protocol: str,
    block: pd.DataFrame,
    ranks: pd.DataFrame,
    samples: significance.Samples,
    entries: pd.DataFrame,
) -> Leaderboard:
    block = block.assign(name=labels(block[IDENTITY["variant"]]))
    means = block[block.category == MEAN].drop_duplicates(["metric", "name"])
    columns = sorted(
        means[["metric", "convention"]].drop_duplicates().itertuples(index=False, name=None),
        key=lambda column: METRICS.index(column[0]),
    )
    grid = means.pivot(index="name", columns="metric", values="cell")
    by_column = {name: _places(name, grid[name].to_dict()) for name, _ in columns}
    order = sorted(grid.index, key=lambda name: _order(columns[0][0], by_column[columns[0][0]][name].cell, name))
    here = ranks[(ranks.dataset == dataset) & (ranks.protocol == protocol) & (ranks.quantity == "mean rank")]
    ranked = here[(here.metric == columns[0][0]) & (here.convention == columns[0][1]) & (here.subset == "all")]
    of_rank = {
        row["entry"]: (f"{row['rank']:.1f}", f"{row['low']:.1f}{DASH}{row['high']:.1f}")
        for row in ranked.to_dict("records")
    }
    standings = [
        Standing(name, [by_column[of][name] for of, _ in columns], *of_rank.get(name, ("", ""))) for name in order
    ]
    first = block[block.metric == columns[0][0]]
    published = entries[(entries.dataset == dataset) & (entries.protocol == protocol)]
    return Leaderboard(
        dataset,
        protocol,
        [Column(*column) for column in columns],
        standings,
        " ".join(_lead(first, standings, samples)),
        _verdicts(published),
    )


def _places(name: str, cells: Mapping[str, Cell]) -> dict[str, Score]:
    """The two best means of a column, by variant; equal means share a place."""
    cells = {variant: cell if isinstance(cell, Cell) else empty_cell("not scored") for variant, cell in cells.items()}
    values = [sign(name) * cell.mean for cell in cells.values() if cell.values]
    place = {
        variant: 1 + sum(value > sign(name) * cell.mean for value in values) if cell.values else 0
        for variant, cell in cells.items()
    }
    return {variant: Score(cell, place[variant] if place[variant] <= 2 else 0) for variant, cell in cells.items()}


def _order(name: str, cell: Cell, variant: str) -> tuple[bool, float, str]:
    return (not cell.values, -sign(name) * cell.mean if cell.values else 0, variant)


def _lead(block: pd.DataFrame, standings: list[Standing], samples: significance.Samples) -> Iterator[str]:
    """Whether the best variant is better than the others, by the rows of the metric that decides the order."""
    scored = list(takewhile(lambda standing: standing.scores[0].cell.values, standings))
    if len(scored) < 2:
        return
    name = str(block.metric.iloc[0])
    percent = metric(name).is_fraction
    best, second = (standing.name for standing in scored[:2])
    lead = significance.lead(block, samples, best, second)
    ends = [number(end, percent, "+") for end in (lead.low, lead.high)]
    interval = "" if math.isnan(lead.low) else f" (95% interval over test images and seeds: {' to '.join(ends)})"
    unit = "points" if percent else "(in its own unit)"
    away = number(abs(lead.away), percent)
    yield as_printed(f"{best} leads {second} by {away} {unit} of {metric(name).title}{interval}.")
    if scored[0].scores[0].cell.bold:
        yield "Its lead over every other method is significant."
    elif lead.categories < significance.CATEGORIES:
        yield f"Over {counted(lead.categories, 'category', 'categories')} no lead can be significant: that takes six."
    else:
        yield f"Over {lead.categories} categories it does not lead every other method significantly."


def _verdicts(entries: pd.DataFrame) -> Verdicts:
    words = [cell.word for cell in entries.cell[entries.quantity == "verdict"]]
    kinds = Counter(word.partition(" (")[0] for word in words)
    reasons = Counter(
        reason
        for word in words
        if word.startswith("not comparable")
        for reason in word.partition(" (")[2].rstrip(")").split(", ")
    )
    return Verdicts({kind: kinds[kind] for kind in reproduction.VERDICTS if kinds[kind]}, dict(reasons.most_common()))
