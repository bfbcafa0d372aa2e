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

Ties: pixels that share a value cross the threshold together, and the curve is a straight line from before to after
them. MVTec AD's evaluation code draws the same line. That of MVTec 3D-AD takes thresholds by their position among the
sorted defect-free values, so that pixels tied with a threshold may count as false positives, but never as found.
float32 maps have too few ties to matter. Real maps at native size (distance to the mean image; toothbrush and screw),
rounded to float16 as in the archive of MVTec AD 2, change AUPRO by 2e-6 here and by 2e-4 under the rule of 3D-AD, and
pixel AP by up to 1.4e-4; rounded to 8 bits, AUPRO by 1e-4 here and up to 1e-2 there, and pixel AP by up to 5e-3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.detection import Ranking, UndefinedMetric, rank
from benchmarks.metrics.resize import Maps, Size


class DefectRegions(NamedTuple):
    """Where the defect regions of all test images lie, prepared for scoring. Regions may overlap.

    Positions are those of the pixels of all images, one image after another.

    Attributes:
        sizes: N sizes (H, W) of the images' masks, and of the maps that they belong to.
        defect: (D,) positions of the pixels of any region; rising.
        member: (E,) one entry for each pixel of each region: its index in `defect`.
        region: (E,) the region of that entry, 0 to R - 1.
        saturation: (R,) overlap in pixels that counts as full detection.
    """

    sizes: tuple[Size, ...]
    defect: NDArray[np.intp]
    member: NDArray[np.intp]
    region: NDArray[np.intp]
    saturation: NDArray[np.float64]

    @property
    def starts(self) -> NDArray[np.intp]:
        """(N + 1,) position of each image's first pixel, and the number of all pixels."""
        return np.cumsum([0, *(height * width for height, width in self.sizes)])


def prepare(masks: Sequence[NDArray[np.bool_]] | NDArray[np.bool_]) -> DefectRegions:
    """Ground truth for the pixel metrics and AUPRO: the 8-connected components of each image's mask.

    Args:
        masks: N masks (H, W) bool, True where there is a defect; all False for a normal image. Sizes may differ.

    Raises:
        ValueError: a mask is not (H, W) bool.

    >>> prepare([np.eye(3, dtype=bool), np.ones((2, 4), bool)]).saturation
    array([3., 8.])
    """
    from scipy import ndimage  # here, so that who reads only the names of the metrics does not wait for SciPy

    defect, region, regions, start = [np.empty(0, np.intp)], [np.empty(0, np.intp)], 0, 0
    for image, mask in enumerate(masks):
        if mask.ndim != 2 or mask.dtype != bool:
            raise ValueError(f"the mask of image {image} must be (H, W) bool, not {mask.shape} {mask.dtype}")
        if mask.any():
            labels, count = ndimage.label(mask, structure=np.ones((3, 3)))  # (H, W) from 1; 0 is no defect
            region.append(labels[mask].astype(np.intp) + (regions - 1))
            defect.append(np.flatnonzero(mask) + start)
            regions += count
        start += mask.size
    joined = np.concatenate(region)  # (D,)
    area = np.bincount(joined, minlength=regions).astype(np.float64)  # (R,)
    sizes = tuple(mask.shape for mask in masks)
    return DefectRegions(sizes, np.concatenate(defect), np.arange(len(joined)), joined, area)


def prepare_regions(
    regions: Sequence[Sequence[tuple[NDArray[np.bool_], float]]], sizes: Sequence[Size]
) -> DefectRegions:
    """Ground truth for sPRO: annotated regions with saturation thresholds.

    Args:
        regions: for each image its regions, each a mask (H, W) bool and a saturation in pixels; none if it is normal.
        sizes: of the N images, (H, W).

    Raises:
        ValueError: a mask is empty or of another size, or a saturation is not positive; names image and region.
    """
    pixels, saturation, start = [np.empty(0, np.intp)], [], 0
    for image, (of_image, size) in enumerate(zip(regions, sizes, strict=True)):
        for index, (mask, enough) in enumerate(of_image):
            where = f"region {index} of image {image}"
            if mask.shape != size or mask.dtype != bool or not mask.any():
                raise ValueError(f"{where}: the mask must be {size} bool and not empty, not {mask.shape} {mask.dtype}")
            if not 0 < enough < np.inf:
                raise ValueError(f"{where}: the saturation must be a positive number of pixels, not {enough}")
            pixels.append(np.flatnonzero(mask) + start)
            saturation.append(float(enough))
        start += size[0] * size[1]
    region = np.repeat(np.arange(len(saturation)), [len(positions) for positions in pixels[1:]])  # (E,)
    defect, member = np.unique(np.concatenate(pixels), return_inverse=True)
    return DefectRegions(tuple(sizes), defect, member, region, np.array(saturation))


class Pixels:
    """The anomaly maps of a category with their ground truth, and the one sort that its metrics share.

    Args:
        maps: N maps (H, W) float, or (N, H, W); higher is more anomalous. They are read one at a time.
        truth: of the same sizes.
    """

    def __init__(self, maps: Maps, truth: DefectRegions) -> None:
        self.maps, self.truth = maps, truth

    @cached_property
    def ranking(self) -> Ranking:
        """Defect pixels among the defect-free ones; its `order` indexes `truth.defect`. Errors as `split`."""
        return rank(*self.split())

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """(D,) what each ranked defect pixel adds to the mean (s)PRO: the sum over the regions that it belongs to.

        The k-th highest pixel of a region with saturation s raises min(overlap / s, 1) by clip(s - k + 1, 0, 1) / s.
        """
        ranking, truth = self.ranking, self.truth
        saturation = truth.saturation[truth.region]  # (E,)
        if (np.bincount(truth.region) <= truth.saturation).all():
            gain = 1 / saturation
        else:
            place = np.empty(len(ranking.order), np.intp)
            place[ranking.order] = np.arange(len(place))  # (D,) rank of each defect pixel
            by_region = np.lexsort((place[truth.member], truth.region))  # (E,) region after region, by falling score
            start = np.cumsum(np.bincount(truth.region)) - np.bincount(truth.region)  # (R,)
            before = np.empty(len(by_region), np.intp)  # (E,) how many pixels of its region rank higher
            before[by_region] = np.arange(len(by_region)) - start[truth.region[by_region]]
            gain = np.clip(saturation - before, 0, 1) / saturation
        total = np.bincount(truth.member, weights=gain, minlength=len(truth.defect))  # (D,)
        return total[ranking.order] / len(truth.saturation)

    def checked(self) -> Iterator[NDArray[np.floating]]:
        """The maps one after another.

        Raises:
            ValueError: a map holds NaN or infinity, is not float, or differs from the first in dtype or from its
                ground truth in size.
        """
        if len(self.maps) != len(self.truth.sizes):
            raise ValueError(f"{len(self.maps)} anomaly maps for the ground truth of {len(self.truth.sizes)} images")
        dtype = self.maps[0].dtype
        if not np.issubdtype(dtype, np.floating):
            raise ValueError(f"anomaly maps must be float, not {dtype}")
        for image, (one, size) in enumerate(zip(self.maps, self.truth.sizes, strict=True)):
            if one.shape != size or one.dtype != dtype:
                raise ValueError(f"the map of image {image} must be {size} {dtype}, not {one.shape} {one.dtype}")
            if not np.isfinite(one).all():
                raise ValueError(f"the anomaly map of image {image} holds NaN or infinity")
            yield one

    def split(self) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Values of the defect pixels (D,), in the order of `truth.defect`, and of all others, rising.

        Raises:
            UndefinedMetric: no pixel of the test set is defective, or none is defect-free.
            ValueError: as `checked`.
        """
        starts, defect = self.truth.starts, self.truth.defect
        if len(defect) == 0:
            raise UndefinedMetric("no defect pixel in the test set")
        if len(defect) == starts[-1]:
            raise UndefinedMetric("no defect-free pixel in the test set")
        pool = np.empty(starts[-1], self.maps[0].dtype)  # the only copy of the maps
        for start, one in zip(starts, self.checked(), strict=False):
            pool[start : start + one.size] = one.ravel()
        defective = pool[defect]
        pool[defect] = -np.inf  # sorts defect pixels to the front, which is faster than selecting the others
        pool.sort()
        return defective, pool[len(defect) :]


def auroc(pixels: Pixels) -> float:
    """Area under the ROC curve of all pixels, in [0, 1]; a constant map gives 0.5. Errors as `Pixels.split`.

    >>> auroc(Pixels(np.array([[[3.0, 1.0, 2.0]]]), prepare([np.array([[True, True, False]])])))
    0.5
    """
    return pixels.ranking.auroc()


def average_precision(pixels: Pixels) -> float:
    """Average precision of all pixels, in (0, 1], as scikit-learn's `average_precision_score`. Errors as `auroc`.

    >>> average_precision(Pixels(np.array([[[3.0, 2.0, 1.0]]]), prepare([np.array([[False, True, True]])])))
    0.5833333333333333
    """
    return pixels.ranking.average_precision()


def f1_max(pixels: Pixels) -> float:
    """Largest F1 of all pixels over all thresholds, in (0, 1]. Errors as `auroc`.

    >>> f1_max(Pixels(np.array([[[3.0, 2.0, 1.0]]]), prepare([np.array([[False, True, True]])])))
    0.8
    """
    return pixels.ranking.f1_max()


def pooled_pro(pixels: Pixels, limit: float = 0.3) -> float:
    """Area under the PRO curve of all images together up to FPR `limit`, divided by it, in [0, 1]; exact.

    With ground truth from `prepare_regions` it is the area under the sPRO curve. Errors as `Pixels.split`.

    >>> mask = np.array([[True, False, True, True]])
    >>> maps = np.array([[[4.0, 3.0, 2.0, 1.0]]])  # found: of two regions one before the only false positive
    >>> pooled_pro(Pixels(maps, prepare([mask])))
    0.5
    """
    return pixels.ranking.area(pixels.weights, limit)


def pro_curve(pixels: Pixels, points: int = 200) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points (fpr, pro) of the PRO curve for a plot, at most `points`, up to FPR 1. Errors as `Pixels.split`.

    With ground truth from `prepare_regions` it is the sPRO curve.

    >>> pro_curve(Pixels(np.array([[[2.0, 1.0]]]), prepare([np.array([[True, False]])])))
    (array([0., 0., 0., 1.]), array([0., 0., 1., 1.]))
    """
    return pixels.ranking.curve(pixels.weights, points)
