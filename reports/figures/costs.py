"""Accuracy against what it costs: training time above, prediction time below, a column for each metric.

One-class is open, multi-class filled. Up and to the left is better; whiskers are one standard deviation over seeds.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from reports.figures._style import INK, filled, first_conventions, legend, looks, note, over_seeds, panels, title
from reports.tables import PROTOCOLS

AXES = {"training_minutes": "training time (minutes)", "image_milliseconds": "prediction time per image (ms)"}


def draw(data: pd.DataFrame) -> Figure:
    data, told = first_conventions(filled(data, "mean over all categories"))
    metrics, names = list(dict.fromkeys(data.metric)), sorted(data.name.unique())
    figure, axes = panels(2 * len(metrics), len(metrics), 2.0, extra=0.9, sharex="row", sharey="col")
    for place, (axis, (cost, label)) in enumerate(
        zip(axes, [item for item in AXES.items() for _ in metrics], strict=True)
    ):
        metric = metrics[place % len(metrics)]
        for name, look in looks(names).items():
            rows = data[(data.metric == metric) & (data.name == name)]
            for row in rows.to_dict("records"):
                at, height = row[cost], 100 * row["cell"].mean
                face = "white" if row["protocol"] == "one_class" else look.colour
                axis.errorbar([at], [height], yerr=[100 * row["cell"].std], xerr=[row[f"{cost}_std"]], ecolor=INK, lw=0.7,
                              fmt=look.marker, ms=6, color=look.colour, mfc=face, mec=INK, mew=0.7,
                              label=name if row["protocol"] != PROTOCOLS[0] or len(rows) == 1 else None)  # fmt: skip
        axis.set(xscale="log", xlabel=label, title=title(metric) if place < len(metrics) else "")
        axis.tick_params(labelbottom=True)
        axis.grid()
    figure.supylabel("percent, mean over categories")
    legend(figure, axes, names)
    note(
        figure, "Open: one_class, the sum over its models; filled: multi_class.", over_seeds(data.cell),
        "Training time is that of all epochs, evaluation while training included; time per image is that of the whole "
        "prediction divided by its images.", _devices(data), *told,
    )  # fmt: skip
    return figure


def _devices(data: pd.DataFrame) -> str:
    devices = data.groupby("device").name.unique()
    if len(devices) == 1:
        return f"Measured on: {devices.index[0]}."
    told = "; ".join(f"{device}: {', '.join(sorted(names))}" for device, names in devices.items())
    return f"Devices differ, so times do not compare: {told}."
