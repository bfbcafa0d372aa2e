"""Probes of cross-class interference: images that show two categories of a data set at once.

A model that learnt many categories may take for normal what is normal in none of them, because it is normal in
another: SNL (Deng & Li, 2024, arXiv:2402.17091) calls it cross-class interference, and shows it by mixtures of two
categories (Fig. 2b: hazelnut and screw) and by a patch of one on another (Fig. 2c: cable on wood). Ratios, places and
numbers of images were not to be had from the paper, so they are ours, and entries of `params.yaml`.

- `mixup`: ratio * A + (1 - ratio) * B, pixel by pixel.
- `cut_paste`: a rectangle out of B on A at a random place. B's central half gives it, so that it shows the object.

A and B are normal test images, B of another category than A and brought to A's size. Every draw follows from the
category, the kind and the probe's number alone: all variants, protocols and seeds see the same probes, all ratios the
same pairs, and asking for more probes adds to those there were.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.datasets._files import image_size
from benchmarks.datasets.base import Dataset, Item, opaque_key
from methods.base import InputError, Sample


class Probe(NamedTuple):
    """How one probe is made; `sample` makes it."""

    key: str  # "bottle/mixup/0.3/007": category, kind, ratio, number
    kind: Literal["mixup", "cut_paste"]
    ratio: float  # the share of A in a mixture; the sides of the patch as a share of the image's
    a: Item
    b: Item
    place: tuple[float, float, float, float]  # of the patch, down and across, on A and in B's centre; each in [0, 1)


def check(dataset: Dataset) -> None:
    """Look whether probes can be made.

    Raises:
        InputError: the data set has one category, or a category has no normal test image.
    """
    if len(dataset.categories) < 2:
        raise InputError(
            f"params.yaml: `interference` mixes categories, but {dataset.name()} has only {dataset.categories[0]!r} "
            "here. Take more categories of it, or remove `interference`."
        )
    for category in dataset.categories:
        if not _normal(dataset, category):
            raise InputError(
                f"params.yaml: `interference` mixes normal test images, but {dataset.root / category} has none. "
                "Add some, leave the category out, or remove `interference`."
            )


def probes(dataset: Dataset, category: str, ratios: Sequence[float], patch: float, images: int) -> list[Probe]:
    """The probes of a category: `images` with a patch of this share of the sides, then `images` mixtures per ratio."""
    settings: list[tuple[Literal["mixup", "cut_paste"], float]] = [("cut_paste", patch)]
    settings += [("mixup", ratio) for ratio in ratios]
    normal = {name: _normal(dataset, name) for name in sorted(dataset.categories)}
    others = [name for name in normal if name != category]
    drawn = []
    for kind, ratio in settings:
        for number in range(images):
            random = np.random.default_rng(zlib.crc32(f"{category}/{kind}/{number}".encode()))
            of_other = normal[others[random.integers(len(others))]]
            b = of_other[random.integers(len(of_other))]
            a = normal[category][number % len(normal[category])]
            down, across, from_down, from_across = random.random(4).tolist()
            key = f"{category}/{kind}/{ratio}/{number:03}"
            drawn.append(Probe(key, kind, ratio, a, b, (down, across, from_down, from_across)))
    return drawn


def sample(dataset: Dataset, probe: Probe) -> Sample:
    """What a method may see of a probe: its key looks like a test image's. It is composed when it is read."""
    key = opaque_key(probe.a._replace(key=probe.key))
    return Sample(key, probe.a.category, partial(_compose, probe, dataset.sample(probe.a), dataset.sample(probe.b)))


def mask(dataset: Dataset, probe: Probe) -> np.ndarray:
    """Where the patch lies, (H, W) bool at A's native size. Only `benchmarks.score` reads it."""
    patch = np.zeros(image_size(probe.a.image), dtype=bool)
    patch[_box(probe, *patch.shape)] = True
    return patch


def _box(probe: Probe, height: int, width: int) -> tuple[slice, slice]:
    down, across = probe.place[:2]
    return _span(height, probe.ratio, down, 0), _span(width, probe.ratio, across, 0)


def _span(side: int, share: float, at: float, margin: int) -> slice:
    """This share of a side, `at` of the way from its one margin to the other."""
    length = max(1, int(share * side))
    start = margin + int(at * (side - 2 * margin - length + 1))
    return slice(start, start + length)


def _compose(probe: Probe, a: Sample, b: Sample) -> Tensor:
    # Pillow's resize and NumPy's float64 give the same bits on every machine.
    first, other = (sample.image.permute(1, 2, 0).numpy().copy() for sample in (a, b))  # (H, W, 3) uint8
    height, width = first.shape[:2]
    second = np.asarray(Image.fromarray(other).resize((width, height), Image.Resampling.BILINEAR))  # (H, W, 3)
    if probe.kind == "mixup":
        first = np.rint(probe.ratio * first + (1 - probe.ratio) * second).astype(np.uint8)
    else:
        down, across = probe.place[2:]
        rows, columns = _span(height, probe.ratio, down, height // 4), _span(width, probe.ratio, across, width // 4)
        first[_box(probe, height, width)] = second[rows, columns]
    return torch.from_numpy(first).permute(2, 0, 1).contiguous()  # (3, H, W)


def _normal(dataset: Dataset, category: str) -> list[Item]:
    return sorted((item for item in dataset.items(category, "test") if item.defect == "good"), key=opaque_key)
