"""Accuracy against what it costs: training time above, prediction time below, a column for each metric.

To the left is cheaper. One-class is open, multi-class filled, as in `protocol_gap`.
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
    log_ticks,
    looks,
    over_seeds,
    panels,
    scale,
    unit,
)
from reports.vocabulary import metric as titled

COSTS = {"training_minutes": "training (minutes)", "image_milliseconds": "prediction (ms per image)"}


def draw(data: pd.DataFrame) -> Drawing:
    data, conventions = first_conventions(filled(data, "mean over all categories with a recorded time"))
    metrics, names = list(dict.fromkeys(data.metric)), sorted(data.name.unique())
    figure, axes = panels(2 * len(metrics), len(metrics), 1.9, extra=0.9, sharex="row", sharey="col")
    for place, axis in enumerate(axes):
        metric, (cost, label) = metrics[place % len(metrics)], [*COSTS.items()][place // len(metrics)]
        for name, look in looks(names).items():
            rows = data[(data.metric == metric) & (data.name == name)].sort_values("protocol")
            for row, shown in zip(rows.to_dict("records"), [name, None], strict=False):
                at, cell = row[cost], row["cell"]
                axis.errorbar(
                    [at], [scale(metric) * cell.mean], yerr=[scale(metric) * cell.std],
                    xerr=[[at - row[f"{cost}_low"]], [row[f"{cost}_high"] - at]], ecolor=INK, elinewidth=0.7,
                    fmt=look.marker, ms=5.5, mfc=face(row["protocol"], look.colour), mec=INK, mew=0.7, label=shown,
                )  # fmt: skip
        axis.set(xscale="log", xlabel=label, title=titled(metric).title if place < len(metrics) else "")
        log_ticks(axis.xaxis)
        axis.tick_params(labelbottom=True)
        axis.grid()
    figure.supylabel(f"{unit(metrics)}, mean over categories")
    legend(figure, axes, names)
    return described(
        figure,
        "Open: one-class, with the training time of all its models; filled: multi-class.",
        over_seeds(data.cell, "one standard deviation of the metric, range of the time"),
        "Training time: all epochs,",
        "evaluations between them included. Prediction time: of the whole prediction, divided by its images.",
        _devices(data),
        "Vertical axes do not begin at 0.",
        *conventions,
    )


def _devices(data: pd.DataFrame) -> str:
    devices = data.groupby("device").name.unique()
    if len(devices) == 1:
        return f"Measured on: {devices.index[0]}."
    listed = "; ".join(f"{device}: {', '.join(sorted(names))}" for device, names in devices.items())
    return f"Devices differ, so times are not comparable: {listed}."
