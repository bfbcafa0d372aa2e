"""Bringing anomaly maps and masks to the size at which they are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Size: TypeAlias = tuple[int, int]  # (H, W)
Maps: TypeAlias = NDArray[np.floating] | Sequence[NDArray[np.floating]]  # (N, H, W), or N maps (H, W)
MaskRule: TypeAlias = Literal["mask>0", "mask>0.5", "mask>0 not antialiased", "mask>0.5 nearest"]


def fit_maps(maps: NDArray[np.float32], sizes: Sequence[Size]) -> Maps:
    """Bring the anomaly maps of a category each to a size of its own; unchanged where all have it already.

    Args:
        maps: (N, h, w).
        sizes: N sizes (H, W).

    Returns:
        N maps (H, W), each resized when it is read: at native size those of a category may take gigabytes.
    """
    return maps if all(size == maps.shape[1:] for size in sizes) else _ResizedMaps(maps, sizes)


def fit_map(one: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """Resize one anomaly map (h, w) bilinearly to (H, W), with antialiasing where it shrinks.

    >>> fit_map(np.array([[0, 1]], np.float32), (1, 4))
    array([[0.  , 0.25, 0.75, 1.  ]], dtype=float32)
    """
    if one.shape == size:
        return one
    return np.asarray(Image.fromarray(one.astype(np.float32, copy=False)).resize(size[::-1], Image.Resampling.BILINEAR))


class _ResizedMaps(Sequence[NDArray[np.floating]]):
    def __init__(self, maps: NDArray[np.float32], sizes: Sequence[Size]) -> None:
        self._maps, self._sizes = maps, sizes

    def __len__(self) -> int:
        return len(self._maps)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # Sequence wants slices too, which nothing takes
        return fit_map(self._maps[index], self._sizes[index])


def fit_masks(masks: Sequence[NDArray[np.bool_]], sizes: Sequence[Size], rule: MaskRule) -> list[NDArray[np.bool_]]:
    """Bring native masks each to a size of its own; a mask that has it already is not changed.

    A mask is 0 without and 1 with a defect. The rules:

    - `mask>0`: bilinear with antialiasing, above 0. Every pixel that a defect touches counts: none is lost (up to a
      shrink of about 20 to 1, where a single pixel rounds to 0), and each is dilated by about a pixel.
    - `mask>0.5`: the same resize, above 0.5, as in the official code of RD. A defect roughly keeps its area, and one
      smaller than an evaluation pixel vanishes.
    - `mask>0 not antialiased`: `cv2.resize` with its default, bilinear without antialiasing, above 0, as in the
      official code of STFPM. It reads the nearest four pixels alone: it dilates less, and may miss a small defect.
    - `mask>0.5 nearest`: the nearest pixel, as in the official code of AAND.

    Args:
        masks: N arrays (H, W) bool; sizes may differ.
        sizes: N sizes (h, w).

    >>> mask = np.zeros((4, 4), bool)
    >>> mask[0, 1] = True
    >>> {rule: int(fit_masks([mask], [(2, 2)], rule)[0].sum()) for rule in MASK_RULES}
    {'mask>0': 2, 'mask>0.5': 0, 'mask>0 not antialiased': 1, 'mask>0.5 nearest': 0}
    """
    return [_fit_mask(mask, size, rule) for mask, size in zip(masks, sizes, strict=True)]


def _fit_mask(mask: NDArray[np.bool_], size: Size, rule: MaskRule) -> NDArray[np.bool_]:
    if mask.shape == size:
        return mask
    return MASK_RULES[rule](mask, size) if mask.any() else np.zeros(size, bool)


def _pillow(mask: NDArray[np.bool_], size: Size, resampling: Image.Resampling) -> NDArray[np.uint8]:
    """Resized on 8 bits, (h, w), as torchvision does it in the official code of RD and AAND."""
    return np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size[::-1], resampling))


def _opencv(mask: NDArray[np.bool_], size: Size) -> NDArray[np.bool_]:
    """Where `cv2.resize(mask, size)` of a mask of 0 and 255 is not 0: the same fixed-point arithmetic, bit for bit.

    It decides which weights are so small that they round to 0.
    """
    (rows, down), (columns, across) = (_taps(old, new) for old, new in zip(mask.shape, size, strict=True))
    grey = mask.astype(np.int32) * 255  # (H, W)
    narrowed = grey[:, columns[0]] * across[0] + grey[:, columns[1]] * across[1]  # (H, w)
    value = sum((narrowed[row] >> 4) * weight[:, None] >> 16 for row, weight in zip(rows, down, strict=True))  # (h, w)
    return value >= 2  # OpenCV divides by 4 and rounds


def _taps(old: int, new: int) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """Along one axis: the two source pixels next to each target pixel, and their weights of 2048; (2, new) each."""
    place = ((np.arange(new) + 0.5) * (1 / (new / old)) - 0.5).astype(np.float32)
    first = np.floor(place)
    share = place - first
    weights = np.rint(np.stack([np.float32(1) - share, share]) * 2048)
    return np.clip(np.stack([first, first + 1]), 0, old - 1).astype(np.intp), weights.astype(np.int32)


MASK_RULES: dict[MaskRule, Callable[[NDArray[np.bool_], Size], NDArray[np.bool_]]] = {
    "mask>0": lambda mask, size: _pillow(mask, size, Image.Resampling.BILINEAR) > 0,
    "mask>0.5": lambda mask, size: _pillow(mask, size, Image.Resampling.BILINEAR) > 0.5 * 255,
    "mask>0 not antialiased": _opencv,
    "mask>0.5 nearest": lambda mask, size: _pillow(mask, size, Image.Resampling.NEAREST) > 0.5 * 255,
}
