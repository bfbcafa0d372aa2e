"""Categories by variant, a panel for each metric with a scale of its own: the darker, the worse; white is empty."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from reports.figures._style import (
    INK,
    ON_LIGHT,
    WIDTH,
    Drawing,
    described,
    filled,
    first_conventions,
    over_seeds,
    scale,
    unit,
)
from reports.vocabulary import MEAN
from reports.vocabulary import metric as titled

CELL = 0.32, 0.19  # inches: holds "100.0" at the size below
LABELS = 1.1  # inches
# The worse a value, the darker, in print as on the screen; dark text is legible on all of it.
COLOURS = sns.color_palette("blend:#7b96c4,#fffef5", as_cmap=True)
PALETTES = {"higher": COLOURS, "lower": COLOURS.reversed()}


def draw(data: pd.DataFrame) -> Drawing:
    data, conventions = first_conventions(filled(data))
    metrics, names = list(dict.fromkeys(data.metric)), sorted(data.name.unique())
    categories = sorted(data.category.unique(), key=lambda name: (name == MEAN, name))
    fitting = max(1, int((WIDTH - LABELS) / (CELL[0] * len(names))))
    down = -(-len(metrics) // fitting)
    across = -(-len(metrics) // down)
    size = max(LABELS + across * CELL[0] * len(names), 3.0), down * (0.9 + CELL[1] * len(categories)) + 0.3
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for unused in axes[len(metrics) :]:
        unused.remove()
    for place, metric in enumerate(metrics):
        grid = data[data.metric == metric].pivot(index="category", columns="name", values="cell")
        grid = grid.reindex(index=categories, columns=names)
        values = scale(metric) * grid.map(lambda cell: getattr(cell, "mean", np.nan)).astype(float)
        sns.heatmap(
            values, ax=axes[place], annot=True, fmt=".1f" if titled(metric).is_fraction else ".4g",
            cmap=PALETTES[titled(metric).direction], linewidths=0.8, cbar=False,
            annot_kws={"fontsize": 6.5, "color": ON_LIGHT}, yticklabels=categories if place % across == 0 else False,
        )  # fmt: skip
        axes[place].set(title=titled(metric).title, xlabel="", ylabel="")
        axes[place].tick_params(length=0)
        axes[place].tick_params(axis="y", rotation=0)
        axes[place].axhline(len(categories) - 1, color=INK, lw=1)  # the mean stands apart
        axes[place].set_xticks(np.arange(len(names)) + 0.5, names, rotation=45, ha="right", rotation_mode="anchor")
    return described(
        figure,
        f"{unit(metrics).capitalize()}.",
        over_seeds(data.cell, whiskers=""),
        "Darker is worse; each panel has its own scale.",
        *conventions,
    )
