"""Mean rank over categories with its interval, a panel for each metric; bars join variants that do not differ."""

from __future__ import annotations

import pandas as pd
from matplotlib.ticker import MaxNLocator

from reports.figures._style import INK, Drawing, described, first_conventions, panels, span
from reports.vocabulary import metric as titled


def draw(data: pd.DataFrame) -> Drawing:
    categories = span(int(cell.text) for cell in data.cell[data.quantity == "categories"])
    data, conventions = first_conventions(data[data.quantity == "mean rank"])
    metrics = list(dict.fromkeys(data.metric))
    count = data.groupby("metric").size().max()
    figure, axes = panels(len(metrics), 2, 0.4 + 0.24 * count)
    for axis, metric in zip(axes, metrics, strict=True):
        rows = data[data.metric == metric].sort_values("rank").reset_index(drop=True)
        whiskers = [rows["rank"] - rows.low, rows.high - rows["rank"]]
        axis.errorbar(rows["rank"], rows.index, xerr=whiskers, fmt="o", ms=4, color=INK, capsize=2, lw=0.9)
        joined = [rows.index[rows.variant.isin(tied)] for tied in rows.tied]
        # A clique runs from each variant down to the worst that it is tied with, unless one above it reaches as far.
        reach = [(first, max(like)) for first, like in enumerate(joined)]
        cliques = [(a, b) for i, (a, b) in enumerate(reach) if b > a and all(b > other for _, other in reach[:i])]
        for place, (first, last) in enumerate(cliques):
            axis.plot([0.6 - 0.1 * place] * 2, [first, last], color=INK, lw=3, solid_capstyle="butt")
        axis.set_yticks(rows.index, rows.variant)
        axis.set(title=titled(metric).title, xlim=(0.4 - 0.1 * len(cliques), len(rows) + 0.2))
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(axis="x")
    return described(
        figure,
        f"Over {categories} categories; whiskers: 95% bootstrap intervals over them. A thick bar joins",
        "variants that do not differ significantly by Wilcoxon's signed-rank test with Holm's correction (p < 0.05).",
        *conventions,
        xlabel="mean rank over categories, 1 is best",
    )
