"""One function per figure; a spec finds it by its name and hands it the rows to draw.

Figures from `cells` get the rows of `tables.aggregate`; figures from `details` get one row per category and seed, with
the parsed file in `details` and the path of its arrays in `arrays`; those from `losses` and
`trajectory` get one row per epoch and term or metric of every run. Within a figure every variant has its own colour
and its own hatch or dash, so that it can be read in greyscale and by the colour-blind.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from reports.tables import DIFFERENCE, IDENTITY, MEAN, METRICS, PROTOCOLS, Cell, labels

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "normal",
    "axes.labelsize": 9,
    "figure.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.linewidth": 0.8,
    "axes.grid": False,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
    "pdf.fonttype": 42,
}
HATCHES = ["", "///", "...", "xx", "\\\\\\", "++", "oo", "--"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
DASHES = ["-", "--", "-.", ":", (0, (6, 1)), (0, (1, 1, 4, 1)), (0, (8, 3)), (0, (3, 1, 1, 1))]


def draw(name: str, data: pd.DataFrame) -> Figure:
    """Call the figure function `name`.

    Raises:
        ValueError: there is no such function, or the data hold nothing that it could draw.
    """
    function = globals().get(name)
    if name.startswith("_") or getattr(function, "__module__", None) != __name__ or name in ("draw", "save"):
        raise ValueError(f"no function '{name}' in reports/figures.py")
    with rc_context(STYLE):
        figure: Figure = function(data)  # type: ignore[misc]  # the line above has checked it
    return figure


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.png and `stem`.pdf without dates or versions: the same figure gives the same bytes."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(stem.name + suffix) for suffix in (".png", ".pdf")]
    with rc_context(STYLE):
        figure.savefig(paths[0], dpi=160, metadata={"Software": None})
        figure.set_layout_engine("none")  # the layout stands: laying out takes most of the time
        figure.savefig(paths[1], dpi=160, metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return paths


def _panels(count: int, across: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    # A figure of its own, unknown to pyplot, needs no closing.
    across = min(across, count)
    down = -(-count // across)
    figure = Figure(figsize=(max(width * across, 3.6), height * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for unused in axes[count:]:
        unused.remove()
    return figure, list(axes[:count])


def _colours(names: Sequence[str]) -> list[Any]:
    return list(sns.color_palette("colorblind", max(len(names), 1)))


def bars(data: pd.DataFrame) -> Figure:
    """Mean over categories by variant and protocol, a panel for each metric; whiskers are one standard deviation."""
    data = data.assign(name=labels(data[IDENTITY["variant"]]), panel=labels(data[IDENTITY["metric"]]))
    data = data[[bool(cell.values) for cell in data.cell]]
    if data.empty:
        raise ValueError("no variant has a mean over all categories")
    names, protocols = sorted(data.name.unique()), sorted(data.protocol.unique())
    panels = list(dict.fromkeys(data.panel))
    figure, axes = _panels(len(panels), 4, 2.3, 2.5)
    width = 0.8 / len(names)
    for axis, panel in zip(axes, panels, strict=True):
        for place, (name, colour) in enumerate(zip(names, _colours(names), strict=True)):
            cells = data[(data.panel == panel) & (data.name == name)].set_index("protocol").cell
            at = [protocols.index(protocol) + (place - (len(names) - 1) / 2) * width for protocol in cells.index]
            drawn = axis.bar(
                at,
                [100 * c.mean for c in cells],
                width * 0.92,
                color=colour,
                edgecolor="#222222",
                linewidth=0.6,
                hatch=HATCHES[place % len(HATCHES)],
                label=name,
            )
            spread = [100 * c.std for c in cells]  # NaN with one seed, which draws no whisker
            axis.errorbar(
                at, [100 * c.mean for c in cells], yerr=spread, fmt="none", ecolor="#222222", capsize=2.5, lw=1
            )
            if len(names) * len(protocols) <= 8:
                axis.bar_label(
                    drawn,
                    [f"{100 * c.mean:.1f}" for c in cells],
                    label_type="center",
                    fontsize=7,
                    rotation=90,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85},
                )
        axis.set(title=fill(panel, 24), ylim=(0, 105), xlim=(-0.6, len(protocols) - 0.4))
        axis.set_xticks(range(len(protocols)), protocols)
        axis.set_axisbelow(True)
        axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    _legend(figure, axes, names)
    return figure


def dumbbells(data: pd.DataFrame) -> Figure:
    """One-class (open) and multi-class (filled) by category, a panel for each variant; whiskers over seeds.

    All panels have one scale, and the largest loss by learning all categories at once stands on top.
    """
    data = data[[bool(cell.values) for cell in data.cell]]
    data = data.assign(name=labels(data[IDENTITY["variant"]]), value=[100 * cell.mean for cell in data.cell])
    lost = data[data.protocol == DIFFERENCE].groupby("category").value.mean().sort_values(ascending=False)
    if lost.empty:
        raise ValueError("no category has a value under both protocols")
    rows = [*(name for name in lost.index if name != MEAN), *(name for name in lost.index if name == MEAN)]
    names = sorted(data.name[data.protocol == DIFFERENCE].unique())
    figure, axes = _panels(len(names), 4, 2.5, 0.7 + 0.24 * len(rows))
    low = data.value[data.protocol != DIFFERENCE].min()
    for axis, name, colour in zip(axes, names, _colours(names), strict=True):
        of_name = data[data.name == name].pivot(index="category", columns="protocol", values="cell")
        for height, category in enumerate(rows):
            cells = [of_name.at[category, p] if category in of_name.index else None for p in PROTOCOLS[:2]]
            found = [cell for cell in cells if isinstance(cell, Cell)]
            axis.plot([100 * c.mean for c in found], [height] * len(found), color=colour, lw=2.2, zorder=1)
            for cell, protocol in zip(cells, PROTOCOLS, strict=False):
                if isinstance(cell, Cell):
                    axis.errorbar(
                        [100 * cell.mean],
                        [height],
                        xerr=[100 * cell.std],
                        fmt="o",
                        ms=5,
                        color="#222222",
                        mfc="white" if protocol == "one_class" else "#222222",
                        lw=0.8,
                        label=protocol if category == rows[0] else None,
                    )
        axis.set(title=name, xlim=(low - 3, 101.5), ylim=(-0.6, len(rows) - 0.4))
        axis.set_yticks(range(len(rows)), rows)
        axis.set_axisbelow(True)
        axis.grid(axis="x", color="#dddddd", linewidth=0.6)
    _legend(figure, axes, PROTOCOLS[:2])
    return figure


def mixtures(data: pd.DataFrame) -> Figure:
    """How well mixtures of two categories are found, against the share of the category under test; whiskers over seeds.

    A panel for each protocol, a line for each variant.
    """
    data = data[[subset.startswith("mixup ") and bool(cell.values) for subset, cell in data[["subset", "cell"]].values]]
    if data.empty:
        raise ValueError("no mixture has been scored")
    ratio = data.subset.str.removeprefix("mixup ").astype(float)
    data = data.assign(name=labels(data[IDENTITY["variant"]]), ratio=ratio).sort_values("ratio")
    names, protocols = sorted(data.name.unique()), sorted(data.protocol.unique())
    figure, axes = _panels(len(protocols), 4, 3.2, 2.9)
    for axis, protocol in zip(axes, protocols, strict=True):
        for place, (name, colour) in enumerate(zip(names, _colours(names), strict=True)):
            rows = data[(data.protocol == protocol) & (data.name == name)]
            axis.errorbar(
                rows.ratio,
                [100 * cell.mean for cell in rows.cell],
                yerr=[100 * cell.std for cell in rows.cell],  # NaN with one seed, which draws no whisker
                color=colour,
                marker=MARKERS[place % len(MARKERS)],
                linestyle=DASHES[place % len(DASHES)],
                capsize=2.5,
                lw=1.3,
                label=name,
            )
        axis.axhline(50, color="#bbbbbb", lw=0.8, zorder=0)  # chance
        axis.set(title=protocol, xticks=sorted(data.ratio.unique()), ylim=(0, 103))
    figure.supxlabel("share of the category under test in the mixture", fontsize=9)
    figure.supylabel("percent", fontsize=9)
    _legend(figure, axes, names)
    return figure


def heat_map(data: pd.DataFrame) -> Figure:
    """Variants by category, a panel for each metric; every panel has its own scale. Empty cells stay white."""
    data = data.assign(name=labels(data[IDENTITY["variant"]]), panel=labels(data[IDENTITY["metric"]]))
    panels = list(dict.fromkeys(data.panel))
    names = sorted(data.name.unique())
    categories = sorted(data.category.unique(), key=lambda name: (name == MEAN, name))
    figure = Figure(
        figsize=(1.8 + 0.62 * len(categories), len(panels) * (0.9 + 0.34 * len(names))), layout="constrained"
    )
    axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True).ravel()
    for axis, panel in zip(axes, panels, strict=True):
        grid = data[data.panel == panel].pivot(index="name", columns="category", values="cell")
        grid = grid.reindex(index=names, columns=categories)
        values = 100 * grid.map(lambda cell: getattr(cell, "mean", np.nan)).astype(float)
        # From light to dark: the lower a value, the more it stands out, in print as on the screen.
        sns.heatmap(
            values,
            ax=axis,
            annot=True,
            fmt=".1f",
            cmap="cividis",
            linewidths=1.5,
            annot_kws={"fontsize": 8},
            cbar_kws={"pad": 0.01, "aspect": 8},
        )
        axis.set(title=fill(panel, 24), xlabel="", ylabel="")
        axis.tick_params(length=0)
        axis.set_yticks(axis.get_yticks(), names, rotation=0)
    axes[-1].set_xticks(axes[-1].get_xticks(), categories, rotation=40, ha="right", rotation_mode="anchor")
    return figure


def critical_difference(data: pd.DataFrame) -> Figure:
    """Mean rank over categories with its interval, a panel for each metric; bars join what no test tells apart."""
    data = data[data.quantity == "mean rank"]
    data = data.assign(panel=labels(data[IDENTITY["metric"]]))
    panels = list(dict.fromkeys(data.panel))
    count = data.groupby("panel").size().max()
    figure, axes = _panels(len(panels), 3, 3.6, 1.1 + 0.42 * count)
    for axis, panel in zip(axes, panels, strict=True):
        rows = data[data.panel == panel].sort_values("rank").reset_index(drop=True)
        whiskers = [rows["rank"] - rows.low, rows.high - rows["rank"]]
        axis.errorbar(rows["rank"], rows.index, xerr=whiskers, fmt="o", color="#222222", capsize=2.5, lw=1)
        joined = [rows.index[rows.variant.isin(alike)] for alike in rows.alike]
        # A clique runs from each variant down to the worst it is like, unless one above it reaches as far.
        reach = [(first, max(like)) for first, like in enumerate(joined)]
        cliques = [(a, b) for i, (a, b) in enumerate(reach) if b > a and all(b > other for _, other in reach[:i])]
        for place, (first, last) in enumerate(cliques):
            axis.plot([0.6 - 0.1 * place] * 2, [first, last], color="#222222", lw=3, solid_capstyle="butt")
        axis.set_yticks(rows.index, rows.variant)
        axis.set(title=fill(panel, 30), xlim=(0.4 - 0.1 * len(cliques), len(rows) + 0.2))
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.supxlabel("mean rank over categories, 1 is best", fontsize=9)
    return figure


def conventions(data: pd.DataFrame) -> Figure:
    """How the ranking of variants moves with the convention, a panel for each metric; crossing lines change places."""
    data = data.assign(name=labels(data[IDENTITY["variant"]]))
    names, panels = sorted(data.name.unique()), list(dict.fromkeys(data.metric))
    figure, axes = _panels(len(panels), 2, 4.2, 2.4 + 0.2 * len(names))
    for axis, metric in zip(axes, panels, strict=True):
        grid = data[data.metric == metric].pivot(index="convention", columns="name", values="rank")
        for place, (name, colour) in enumerate(zip(names, _colours(names), strict=True)):
            if name in grid:
                axis.plot(range(len(grid)), grid[name], marker=MARKERS[place % len(MARKERS)], color=colour,
                          linestyle=DASHES[place % len(DASHES)], label=name)  # fmt: skip
        axis.set_xticks(range(len(grid)), [fill(convention, 16) for convention in grid.index], fontsize=7)
        axis.set(title=METRICS.get(metric, metric), xlim=(-0.3, len(grid) - 0.7), ylim=(len(names) + 0.3, 0.7))
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.supylabel("rank, 1 is best", fontsize=9)
    _legend(figure, axes, names)
    return figure


def histograms(data: pd.DataFrame) -> Figure:
    """Image scores of normal and anomalous test images, a panel for each category, of the first seed."""
    data = data.sort_values("seed").drop_duplicates("category").sort_values("category")
    figure, axes = _panels(len(data), 4, 2.3, 2.0)
    colours = _colours(["normal", "anomalous"])
    for axis, row in zip(axes, data.to_dict("records"), strict=True):
        images = pd.DataFrame(row["details"]["images"])
        edges = np.histogram_bin_edges(images.score, bins=20).tolist()
        for kind, colour, hatch in ((False, colours[0], ""), (True, colours[1], "////")):
            axis.hist(
                images.score[images.anomalous == kind],
                edges,
                color=to_rgba(colour, 0.45),
                edgecolor=colour,
                hatch=hatch,
                histtype="stepfilled",
                linewidth=1.2,
                label="anomalous" if kind else "normal",
            )
        axis.set(title=f"{row['category']} (seed {row['seed']})")
        axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    figure.supxlabel("anomaly score", fontsize=9)
    figure.supylabel("test images", fontsize=9)
    _legend(figure, axes, ["normal", "anomalous"])
    return figure


def roc(data: pd.DataFrame) -> Figure:
    """Receiver operating characteristic over images, a panel for each category, a line for each variant and seed."""
    return _curves(data, "roc", "tpr", "false positive rate", "true positive rate")


def pro(data: pd.DataFrame) -> Figure:
    """Per-region overlap over the false positive rate of pixels, as far as the stored curve reaches."""
    return _curves(data, "pro", "pro", "false positive rate of pixels", "per-region overlap")


def _curves(data: pd.DataFrame, kind: str, upward: str, xlabel: str, ylabel: str) -> Figure:
    data = data[[kind in details.get("curves", {}) for details in data.details]]
    if data.empty:
        raise ValueError(f"no category has a stored {kind.upper()} curve")
    names, categories = sorted(data.variant.unique()), sorted(data.category.unique())
    figure, axes = _panels(len(categories), 4, 2.3, 2.3)
    for axis, category in zip(axes, categories, strict=True):
        furthest = 0.0
        for place, (name, colour) in enumerate(zip(names, _colours(names), strict=True)):
            rows = data[(data.category == category) & (data.variant == name)].sort_values("seed")
            for label, row in zip([name, *[None] * len(rows)], rows.to_dict("records"), strict=False):
                curve = row["details"]["curves"][kind]
                furthest = max(furthest, *curve["fpr"])
                axis.plot(
                    curve["fpr"],
                    curve[upward],
                    color=colour,
                    linestyle=DASHES[place % len(DASHES)],
                    lw=1.3,
                    label=label,
                )
        if kind == "roc":
            axis.plot([0, 1], [0, 1], color="#bbbbbb", lw=0.8, zorder=0)  # chance
        axis.set(title=category, xlim=(-0.01 * furthest, furthest * 1.01), ylim=(-0.01, 1.02))
    figure.supxlabel(xlabel, fontsize=9)
    figure.supylabel(ylabel, fontsize=9)
    _legend(figure, axes, names)
    return figure


def losses(data: pd.DataFrame) -> Figure:
    """Loss terms by epoch, a panel for each variant and phase of its training; mean and deviation over its runs."""
    data = data[data.value > 0]
    # A phase other than the last one, such as the amplification of a teacher, has a panel of its own.
    panels = list(data.groupby(["variant", "phase"]))
    figure, axes = _panels(len(panels), 3, 3.2, 2.7)
    for axis, (key, part) in zip(axes, panels, strict=True):
        sns.lineplot(part, x="epoch", y="value", hue="name", style="name", errorbar="sd", palette="colorblind", ax=axis)
        axis.set(title=" · ".join(str(part) for part in key if part), yscale="log", xlabel="", ylabel="")
        axis.legend(fontsize=6, title=None, ncols=1 + (part.name.nunique() > 4))
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel("weighted loss term", fontsize=9)
    return figure


def trajectory(data: pd.DataFrame) -> Figure:
    """What was measured on the test images while training: the last epoch, which counts, beside the best, a diagnostic.

    A panel for each metric, a line for each variant: mean and deviation over its runs.
    """
    panels = list(data.groupby("name", sort=False))
    figure, axes = _panels(len(panels), 3, 3.2, 2.9)
    for axis, (metric, part) in zip(axes, panels, strict=True):
        named = {}
        for variant, rows in part.groupby("variant"):
            runs = rows.pivot(index="epoch", columns=["split", "seed"], values="value").sort_index()
            named[variant] = f"{variant}: last {100 * runs.iloc[-1].mean():.1f}, best {100 * runs.max().mean():.1f}"
        shown = part.assign(run=part.variant.map(named), percent=100 * part.value)
        sns.lineplot(shown, x="epoch", y="percent", hue="run", style="run", markers=True, errorbar="sd",
                     palette="colorblind", ax=axis)  # fmt: skip
        axis.set(title=METRICS.get(str(metric), str(metric)), xlabel="", ylabel="")
        axis.legend(fontsize=7, title=None)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel("percent, mean over splits and seeds", fontsize=9)
    return figure


def qualitative(data: pd.DataFrame) -> Figure:
    """The same test images for every variant: image, truth, and each variant's map, of its first seed.

    A column of maps has one scale, from its lowest to its highest value over the shown images, so that a normal image
    looks calm only if the method finds it calm.
    """
    data = data.sort_values(["variant", "seed"]).drop_duplicates("variant")
    stored = {row["variant"]: _arrays(row["arrays"]) for row in data.to_dict("records") if row["arrays"]}
    if not stored:
        raise ValueError("no example images are stored")
    common = set.intersection(*({str(key) for key in arrays["keys"]} for arrays in stored.values()))
    keys = [str(key) for key in next(iter(stored.values()))["keys"] if str(key) in common]
    if not keys:
        raise ValueError(f"the variants {', '.join(stored)} share no example image")
    size = 1.35
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    figure = Figure(figsize=(size * (2 + len(stored)) + 0.2, (size + 0.05) * len(keys) + 0.4), layout=layout)
    axes = figure.subplots(len(keys), 2 + len(stored), squeeze=False)
    first = next(iter(stored.values()))
    for down, key in enumerate(keys):
        at = [str(other) for other in first["keys"]].index(key)
        axes[down, 0].imshow(first["images"][at])
        axes[down, 1].imshow(first["truth"][at], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        for across, arrays in enumerate(stored.values(), start=2):
            shown = [str(other) for other in arrays["keys"]]
            maps = arrays["maps"][[shown.index(other) for other in keys]]
            axes[down, across].imshow(maps[down], cmap="inferno", vmin=float(maps.min()), vmax=float(maps.max()))
        axes[down, 0].set_ylabel("\n".join(key.split("/")[-2:]), fontsize=7)
    for axis, title in zip(axes[0], ["image", "truth", *stored], strict=True):
        axis.set_title(title)
    for axis in axes.ravel():
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return figure


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in ("keys", "images", "truth", "maps")}


def _legend(figure: Figure, axes: Sequence[Axes], names: Sequence[str]) -> None:
    found = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    shown = [name for name in names if name in found]
    # As many columns as the figure is wide; a legend wider than it would squeeze the panels.
    columns = max(1, min(len(shown), 6, int(figure.get_figwidth() * 14 // (5 + max(map(len, shown), default=0)))))
    figure.legend([found[name] for name in shown], shown, loc="outside upper center", ncols=columns, handlelength=2.8)
