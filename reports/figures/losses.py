"""Loss terms by epoch, a panel for each variant and phase of its training; mean and deviation over its runs."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reports.figures._style import note, panels


def draw(data: pd.DataFrame) -> Figure:
    data = data[data.value > 0]
    # A phase other than the last one, such as the amplification of a teacher, has a panel of its own.
    parts = list(data.groupby(["variant", "phase"]))
    figure, axes = panels(len(parts), 3, 2.1)
    for axis, (key, part) in zip(axes, parts, strict=True):
        sns.lineplot(part, x="epoch", y="value", hue="name", style="name", errorbar="sd", palette="colorblind", ax=axis,
                     lw=1.2)  # fmt: skip
        axis.set(title=" · ".join(str(part) for part in key if part), yscale="log", xlabel="", ylabel="")
        terms = part.name.nunique()
        axis.legend(fontsize=6, title=None, ncols=3, loc="lower center", bbox_to_anchor=(0.5, -0.2 - 0.08 * (terms // 3)),
                    handlelength=2, columnspacing=1)  # fmt: skip
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    figure.supxlabel("epoch")
    figure.supylabel("weighted loss term")
    runs = data.groupby("variant")[["split", "seed"]].apply(lambda of: len(of.drop_duplicates()))
    note(
        figure,
        f"Mean over each variant's {runs.min()} to {runs.max()} runs (splits × seeds); shaded: one standard deviation.",
    )
    return figure
