"""One-class (open) and multi-class (filled) by category, a panel for each variant; whiskers over seeds.

All panels have one scale, and the category that loses most under multi-class is at the top.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from reports.aggregate import Cell
from reports.figures._style import (
    INK,
    Drawing,
    described,
    face,
    filled,
    legend,
    looks,
    over_seeds,
    panels,
    protocol_keys,
    scale,
    unit,
)
from reports.vocabulary import DIFFERENCE, MEAN, PROTOCOLS, as_printed, sign


def draw(data: pd.DataFrame) -> Drawing:
    data = filled(data, "value under both protocols")
    metric = str(data.metric.iloc[0])
    data = data.assign(value=[sign(metric) * cell.mean for cell in data.cell])
    lost = data[data.protocol == DIFFERENCE].groupby("category").value.mean().sort_values()
    if lost.empty:
        raise ValueError("no category has a value under both protocols")
    rows = [*(name for name in lost.index if name != MEAN), *(name for name in lost.index if name == MEAN)]
    names = sorted(data.name[data.protocol == DIFFERENCE].unique())
    figure, axes = panels(len(names), 3, 0.5 + 0.17 * len(rows), sharex=True, sharey=True)
    whole: list[Cell] = data.cell[data.protocol != DIFFERENCE].tolist()
    ends = [
        scale(metric) * (cell.mean + end * (cell.std if len(cell.values) > 1 else 0))
        for cell in whole
        for end in (-1, 1)
    ]
    limits = (min(ends) - 3, 101.5) if scale(metric) == 100 else None
    for axis, (name, look) in zip(axes, looks(names).items(), strict=True):
        of_name = data[data.name == name].pivot(index="category", columns="protocol", values="cell")
        for height, category in enumerate(rows):
            cells: list[Any] = [of_name.at[category, p] if category in of_name.index else None for p in PROTOCOLS[:2]]
            known = [cell for cell in cells if isinstance(cell, Cell)]
            places = [height - 0.13, height + 0.13]  # apart, so that neither hides the other
            axis.plot(
                [scale(metric) * c.mean for c in known], places[: len(known)], color=look.colour, lw=2.2, zorder=1
            )
            for cell, protocol, place in zip(cells, PROTOCOLS, places, strict=False):
                if isinstance(cell, Cell):
                    axis.errorbar(
                        [scale(metric) * cell.mean],
                        [place],
                        xerr=[scale(metric) * cell.std],
                        fmt="o",
                        ms=4,
                        color=INK,
                        mfc=face(protocol, INK),
                        lw=0.8,
                    )
        axis.set(title=name, xlim=limits, ylim=(len(rows) - 0.4, -0.6))
        axis.set_yticks(range(len(rows)), rows)
        axis.grid(axis="x")
    protocol_keys(axes[0], PROTOCOLS[:2])
    legend(figure, axes, [*map(as_printed, PROTOCOLS[:2])])
    return described(
        figure,
        over_seeds(data.cell),
        "Categories with the largest drop are on top; the axis does not begin at 0.",
        xlabel=unit([metric]),
    )
