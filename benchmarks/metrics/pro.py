"""AUPRO and sPRO under a convention: exact, and as two official codes compute PRO, for comparison with old tables."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.conventions import CONVENTIONS, Convention, Pro
from benchmarks.metrics.detection import UndefinedMetric, rank
from benchmarks.metrics.localization import DefectRegions, Pixels, pooled_pro


def aupro(pixels: Pixels, convention: Convention = CONVENTIONS["default"]) -> float:
    """Area under the PRO curve as a convention computes it, in [0, 1]. Errors as the function that does.

    >>> from benchmarks.metrics.localization import prepare
    >>> mask = np.array([[True, False, True, True]])
    >>> aupro(Pixels(np.array([[[4.0, 3.0, 2.0, 1.0]]]), prepare([mask])))
    0.5
    """
    return _AREAS[convention.pro](pixels, convention.fpr_limit)


def spro(pixels: Pixels, convention: Convention = CONVENTIONS["loco"]) -> float:
    """Area under the sPRO curve, in [0, 1], with ground truth from `prepare_regions`. Errors as `Pixels.split`.

    >>> from benchmarks.metrics.localization import prepare_regions
    >>> mask = np.array([[True, True, True, False]])
    >>> truth = prepare_regions([[(mask, 2)]], [(1, 4)])  # two pixels of the three are enough
    >>> spro(Pixels(np.array([[[4.0, 3.0, 1.0, 2.0]]]), truth))
    1.0
    """
    return pooled_pro(pixels, convention.fpr_limit)


def per_image_pro(pixels: Pixels, limit: float = 0.3) -> float:
    """PRO as the official code of Reverse Distillation computes it (hq-deng/RD4AD, `compute_pro`), for old tables.

    For each image with a region: 200 equidistant thresholds from the map's smallest value to below its largest,
    those with FPR < `limit`, their FPR divided by the largest one kept, trapezoidal rule. Then the mean over these
    images. Normal images never enter, and thresholds make it depend on the scale of the scores. In [0, 1].

    Raises:
        UndefinedMetric: no image has a region, or an image keeps fewer than two thresholds or none with FPR > 0, where
            the official code fails.
        ValueError: as `Pixels.split`.

    >>> from benchmarks.metrics.localization import prepare
    >>> rising = np.linspace(0, 1, 1000).reshape(20, 50)
    >>> per_image_pro(Pixels([rising], prepare([rising > 0.9])))
    1.0
    """
    values = []
    for image, one in enumerate(pixels.checked()):
        truth = _one_image(pixels.truth, image)
        if len(truth.defect) == 0:
            continue
        if len(truth.defect) == one.size:
            raise UndefinedMetric(f"no defect-free pixel in image {image}")
        fpr, pro = _sweep(Pixels([one], truth), 200, rising=True)
        fpr, pro = fpr[fpr < limit], pro[fpr < limit]
        if len(fpr) < 2 or not fpr.any():
            raise UndefinedMetric(f"the thresholds of image {image} span no curve between FPR 0 and {limit}")
        values.append(-np.trapezoid(pro, fpr / fpr.max()))  # the FPR falls as the threshold rises
    if not values:
        raise UndefinedMetric("no defect pixel in the test set")
    return min(float(np.mean(values)), 1.0)  # rounding can exceed 1


def rescaled_pro(pixels: Pixels, limit: float = 0.3) -> float:
    """PRO as the official code of STFPM computes it (gdwang08/STFPM, `evaluate.py`), for old tables.

    Pooled over all images: 4000 equidistant thresholds, those with FPR <= `limit`, both axes rescaled to [0, 1] by
    their smallest and largest kept values (which inflates the result), trapezoidal rule. In [0, 1].

    Raises:
        UndefinedMetric: no defect or no defect-free pixel, or too few thresholds kept to rescale an axis.
        ValueError: as `Pixels.split`.

    >>> from benchmarks.metrics.localization import prepare
    >>> rising = np.linspace(0, 1, 1000)[None]
    >>> mask = (rising > 0.95) | (abs(rising - 0.6) < 0.02)  # the second region lies beyond FPR 0.3
    >>> pixels = Pixels([rising], prepare([mask]))
    >>> round(pooled_pro(pixels), 6), round(rescaled_pro(pixels), 6)
    (0.5, 1.0)
    """
    fpr, pro = _sweep(pixels, 4000, rising=False)
    fpr, pro = fpr[fpr <= limit], pro[fpr <= limit]
    if len(fpr) == 0 or np.ptp(fpr) == 0 or np.ptp(pro) == 0:
        raise UndefinedMetric(f"PRO and FPR cannot be rescaled: they are constant below FPR {limit}")
    return min(float(np.trapezoid((pro - pro.min()) / np.ptp(pro), (fpr - fpr.min()) / np.ptp(fpr))), 1.0)


_AREAS: dict[Pro, Callable[[Pixels, float], float]] = {
    "pooled": pooled_pro,
    "per_image": per_image_pro,
    "rescaled": rescaled_pro,
}


def _sweep(pixels: Pixels, count: int, rising: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False-positive rate and mean PRO of the pixels strictly above each of `count` thresholds, (count,) each.

    The thresholds go in equal steps from the smallest score to below the largest, or from the largest to above the
    smallest. Which end is left out shows in the result, so it is as in the official code.
    """
    positives, negatives = pixels.split()
    pixels.ranking = rank(positives, negatives)  # spares the weights a sort of their own
    gained = np.append(0.0, np.cumsum(pixels.weights))  # (D + 1,)
    scores = pixels.ranking.scores
    low, high = float(min(scores[-1], negatives[0])), float(max(scores[0], negatives[-1]))
    steps = np.arange(count) * ((high - low) / count)
    thresholds = (low + steps if rising else high - steps).astype(negatives.dtype)
    fpr = 1 - np.searchsorted(negatives, thresholds, side="right") / len(negatives)
    above = len(scores) - np.searchsorted(scores[::-1], thresholds, side="right")
    return fpr, gained[above]


def _one_image(truth: DefectRegions, image: int) -> DefectRegions:
    """The ground truth of one image alone."""
    first, end = truth.starts[image : image + 2]
    start, stop = np.searchsorted(truth.defect, (first, end))
    own = (truth.member >= start) & (truth.member < stop)
    kept, region = np.unique(truth.region[own], return_inverse=True)
    return DefectRegions(
        truth.sizes[image : image + 1],
        truth.defect[start:stop] - first,
        truth.member[own] - start,
        region,
        truth.saturation[kept],
    )
