"""How fast the localization metrics are, and how much faster than the usual ways at equal values: `make bench-metrics`.

Ours and the usual way run in turn, in one process, after a warm-up; the times are medians. The usual way at 1024x1024
takes minutes, so it runs once and without a warm-up. What a large category costs under the default convention, at the
native size of its images, is measured apart. The last line is JSON.
"""

from __future__ import annotations

import benchmarks.metrics  # noqa: F401 - before NumPy, whose sort it chooses

# isort: split
import json
import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.metrics import localization
from benchmarks.metrics.localization import DefectRegions, Pixels, pooled_pro, prepare, prepare_regions
from benchmarks.metrics.resize import Maps, fit_maps

Regions = list[list[tuple[NDArray[np.bool_], float]]]
Value = TypeVar("Value")
LIMITS = (0.01, 0.05, 0.1, 0.3, 1.0)


class Row(NamedTuple):
    """One comparison. Times are medians in seconds, differences the largest over the values.

    `difference` is to an exact computation, `transform_difference` to the same maps after a strictly rising transform.
    `peak_mib` is what ours allocates beyond the maps and the prepared truth.
    """

    task: str
    against: str
    seconds: float
    repetitions: int
    preparation_seconds: float | None  # once a category; not in `seconds`
    peak_mib: float
    usual_seconds: float
    usual_repetitions: int
    ratio: float
    goal: float
    difference: float
    transform_difference: float


class NativeCost(NamedTuple):
    """What one category costs at the native size of its images, its maps being stored small. Seconds are medians."""

    images: int
    megapixels: float  # of an image
    seconds: float  # resizing, sorting, all pixel metrics and AUPRO
    repetitions: int
    preparation_seconds: float  # finding the regions; once a category
    peak_mib: float  # allocated beyond the masks, the stored maps and the prepared truth


def main() -> None:
    """Measure and print. Takes some minutes, nearly all of them in the usual ways."""
    rows = [
        compare_pixel_metrics(size=256, goal=50, rounds=7, usual_rounds=3),
        compare_pixel_metrics(size=1024, goal=30, rounds=3, usual_rounds=1),
        compare_spro(size=256, thresholds=996, goal=60, rounds=7, usual_rounds=3),
    ]
    table = Table(
        "task", "against", "ours", "prepare", "memory beyond input", "usual way", "faster", "goal", "difference"
    )
    for row in rows:
        table.add_row(
            row.task,
            row.against,
            f"{row.seconds:.3f} s (median of {row.repetitions})",
            "included" if row.preparation_seconds is None else f"+ {row.preparation_seconds:.3f} s",
            f"{row.peak_mib:.0f} MiB",
            f"{row.usual_seconds:.2f} s (median of {row.usual_repetitions})",
            f"{row.ratio:.0f} x",
            f"{row.goal:.0f} x",
            f"{row.difference:.0e}, after a monotone transform {row.transform_difference:.0e}",
        )
    Console(width=180).print(table)
    native = native_cost(images=200, size=1225, rounds=3)
    print(
        f"{native.images} images of {native.megapixels:.1f} Mpx at native size: {native.seconds:.1f} s "
        f"+ {native.preparation_seconds:.1f} s once a category; {native.peak_mib:.0f} MiB beyond the input"
    )
    print(json.dumps([*(row._asdict() for row in rows), native._asdict()]))


def native_cost(images: int, size: int, rounds: int) -> NativeCost:
    """Pixel AUROC, AP, F1-max and AUPRO of 256x256 maps on square images of `size` pixels, a quarter of them good."""
    random = np.random.default_rng(0)
    maps, regions = draw([0] * (images // 4) + list(random.integers(1, 4, images - images // 4)), 256, random)
    nearest = np.arange(size) * 256 // size
    masks = [
        np.any([mask for mask, _ in of_image] or [np.zeros((256, 256), bool)], axis=0)[np.ix_(nearest, nearest)]
        for of_image in regions
    ]
    preparation, truth = _timed(lambda: prepare(masks))

    def score() -> list[float]:
        return _values(fit_maps(maps, truth.sizes), truth)

    tracemalloc.start()
    score()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    seconds = statistics.median(_timed(score)[0] for _ in range(rounds))
    return NativeCost(images, size**2 / 1e6, seconds, rounds, preparation, peak / 2**20)


def _values(maps: Maps, truth: DefectRegions) -> list[float]:
    pixels = Pixels(maps, truth)
    rates = [localization.auroc(pixels), localization.average_precision(pixels), localization.f1_max(pixels)]
    return [*rates, pooled_pro(pixels)]


def compare_pixel_metrics(size: int, goal: float, rounds: int, usual_rounds: int) -> Row:
    """Pixel AUROC, AP, F1-max and AUPRO on 100 maps, 30 of them good, against scikit-learn and an argsort."""
    random = np.random.default_rng(0)
    maps, regions = draw([0] * 30 + list(random.integers(1, 5, 70)), size, random)
    masks = np.stack(
        [np.any([mask for mask, _ in of_image] or [np.zeros((size, size), bool)], axis=0) for of_image in regions]
    )
    regions.clear()
    truth = prepare(masks)

    def ours(maps: NDArray = maps) -> list[float]:
        area, precision, _, pro = _values(maps, truth)
        return [area, precision, pro]

    def usual() -> list[float]:
        labels, scores = masks.ravel(), maps.ravel()
        return [roc_auc_score(labels, scores), average_precision_score(labels, scores), argsort_aupro(maps, masks)]

    preparation = statistics.median(_timed(lambda: prepare(masks))[0] for _ in range(rounds))
    task = f"pixel AUROC, AP, F1-max, AUPRO; 100 maps of {size}x{size}"
    row = _compare(task, "scikit-learn AUROC + AP, argsort AUPRO", ours, usual, maps, goal, rounds, usual_rounds)
    return row._replace(preparation_seconds=preparation)


def compare_spro(size: int, thresholds: int, goal: float, rounds: int, usual_rounds: int) -> Row:
    """sPRO at five limits on 40 maps with 80 defects, 10 maps of them good, against a sweep of thresholds."""
    maps, regions = draw([0] * 10 + [2] * 10 + [3] * 20, size, np.random.default_rng(0))

    def ours(maps: NDArray = maps) -> list[float]:
        pixels = Pixels(maps, prepare_regions(regions, [one.shape for one in maps]))
        return [pooled_pro(pixels, limit) for limit in LIMITS]

    def usual() -> list[float]:
        levels = np.quantile(maps, np.linspace(1, 0, thresholds)).astype(maps.dtype)
        return swept_spro(maps, regions, levels)

    task = f"sPRO at {len(LIMITS)} limits; 40 maps of {size}x{size}, 80 defects"
    row = _compare(task, "", ours, usual, maps, goal, rounds, usual_rounds)
    few, of_few = draw([0, 0, 2, 2, 3, 3], 32, np.random.default_rng(1))
    exact = swept_spro(few, of_few, np.unique(few)[::-1])  # every score a threshold
    pixels = Pixels(few, prepare_regions(of_few, [one.shape for one in few]))
    found = [pooled_pro(pixels, limit) for limit in LIMITS]
    return row._replace(
        against=f"sweep of {thresholds} thresholds, itself off by {row.difference:.0e}",
        difference=float(np.max(np.abs(np.subtract(found, exact)))),
    )


def _compare(
    task: str,
    against: str,
    ours: Callable[..., list[float]],
    usual: Callable[[], list[float]],
    maps: NDArray[np.float32],
    goal: float,
    rounds: int,
    usual_rounds: int,
) -> Row:
    """Run both in turn; the usual way, where it takes minutes, in the first rounds alone."""
    tracemalloc.start()
    values = ours()  # the warm-up; tracing would slow a timed run
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    if usual_rounds > 1:
        usual()
    seconds, usual_seconds, usual_values = [], [], values
    for turn in range(rounds):
        seconds.append(_timed(ours)[0])
        if turn < usual_rounds:
            took, usual_values = _timed(usual)
            usual_seconds.append(took)
    median, usual_median = statistics.median(seconds), statistics.median(usual_seconds)
    # float64 keeps apart what is apart in float32, so the order of the pixels does not change.
    transformed = ours(np.exp(20 * maps.astype(np.float64)))
    return Row(
        task, against, median, rounds, None, peak / 2**20, usual_median, usual_rounds, usual_median / median, goal,
        float(np.max(np.abs(np.subtract(values, usual_values)))),
        float(np.max(np.abs(np.subtract(values, transformed)))),
    )  # fmt: skip


def _timed(function: Callable[[], Value]) -> tuple[float, Value]:
    start = time.perf_counter()
    value = function()
    return time.perf_counter() - start, value


def draw(defects: Sequence[int], size: int, random: np.random.Generator) -> tuple[NDArray[np.float32], Regions]:
    """Maps as a student gives them, smooth, upsampled from 64x64, and elliptic defects that raise most of them.

    Args:
        defects: how many each image has. A defect takes about 0.85 % of the image.

    Returns:
        maps (N, size, size), and for each image its regions with saturations of 0.3 to 1.2 times their area.
    """
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    regions: Regions = []
    coarse = ndimage.gaussian_filter(random.standard_normal((len(defects), 64, 64)), (0, 2, 2)) * 2
    for image, count in enumerate(defects):
        regions.append([])
        for _ in range(count):
            (y, x), (height, width) = random.uniform(0.1, 0.9, 2), random.uniform(0.03, 0.075, 2)
            mask = ((axis[:, None] - y) / height) ** 2 + ((axis - x) / width) ** 2 <= 1  # (H, W)
            regions[-1].append((mask, mask.sum() * random.uniform(0.3, 1.2)))
            small = torch.from_numpy(mask[None, None].astype(np.float32))
            small = torch.nn.functional.interpolate(small, (64, 64), mode="bilinear", antialias=True)
            coarse[image] += random.uniform(0, 3) * ndimage.gaussian_filter(small[0, 0].numpy(), 1)
    fine = torch.nn.functional.interpolate(
        torch.from_numpy(coarse.astype(np.float32))[:, None], (size, size), mode="bicubic"
    )
    return np.exp(fine[:, 0].numpy() - 3), regions


def argsort_aupro(maps: NDArray[np.float32], masks: NDArray[np.bool_], limit: float = 0.3) -> float:
    """Exact AUPRO the usual way: one argsort of all pixels, cumulative sums, the trapezoidal rule."""
    false, gain = np.zeros(maps.shape, np.uint32), np.zeros(maps.shape)
    regions = 0
    for image, mask in enumerate(masks):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        false[image] = labels == 0
        gain[image] = np.append(0, 1 / np.maximum(np.bincount(labels.ravel())[1:], 1))[labels]
        regions += count
    scores = maps.ravel()
    order = np.argsort(scores)[::-1]
    last = np.append(np.diff(scores[order]) != 0, True)  # ties enter together
    fpr = np.cumsum(false.ravel()[order], dtype=np.float64)[last] / false.sum()
    pro = np.cumsum(gain.ravel()[order])[last] / regions
    return _area(fpr, pro, limit)


def swept_spro(maps: NDArray[np.float32], regions: Regions, levels: NDArray[np.float32]) -> list[float]:
    """sPRO by sweeping falling thresholds: each image and each defect compares the whole map with each batch of them.

    This is how MVTec LOCO's published evaluation is built, whose thresholds are refined where the curve is coarse.
    """
    false, overlaps = np.zeros(len(levels)), [np.zeros(len(levels)) for of_image in regions for _ in of_image]
    free = [~np.any([np.zeros(maps.shape[1:], bool)] + [mask for mask, _ in of_image], axis=0) for of_image in regions]
    for start in range(0, len(levels), 64):
        batch = slice(start, start + 64)
        fill = iter(overlaps)
        for one, defect_free, of_image in zip(maps, free, regions, strict=True):
            found = one >= levels[batch, None, None]  # (64, H, W)
            false[batch] += np.sum(np.logical_and(found, defect_free), axis=(1, 2))
            for mask, saturation in of_image:
                found = one >= levels[batch, None, None]  # (64, H, W)
                overlap = np.sum(np.logical_and(found, mask), axis=(1, 2))
                next(fill)[batch] = np.minimum(overlap / saturation, 1)
    fpr, mean = false / np.sum(free), np.mean(overlaps, axis=0)
    return [_area(fpr, mean, limit) for limit in LIMITS]


def _area(fpr: NDArray, height: NDArray, limit: float) -> float:
    fpr, height = np.append(0, fpr), np.append(0, height)
    below = fpr <= limit
    x, y = np.append(fpr[below], limit), np.append(height[below], np.interp(limit, fpr, height))
    return float(np.trapezoid(y, x)) / limit


if __name__ == "__main__":
    main()
