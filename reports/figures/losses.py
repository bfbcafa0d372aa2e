"""Loss terms by epoch, a panel for each variant and phase of its training; mean and deviation over its runs."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.ticker import MaxNLocator

from reports.figures._style import Drawing, described, log_ticks, panels, span


def draw(data: pd.DataFrame) -> Drawing:
    data = data[data.value > 0]
    # A phase other than the last one, such as the amplification of a teacher, has a panel of its own.
    parts = list(data.groupby(["variant", "phase"]))
    figure, axes = panels(len(parts), 1, 1.4)
    for axis, (key, part) in zip(axes, parts, strict=True):
        sns.lineplot(part, x="epoch", y="value", hue="name", style="name", errorbar="sd", palette="colorblind", ax=axis,
                     lw=1.2)  # fmt: skip
        axis.set(title=" · ".join(str(word) for word in key if word), yscale="log", xlabel="", ylabel="")
        log_ticks(axis.yaxis)
        axis.legend(fontsize=6, title=None, loc="center left", bbox_to_anchor=(1, 0.5), handlelength=2.6)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    figure.supylabel("weighted loss term")
    runs = data.groupby("variant")[["split", "seed"]].apply(lambda of: len(of.drop_duplicates()))
    return described(
        figure,
        f"Mean over the runs of each variant (splits and seeds: {span(runs)});",
        "shaded: one standard deviation.",
        xlabel="epoch",
    )
