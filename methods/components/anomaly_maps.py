"""From feature distances to anomaly maps."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor
from torch.nn import functional as F


def cosine_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """1 - cos over channels at each position.

    Args:
        teacher, student: feature maps of one level, (B, C, h, w).

    Returns:
        (B, h, w) in [0, 2].
    """
    return 1 - F.cosine_similarity(teacher, student, dim=1)


def resize(maps: Tensor, size: int, *, align_corners: bool, sigma: float = 0.0) -> Tensor:
    """Bilinear resizing to a square, then Gaussian blur, as two small matrix products.

    Both steps are linear and separable, so that together they are A d A^T with one matrix A per pair of sizes.
    Equal to `F.interpolate(mode="bilinear")` followed by `scipy.ndimage.gaussian_filter(sigma)` to float32 rounding.

    Args:
        maps: (B, h, w).
        size: side of the result in pixels.
        align_corners: as in `F.interpolate`.
        sigma: standard deviation of the blur in pixels of the result; 0: none.

    Returns:
        (B, size, size).
    """
    rows = _resize_matrix(maps.shape[-2], size, align_corners, sigma).to(maps)  # (size, h)
    columns = _resize_matrix(maps.shape[-1], size, align_corners, sigma).to(maps)  # (size, w)
    return rows @ maps @ columns.T


def mean_and_deviation(batches: Iterable[Tensor]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of K kinds of maps, each over all pixels of all images.

    Args:
        batches: (K, B, s, s) each; they are not kept.

    Returns:
        K means and K deviations; both empty if there is no batch.
    """
    sums = [
        torch.stack([torch.ones_like(maps), maps, maps.square()]).sum((2, 3, 4))  # (3, K)
        for maps in (batch.double() for batch in batches)
    ]
    if not sums:
        return [], []
    count, total, squares = torch.stack(sums).sum(0)
    mean = total / count
    return mean.tolist(), (squares / count - mean.square()).clamp_min(0).sqrt().tolist()


@lru_cache
def _resize_matrix(source: int, target: int, align_corners: bool, sigma: float) -> Tensor:
    unit = torch.eye(source, dtype=torch.float64)[None]  # (1, source, source): each unit vector is one channel
    matrix = F.interpolate(unit, target, mode="linear", align_corners=align_corners)[0].T.numpy()  # (target, source)
    if sigma:
        matrix = gaussian_filter1d(matrix, sigma, axis=0)  # its defaults are gaussian_filter's: reflect, truncate 4
    return torch.from_numpy(np.ascontiguousarray(matrix))
