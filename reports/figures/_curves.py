"""Curves that the score stage stored: a panel for each category, the mean and the range over seeds of each variant."""

from __future__ import annotations

import numpy as np
import pandas as pd

from reports.figures._style import PALE, Drawing, described, legend, looks, panels, span


def curves(data: pd.DataFrame, kind: str, axis_labels: tuple[str, str], limit: float = 1.0) -> Drawing:
    """The curve `kind` of `details`, up to this false-positive rate.

    Raises:
        ValueError: no category has such a curve.
    """
    data = data[[kind in details.get("curves", {}) for details in data.details]]
    if data.empty:
        raise ValueError(f"no category has a stored {kind.replace('pro', 'PRO').replace('roc', 'ROC')} curve")
    upward = {"roc": "tpr"}.get(kind, kind)
    names, categories = sorted(data.variant.unique()), sorted(data.category.unique())
    figure, axes = panels(len(categories), 4, 1.5, sharex=True, sharey=True)
    grid = limit * np.linspace(0, 1, 301) ** 2  # denser where the false-positive rate is low, as the stored points are
    for axis, category in zip(axes, categories, strict=True):
        for name, look in looks(names).items():
            rows = data.details[(data.category == category) & (data.variant == name)]
            stored = [details["curves"][kind] for details in rows]
            if stored:
                heights = np.stack([np.interp(grid, curve["fpr"], curve[upward]) for curve in stored])
                axis.plot(grid, heights.mean(0), color=look.colour, linestyle=look.dash, lw=1.2, label=name)
                axis.fill_between(grid, heights.min(0), heights.max(0), color=look.colour, alpha=0.18, lw=0)
        if kind == "roc":
            axis.plot([0, 1], [0, 1], color=PALE, lw=0.8, zorder=0)
        axis.set(title=category, xlim=(-0.01 * limit, limit * 1.01), ylim=(-0.02, 1.03))
    figure.supylabel(axis_labels[1])
    legend(figure, axes, names)
    seeds = span(data.groupby(["variant", "category"]).size())
    over = "One seed." if seeds == "1" else f"Mean over {seeds} seeds; shaded: their range."
    return described(figure, over, "Grey line: chance." if kind == "roc" else "", xlabel=axis_labels[0])
