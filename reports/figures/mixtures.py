"""How well mixtures of two categories are detected, against the share of the category under test; whiskers over seeds.

A panel for each protocol, a line for each variant.
"""

from __future__ import annotations

import pandas as pd

from reports.figures._style import PALE, Drawing, described, filled, legend, looks, ordered, over_seeds, panels
from reports.vocabulary import as_printed


def draw(data: pd.DataFrame) -> Drawing:
    data = filled(data[data.subset.str.startswith("mixup ")], "scored mixture")
    data = data.assign(ratio=data.subset.str.removeprefix("mixup ").astype(float)).sort_values("ratio")
    names, protocols = sorted(data.name.unique()), ordered(data.protocol)
    figure, axes = panels(len(protocols), 2, 2.2, sharey=True)
    apart = 0.012  # so that whiskers of different variants do not hide each other
    for axis, protocol in zip(axes, protocols, strict=True):
        for place, (name, look) in enumerate(looks(names).items()):
            rows = data[(data.protocol == protocol) & (data.name == name)]
            axis.errorbar(
                rows.ratio + apart * (place - (len(names) - 1) / 2),
                [100 * cell.mean for cell in rows.cell],
                yerr=[100 * cell.std for cell in rows.cell],  # NaN with one seed, which draws no whisker
                color=look.colour,
                marker=look.marker,
                linestyle=look.dash,
                ms=4,
                capsize=2,
                lw=1.1,
                elinewidth=0.8,
                label=name,
            )
        axis.axhline(50, color=PALE, lw=0.8, zorder=0)
        axis.set(title=as_printed(protocol), xticks=sorted(data.ratio.unique()), ylim=(0, 103))
    figure.supylabel("image AUROC, percent")
    legend(figure, axes, names)
    return described(
        figure,
        over_seeds(data.cell),
        "Points are shifted sideways so that they do not overlap; grey line: chance.",
        xlabel="share of the category under test in the mixture",
    )
