"""Mean over categories by variant and protocol, a panel for each metric; whiskers are one standard deviation."""

from __future__ import annotations

import pandas as pd

from reports.figures._style import (
    INK,
    Drawing,
    are_fractions,
    described,
    filled,
    first_conventions,
    legend,
    looks,
    ordered,
    over_seeds,
    panels,
    scale,
    unit,
)
from reports.vocabulary import as_printed
from reports.vocabulary import metric as titled


def draw(data: pd.DataFrame) -> Drawing:
    data, conventions = first_conventions(filled(data, "mean over all categories"))
    names, protocols = sorted(data.name.unique()), ordered(data.protocol)
    metrics = list(dict.fromkeys(data.metric))
    figure, axes = panels(len(metrics), 2, 1.3, sharey=are_fractions(metrics))
    width = 0.84 / len(names)
    for axis, metric in zip(axes, metrics, strict=True):
        for place, (name, look) in enumerate(looks(names).items()):
            cells = data[(data.metric == metric) & (data.name == name)].set_index("protocol").cell
            at = [protocols.index(protocol) + (place - (len(names) - 1) / 2) * width for protocol in cells.index]
            means = [scale(metric) * cell.mean for cell in cells]
            axis.bar(at, means, 0.92 * width, color=look.colour, edgecolor=INK, lw=0.5, hatch=look.hatch, label=name)
            spread = [scale(metric) * cell.std for cell in cells]  # NaN with one seed, which draws no whisker
            axis.errorbar(at, means, yerr=spread, fmt="none", ecolor=INK, capsize=1.5, lw=0.8, capthick=0.8)
        axis.set(title=titled(metric).title, xlim=(-0.6, len(protocols) - 0.4))
        if titled(metric).is_fraction:
            axis.set_ylim(0, 105)
        axis.set_xticks(range(len(protocols)), map(as_printed, protocols))
        axis.grid(axis="y")
    figure.supylabel(unit(metrics))
    legend(figure, axes, names)
    return described(figure, over_seeds(data.cell), *conventions)
