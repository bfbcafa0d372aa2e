"""Image scores of normal and anomalous test images, a panel for each category, of the first seed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import to_rgba
from matplotlib.ticker import MaxNLocator

from reports.figures._style import Drawing, described, legend, panels


def draw(data: pd.DataFrame) -> Drawing:
    data = data.sort_values("seed").drop_duplicates("category").sort_values("category")
    figure, axes = panels(len(data), 4, 1.25)
    colours = sns.color_palette("colorblind", 2)
    for axis, row in zip(axes, data.to_dict("records"), strict=True):
        images = pd.DataFrame(row["details"]["images"])
        edges = np.histogram_bin_edges(images.score, bins=20).tolist()
        for kind, colour, hatch in ((False, colours[0], ""), (True, colours[1], "////")):
            scores = images.score[images.anomalous == kind]
            axis.hist(scores, edges, color=to_rgba(colour, 0.45), edgecolor=colour, hatch=hatch, histtype="stepfilled",
                      lw=1, label="anomalous" if kind else "normal")  # fmt: skip
        axis.set(title=row["category"])
        axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.xaxis.set_major_locator(MaxNLocator(4))
    figure.supylabel("test images")
    legend(figure, axes, ["normal", "anomalous"])
    seeds = ", ".join(str(seed) for seed in sorted(data.seed.unique()))
    return described(
        figure,
        f"Seed {seeds}. 20 bins from the lowest to the highest score of each category, in the method's own units.",
        xlabel="image score, higher is more anomalous",
    )
