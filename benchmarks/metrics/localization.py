"""Localization metrics: how well anomaly maps show where the defects lie. Exact, and fast.

Defect pixels are few. So the defect-free pixels of all test images are sorted once, by value alone (a sort without
indices is several times faster than an argsort), and the defect pixels are placed among them by binary search. What
depends on the ground truth only is prepared once a category. AUPRO is sPRO with each region's area as its saturation,
so both run through the same code:

- PRO (Bergmann et al., MVTec AD, IJCV 2021, section 5.2): mean over regions of the share of the region above the
  threshold; regions are 8-connected components of each image's mask.
- sPRO (Bergmann et al., MVTec LOCO AD, IJCV 2022, section 4): the same with min(overlap / saturation, 1).

The area under either is taken over the false-positive rate of the pixels of no region, of all images together, up to
a limit, and divided by the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.metrics.detection import Ranking, UndefinedMetric, rank


class GroundTruth(NamedTuple):
    """Where the defect regions of all test images lie, prepared for scoring. Regions may overlap.

    Attributes:
        shape: (N, H, W) of the maps that it belongs to.
        defect: (D,) positions, in the flattened maps, of the pixels of any region; rising.
        member: (E,) one entry for each pixel of each region: its index in `defect`.
        region: (E,) the region of that entry, 0 to R - 1.
        saturation: (R,) overlap in pixels that counts as full detection.
    """

    shape: tuple[int, int, int]
    defect: NDArray[np.intp]
    member: NDArray[np.intp]
    region: NDArray[np.intp]
    saturation: NDArray[np.float64]


class PixelMetrics(TypedDict):
    """What one sort yields; `aupro` maps each FPR limit to its value."""

    pixel_auroc: float
    pixel_ap: float
    pixel_f1_max: float
    aupro: dict[float, float]


def prepare(masks: NDArray[np.bool_]) -> GroundTruth:
    """Ground truth for AUPRO and the pixel metrics: the 8-connected components of each image's mask.

    Args:
        masks: (N, H, W) bool, True where there is a defect; all False for a normal image.

    Raises:
        ValueError: the masks are not (N, H, W) bool.
    """
    if masks.ndim != 3 or masks.dtype != bool:
        raise ValueError(f"masks must be (N, H, W) bool, not {masks.shape} {masks.dtype}")
    region, regions = [np.empty(0, np.intp)], 0
    for mask in masks:
        if mask.any():
            labels, count = ndimage.label(mask, structure=np.ones((3, 3)))  # (H, W) from 1; 0 is no defect
            region.append(labels[mask].astype(np.intp) + (regions - 1))
            regions += count
    joined = np.concatenate(region)  # (D,)
    area = np.bincount(joined, minlength=regions).astype(np.float64)  # (R,)
    return GroundTruth(masks.shape, np.flatnonzero(masks), np.arange(len(joined)), joined, area)


def prepare_regions(regions: Sequence[Sequence[tuple[NDArray[np.bool_], float]]], size: tuple[int, int]) -> GroundTruth:
    """Ground truth for sPRO: annotated regions with saturation thresholds.

    Args:
        regions: for each image its regions, each a mask (H, W) bool and a saturation in pixels; none if it is normal.
        size: (H, W) of the maps.

    Raises:
        ValueError: a mask is empty or of another size, or a saturation is not positive; names image and region.
    """
    pixels, saturation = [np.empty(0, np.intp)], []
    for image, of_image in enumerate(regions):
        for index, (mask, enough) in enumerate(of_image):
            where = f"region {index} of image {image}"
            if mask.shape != size or mask.dtype != bool or not mask.any():
                raise ValueError(f"{where}: the mask must be {size} bool and not empty, not {mask.shape} {mask.dtype}")
            if not 0 < enough < np.inf:
                raise ValueError(f"{where}: the saturation must be a positive number of pixels, not {enough}")
            pixels.append(np.flatnonzero(mask) + image * mask.size)
            saturation.append(float(enough))
    region = np.repeat(np.arange(len(saturation)), [len(positions) for positions in pixels[1:]])  # (E,)
    defect, member = np.unique(np.concatenate(pixels), return_inverse=True)
    return GroundTruth((len(regions), *size), defect, member, region, np.array(saturation))


def pixel_metrics(maps: NDArray[np.floating], truth: GroundTruth, fpr_limits: Sequence[float] = (0.3,)) -> PixelMetrics:
    """Pixel AUROC, average precision, largest F1 and AUPRO at each limit, from one sort.

    Args:
        maps: (N, H, W) float, higher is more anomalous.
        truth: from `prepare`, of the same shape.

    Raises:
        UndefinedMetric: no pixel of the test set is defective, or none is defect-free.
        ValueError: a map holds NaN or infinity, or the shapes differ.
    """
    ranking = _rank_pixels(maps, truth)
    weights = _weights(ranking, truth)
    return {
        "pixel_auroc": ranking.auroc(),
        "pixel_ap": ranking.average_precision(),
        "pixel_f1_max": ranking.f1_max(),
        "aupro": {limit: ranking.area(weights, limit) for limit in fpr_limits},
    }


def aupro(maps: NDArray[np.floating], truth: GroundTruth, limit: float = 0.3) -> float:
    """Area under the pooled PRO curve up to FPR `limit`, divided by it; in [0, 1]. Errors as `pixel_metrics`."""
    ranking = _rank_pixels(maps, truth)
    return ranking.area(_weights(ranking, truth), limit)


def spro(
    maps: Sequence[NDArray[np.floating]] | NDArray[np.floating],
    regions: Sequence[Sequence[tuple[NDArray[np.bool_], float]]],
    limits: Sequence[float] = (0.01, 0.05, 0.1, 0.3, 1.0),
) -> dict[float, float]:
    """Area under the sPRO curve up to each FPR limit, divided by the limit; in [0, 1].

    Args:
        maps: (N, H, W) float, or N arrays (H, W); higher is more anomalous.
        regions: as in `prepare_regions`.

    Raises:
        UndefinedMetric: no image has a region, or no pixel is outside all regions.
        ValueError: as `prepare_regions` and `pixel_metrics`.
    """
    pool = maps if isinstance(maps, np.ndarray) else np.stack(maps)  # (N, H, W)
    truth = prepare_regions(regions, (pool.shape[1], pool.shape[2]))
    ranking = _rank_pixels(pool, truth)
    weights = _weights(ranking, truth)
    return {limit: ranking.area(weights, limit) for limit in limits}


def pro_curve(maps: NDArray[np.floating], truth: GroundTruth, points: int = 200) -> tuple[NDArray, NDArray]:
    """Points (fpr, pro) of the PRO curve for a plot, at most `points`, up to FPR 1. Errors as `pixel_metrics`.

    With `truth` from `prepare_regions` it is the sPRO curve.
    """
    ranking = _rank_pixels(maps, truth)
    return ranking.curve(_weights(ranking, truth), points)


def per_image_pro(maps: NDArray[np.floating], truth: GroundTruth, limit: float = 0.3) -> float:
    """PRO as the official code of Reverse Distillation computes it (hq-deng/RD4AD, `compute_pro`), for old tables.

    For each image with a region: 200 equidistant thresholds from the map's smallest value to below its largest,
    those with FPR < `limit`, their FPR divided by the largest one kept, trapezoidal rule. Then the mean over these
    images. Normal images never enter, and thresholds make it depend on the scale of the scores. In [0, 1].

    Raises:
        UndefinedMetric: no image has a region, or an image keeps fewer than two thresholds or none with FPR > 0, where
            the official code fails.
        ValueError: as `pixel_metrics`.
    """
    _refuse_unusable(maps, truth)
    _refuse_non_finite(maps)
    pixels = truth.shape[1] * truth.shape[2]
    values = []
    for image in np.unique(truth.defect // pixels):
        of_image = _one_image(truth, image)
        if len(of_image.defect) == pixels:
            raise UndefinedMetric(f"no defect-free pixel in image {image}")
        fpr, pro = _sweep(maps[image : image + 1], of_image, 200, rising=True)
        fpr, pro = fpr[fpr < limit], pro[fpr < limit]
        if len(fpr) < 2 or not fpr.any():
            raise UndefinedMetric(f"the thresholds of image {image} make no curve between FPR 0 and {limit}")
        values.append(-np.trapezoid(pro, fpr / fpr.max()))  # the FPR falls as the threshold rises
    return float(np.mean(values))


def rescaled_pro(maps: NDArray[np.floating], truth: GroundTruth, limit: float = 0.3) -> float:
    """PRO as the official code of STFPM computes it (gdwang08/STFPM, `evaluate.py`), for old tables.

    Pooled over all images: 4000 equidistant thresholds, those with FPR <= `limit`, both axes rescaled to [0, 1] by
    their smallest and largest kept values (which inflates the result), trapezoidal rule. In [0, 1].

    Raises:
        UndefinedMetric: no defect or no defect-free pixel, or too few thresholds kept to rescale an axis.
        ValueError: as `pixel_metrics`.
    """
    fpr, pro = _sweep(maps, truth, 4000, rising=False)
    fpr, pro = fpr[fpr <= limit], pro[fpr <= limit]
    if len(fpr) == 0 or np.ptp(fpr) == 0 or np.ptp(pro) == 0:
        raise UndefinedMetric(f"PRO and FPR cannot be rescaled: they are constant below FPR {limit}")
    return float(np.trapezoid((pro - pro.min()) / np.ptp(pro), (fpr - fpr.min()) / np.ptp(fpr)))


def _refuse_unusable(maps: NDArray[np.floating], truth: GroundTruth) -> None:
    """Raise where maps and truth do not fit, or hold nothing to tell apart."""
    if maps.shape != truth.shape or not np.issubdtype(maps.dtype, np.floating):
        raise ValueError(f"maps must be {truth.shape} float, as the ground truth is, not {maps.shape} {maps.dtype}")
    if len(truth.defect) == 0:
        raise UndefinedMetric("no defect pixel in the test set")
    if len(truth.defect) == maps.size:
        raise UndefinedMetric("no defect-free pixel in the test set")


def _refuse_non_finite(maps: NDArray[np.floating]) -> None:
    for image, one in enumerate(maps):
        if not np.isfinite(one).all():
            raise ValueError(f"the anomaly map of image {image} holds NaN or infinity")


def _sorted_defect_free(maps: NDArray[np.floating], truth: GroundTruth) -> NDArray[np.floating]:
    """Values of the pixels of no region, rising."""
    _refuse_unusable(maps, truth)
    pool = np.array(maps, order="C").ravel()  # the only copy of the maps
    pool[truth.defect] = -np.inf  # sorts defect pixels to the front, which is faster than selecting the others
    pool.sort()
    negatives = pool[len(truth.defect) :]
    # Whatever is not finite ends up first or last, so looking there spares a pass over all pixels.
    if not (np.isfinite(negatives[[0, -1]]).all() and np.isfinite(maps.ravel()[truth.defect]).all()):
        _refuse_non_finite(maps)
    return negatives


def _rank_pixels(maps: NDArray[np.floating], truth: GroundTruth) -> Ranking:
    """Defect pixels among the defect-free ones; `order` indexes `truth.defect`."""
    negatives = _sorted_defect_free(maps, truth)
    return rank(maps.ravel()[truth.defect], negatives)


def _weights(ranking: Ranking, truth: GroundTruth) -> NDArray[np.float64]:
    """What each ranked defect pixel adds to the mean (s)PRO, (D,): the sum over the regions that it belongs to.

    The k-th highest pixel of a region with saturation s raises min(overlap / s, 1) by clip(s - k + 1, 0, 1) / s.
    """
    saturation = truth.saturation[truth.region]  # (E,)
    if (np.bincount(truth.region) <= truth.saturation).all():
        gain = 1 / saturation
    else:
        place = np.empty(len(ranking.order), np.intp)
        place[ranking.order] = np.arange(len(place))  # (D,) rank of each defect pixel
        by_region = np.lexsort((place[truth.member], truth.region))  # (E,) region after region, each by falling score
        start = np.cumsum(np.bincount(truth.region)) - np.bincount(truth.region)  # (R,)
        before = np.empty(len(by_region), np.intp)  # (E,) how many pixels of its region rank higher
        before[by_region] = np.arange(len(by_region)) - start[truth.region[by_region]]
        gain = np.clip(saturation - before, 0, 1) / saturation
    total = np.bincount(truth.member, weights=gain, minlength=len(truth.defect))  # (D,)
    return total[ranking.order] / len(truth.saturation)


def _sweep(maps: NDArray[np.floating], truth: GroundTruth, count: int, rising: bool) -> tuple[NDArray, NDArray]:
    """False-positive rate and mean PRO of the pixels strictly above each of `count` thresholds, (count,) each.

    The thresholds go in equal steps from the smallest score to below the largest, or from the largest to above the
    smallest. Which end is left out shows in the result, so it is as in the official code.
    """
    negatives = _sorted_defect_free(maps, truth)
    ranking = rank(maps.ravel()[truth.defect], negatives)
    gained = np.append(0.0, np.cumsum(_weights(ranking, truth)))  # (D + 1,)
    low, high = float(maps.min()), float(maps.max())
    steps = np.arange(count) * ((high - low) / count)
    thresholds = (low + steps if rising else high - steps).astype(maps.dtype)
    fpr = 1 - np.searchsorted(negatives, thresholds, side="right") / len(negatives)
    above = len(ranking.scores) - np.searchsorted(ranking.scores[::-1], thresholds, side="right")
    return fpr, gained[above]


def _one_image(truth: GroundTruth, image: int) -> GroundTruth:
    """The ground truth of one image alone."""
    pixels = truth.shape[1] * truth.shape[2]
    start, stop = np.searchsorted(truth.defect, (image * pixels, (image + 1) * pixels))
    own = (truth.member >= start) & (truth.member < stop)
    kept, region = np.unique(truth.region[own], return_inverse=True)
    return GroundTruth(
        (1, *truth.shape[1:]),
        truth.defect[start:stop] - image * pixels,
        truth.member[own] - start,
        region,
        truth.saturation[kept],
    )
