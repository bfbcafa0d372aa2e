"""What was measured on the test images while training: the last epoch, which counts, beside the best, a diagnostic.

A panel for each metric, a line for each variant: mean and deviation over its runs.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.ticker import MaxNLocator

from reports.figures._style import Drawing, described, looks, panels, scale, unit
from reports.vocabulary import metric as titled


def draw(data: pd.DataFrame) -> Drawing:
    metrics, names = list(dict.fromkeys(data.name)), sorted(data.variant.unique())
    figure, axes = panels(len(metrics), 2, 2.0 + 0.12 * len(names))
    for axis, metric in zip(axes, metrics, strict=True):
        for name, look in looks(names).items():
            rows = data[(data.name == metric) & (data.variant == name)]
            runs = scale(metric) * rows.pivot(index="epoch", columns=["split", "seed"], values="value").sort_index()
            if len(runs):
                best = runs.max() if titled(metric).direction == "higher" else runs.min()
                label = f"{name}: last {runs.iloc[-1].mean():.1f}, best {best.mean():.1f}"
                mean, spread = runs.mean(axis=1), runs.std(axis=1).fillna(0)
                axis.plot(runs.index, mean, color=look.colour, marker=look.marker, linestyle=look.dash, ms=4, lw=1.1,
                          label=label)  # fmt: skip
                axis.fill_between(runs.index, mean - spread, mean + spread, color=look.colour, alpha=0.15, lw=0)
        axis.set(title=titled(metric).title)
        axis.legend(fontsize=6.5, loc="upper center", bbox_to_anchor=(0.5, -0.12), handlelength=3)
        epochs = sorted(set(data.epoch))
        if len(epochs) > 6:
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        else:
            axis.set_xticks(epochs)
    figure.supylabel(unit(metrics))
    return described(
        figure,
        "Mean over the runs of each variant (splits and seeds); shaded: one standard deviation. Best: each",
        "run's best epoch on the test images: a diagnostic, not a result. The axes do not begin at 0.",
        xlabel="epoch",
    )
