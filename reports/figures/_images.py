"""Images beside each variant's anomaly maps of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from reports.figures._style import WIDTH


class Example(NamedTuple):
    """A test image, (h, w, 3) uint8; its ground truth, (h, w) bool; and its map, (h, w), empty if not stored."""

    image: np.ndarray
    truth: np.ndarray
    anomaly_map: np.ndarray


def examples(paths: Iterable[Path]) -> dict[str, Example]:
    """The examples in these files, by key: see `results/README.md`."""
    stored_examples: dict[str, Example] = {}
    for path in paths:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        maps = arrays.get("maps", np.empty((len(arrays["keys"]), 0, 0)))
        for key, *parts in zip(arrays["keys"], arrays["images"], arrays["truth"], maps, strict=True):
            stored_examples[str(key)] = Example(*parts)
    return stored_examples


def grid(
    rows: Sequence[tuple[str, Example]],
    maps: Mapping[str, np.ndarray],
    under: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """A row for each example, with its name at the left: image, truth, and a column of maps for each variant.

    A column has one scale, from its lowest to its highest value: the maps of normal images should be dark.

    Args:
        rows: name and example.
        maps: by variant, (rows, h, w).
        under: by variant, what to print under each map.
    """
    columns = ["image", "truth", *maps]
    size = max((WIDTH - 0.7) / max(len(columns), 6), 0.6)  # inches; with very many variants wider than a page
    layout = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    figure = Figure(figsize=(size * len(columns) + 0.7, (size + 0.17 * bool(under)) * len(rows) + 0.6), layout=layout)
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for down, (name, example) in enumerate(rows):
        axes[down, 0].imshow(example.image)
        axes[down, 1].imshow(example.truth, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes[down, 0].set_ylabel(name, fontsize=6.5)
        for axis, (variant, of) in zip(axes[down, 2:], maps.items(), strict=True):
            axis.imshow(of[down], cmap="inferno", vmin=float(of.min()), vmax=float(of.max()))
            axis.set_xlabel(under[variant][down] if under else "", fontsize=6.5, labelpad=1.5)
    for axis, name in zip(axes[0], columns, strict=True):
        axis.set_title(fill(name.replace("_", " "), 12).replace("\n", "_\n").replace(" ", "_"), fontsize=7)
    for axis in axes.ravel():
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return figure
