"""How far seeds lie apart: the mean over categories of each seed, a row for each variant, a panel for each metric.

One-class is open, multi-class filled, as in `protocol_gap`; a bar marks the mean over seeds. An axis begins near the
lowest value: points need no zero.
"""

from __future__ import annotations

import pandas as pd

from reports.figures._style import (
    INK,
    Drawing,
    described,
    face,
    filled,
    first_conventions,
    legend,
    looks,
    ordered,
    panels,
    protocol_keys,
    scale,
    span,
    unit,
)
from reports.vocabulary import as_printed
from reports.vocabulary import metric as titled


def draw(data: pd.DataFrame) -> Drawing:
    data, conventions = first_conventions(filled(data, "mean over all categories"))
    names, protocols = sorted(data.name.unique()), ordered(data.protocol)
    metrics = list(dict.fromkeys(data.metric))
    figure, axes = panels(len(metrics), 2, 0.5 + 0.3 * len(names), sharey=True)
    for axis, metric in zip(axes, metrics, strict=True):
        for row, (name, look) in enumerate(looks(names).items()):
            for place, protocol in enumerate(protocols):
                height = row + 0.36 * (place - (len(protocols) - 1) / 2)
                for cell in data.cell[(data.metric == metric) & (data.name == name) & (data.protocol == protocol)]:
                    values = [scale(metric) * value for value in cell.values.values()]
                    axis.plot(values, [height] * len(values), look.marker, ms=4.5, color=look.colour, mec=INK, mew=0.7,
                              mfc=face(protocol, look.colour))  # fmt: skip
                    axis.plot([scale(metric) * cell.mean] * 2, [height - 0.17, height + 0.17], color=INK, lw=1.4)
        axis.set(title=titled(metric).title, ylim=(len(names) - 0.5, -0.5))
        axis.set_yticks(range(len(names)), names)
        axis.grid(axis="x")
        axis.margins(x=0.08)
    protocol_keys(axes[0], protocols)
    legend(figure, axes, [*map(as_printed, protocols)])
    return described(
        figure,
        f"A point is a seed ({span(len(cell.values) for cell in data.cell)} of each variant), a bar",
        "their mean. Each panel has a scale of its own, which does not begin at 0.",
        *conventions,
        xlabel=unit(metrics),
    )
