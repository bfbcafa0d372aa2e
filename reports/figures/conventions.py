"""How the ranking of variants moves with the convention, a panel for each metric; crossing lines change places."""

from __future__ import annotations

from textwrap import fill

import pandas as pd
from matplotlib.ticker import MaxNLocator

from reports.figures._style import Drawing, described, filled, legend, looks, over_seeds, panels
from reports.vocabulary import metric as titled


def draw(data: pd.DataFrame) -> Drawing:
    data = filled(data)
    names, metrics = sorted(data.name.unique()), list(dict.fromkeys(data.metric))
    figure, axes = panels(len(metrics), 1, 0.9 + 0.15 * len(names))
    for axis, metric in zip(axes, metrics, strict=True):
        of_metric = data[data.metric == metric]
        grid = of_metric.pivot(index="convention", columns="name", values="rank")
        grid = grid.reindex(dict.fromkeys(of_metric.convention))
        for name, look in looks(names).items():
            if name in grid:
                axis.plot(range(len(grid)), grid[name], color=look.colour, marker=look.marker, linestyle=look.dash,
                          ms=5, lw=1.2, label=name)  # fmt: skip
        ticks = [fill(str(name), 17) for name in grid.index]
        if len(names) > 1:  # of one variant there is no order
            taus = [grid.iloc[0].corr(row, method="kendall") for _, row in grid.iterrows()]
            ticks = [f"{tick}\nτ = {tau:.2f}" for tick, tau in zip(ticks, taus, strict=True)]
        axis.set_xticks(range(len(grid)), ticks, fontsize=6.5)
        axis.set(title=titled(metric).title, xlim=(-0.3, len(grid) - 0.7), ylim=(len(names) + 0.4, 0.6))
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.supylabel("rank, 1 is best")
    legend(figure, axes, names)
    return described(
        figure,
        "Ranks by the mean over categories and seeds.",
        over_seeds(data.cell, whiskers=""),
        "τ: Kendall's rank correlation with the first convention, 1 where no variant changes places.",
    )
