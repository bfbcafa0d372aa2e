"""Probes of cross-class interference: images that combine two categories of a data set.

A model trained on many categories may accept in one category what is normal only in another. SNL (Deng & Li, 2024,
arXiv 2402.17091) calls this cross-class interference, and shows it by mixtures of two categories (figure 2b: hazelnut
and screw) and by a patch of one on another (figure 2c: cable on wood). The paper's ratios, positions and numbers of
images could not be read; they are ours, and entries of `params.yaml`.

- `mixup`: ratio * A + (1 - ratio) * B, pixel by pixel.
- `cut_paste`: a rectangle of B at a random position in A. It comes from B's central half, so that it shows the object.

A and B are normal test images; B is of another category than A and resized to A's size. All random choices follow from
the category, the kind and the probe's number alone: all variants, protocols and seeds use the same probes, all ratios
the same images, and a larger number of probes includes those of a smaller one.
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
    """How one probe is composed; `sample` composes it."""

    key: str  # "bottle/mixup/0.3/007": category, kind, ratio, number
    kind: Literal["mixup", "cut_paste"]
    ratio: float  # the share of A in a mixture; the sides of the patch as a share of the image's
    a: Item
    b: Item
    position: tuple[float, float, float, float]  # of the patch: y and x in A, y and x in B's centre; each in [0, 1)


def check(dataset: Dataset) -> None:
    """Make sure that the data set can provide probes.

    Raises:
        InputError: it has only one category, or a category has no normal test image.
    """
    if len(dataset.categories) < 2:
        raise InputError(
            f"params.yaml: `interference` mixes categories, but {dataset.name()} has only {dataset.categories[0]!r} "
            "here. Use more of its categories, or remove `interference`."
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
    result = []
    for kind, ratio in settings:
        for number in range(images):
            random = np.random.default_rng(zlib.crc32(f"{category}/{kind}/{number}".encode()))
            candidates = normal[others[random.integers(len(others))]]
            b = candidates[random.integers(len(candidates))]
            a = normal[category][number % len(normal[category])]
            y, x, y_in_b, x_in_b = random.random(4).tolist()
            key = f"{category}/{kind}/{ratio}/{number:03}"
            result.append(Probe(key, kind, ratio, a, b, (y, x, y_in_b, x_in_b)))
    return result


def sample(dataset: Dataset, probe: Probe) -> Sample:
    """A probe as a method receives it: its key looks like a test image's. The image is composed when it is read."""
    key = opaque_key(probe.a._replace(key=probe.key))
    return Sample(key, probe.a.category, partial(_compose, probe, dataset.sample(probe.a), dataset.sample(probe.b)))


def mask(dataset: Dataset, probe: Probe) -> np.ndarray:
    """Where the patch lies, (H, W) bool at A's native size. Only scoring may read it."""
    patch = np.zeros(image_size(probe.a.image), dtype=bool)
    patch[_box(probe, *patch.shape)] = True
    return patch


def _box(probe: Probe, height: int, width: int) -> tuple[slice, slice]:
    y, x = probe.position[:2]
    return _interval(height, probe.ratio, y, 0), _interval(width, probe.ratio, x, 0)


def _interval(side: int, share: float, position: float, margin: int) -> slice:
    """This share of a side, at a position in [0, 1) between the margins at both ends."""
    length = max(1, int(share * side))
    start = margin + int(position * (side - 2 * margin - length + 1))
    return slice(start, start + length)


def _compose(probe: Probe, a: Sample, b: Sample) -> Tensor:
    # Pillow's resize and NumPy's float64 give the same bits on every machine.
    first, second = (sample.image.permute(1, 2, 0).numpy().copy() for sample in (a, b))  # (H, W, 3) uint8
    height, width = first.shape[:2]
    second = np.asarray(Image.fromarray(second).resize((width, height), Image.Resampling.BILINEAR))  # (H, W, 3)
    if probe.kind == "mixup":
        first = np.rint(probe.ratio * first + (1 - probe.ratio) * second).astype(np.uint8)
    else:
        y, x = probe.position[2:]
        rows, columns = _interval(height, probe.ratio, y, height // 4), _interval(width, probe.ratio, x, width // 4)
        first[_box(probe, height, width)] = second[rows, columns]
    return torch.from_numpy(first).permute(2, 0, 1).contiguous()  # (3, H, W)


def _normal(dataset: Dataset, category: str) -> list[Item]:
    return sorted((item for item in dataset.items(category, "test") if item.defect == "good"), key=opaque_key)
