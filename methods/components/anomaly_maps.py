"""From feature distances to anomaly maps."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor
from torch.nn import functional as F

BLUR = 4.0  # standard deviation of the Gaussian blur in pixels, RD's (hq-deng/RD4AD @6554076, test.py)


def cosine_distance(teacher_features: Tensor, student_features: Tensor) -> Tensor:
    """1 - cos over channels at each position.

    Args:
        teacher_features, student_features: feature maps of one level, (B, C, h, w).

    Returns:
        (B, h, w) in [0, 2].

    >>> features = torch.tensor([[1.0, 1.0], [0.0, 1.0]]).view(1, 2, 1, 2)  # (1, 0) and (1, 1)
    >>> cosine_distance(features, features[:, :1].expand(1, 2, 1, 2)).round(decimals=2)
    tensor([[[0.2900, 0.0000]]])
    """
    return 1 - F.cosine_similarity(teacher_features, student_features, dim=1)


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

    >>> resize(torch.tensor([[[0.0, 2.0], [0.0, 2.0]]]), 3, align_corners=True)
    tensor([[[0., 1., 2.],
             [0., 1., 2.],
             [0., 1., 2.]]])
    """
    rows = _resize_matrix(maps.shape[-2], size, align_corners, sigma).to(maps)  # (size, h)
    columns = _resize_matrix(maps.shape[-1], size, align_corners, sigma).to(maps)  # (size, w)
    return rows @ maps @ columns.T


@lru_cache
def _resize_matrix(source: int, target: int, align_corners: bool, sigma: float) -> Tensor:
    unit = torch.eye(source, dtype=torch.float64)[None]  # (1, source, source): each unit vector is one channel
    matrix = F.interpolate(unit, target, mode="linear", align_corners=align_corners)[0].T.numpy()  # (target, source)
    if sigma:
        matrix = gaussian_filter1d(matrix, sigma, axis=0)  # its defaults are gaussian_filter's: reflect, truncate 4
    return torch.from_numpy(np.ascontiguousarray(matrix))


def mean_and_deviation(batches: Iterable[Tensor]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of K kinds of maps, each over all pixels of all images.

    Args:
        batches: (K, B, s, s) each; consumed one at a time.

    Returns:
        K means and K deviations; both empty if there is no batch.

    >>> means, deviations = mean_and_deviation([torch.tensor([[[[0.0, 2.0]]]]), torch.tensor([[[[1.0, 1.0]]]])])
    >>> means, [round(deviation, 4) for deviation in deviations]
    ([1.0], [0.7071])
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
