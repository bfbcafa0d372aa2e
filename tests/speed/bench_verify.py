"""How fast a bundle as large as MVTec AD is verified, against a loop over thresholds: `make bench-verify`.

Ours is all of `proctor verify` after the imports: hashing the file, unpacking, checking each member, reading the masks,
image and pixel metrics. The usual way gets maps and masks in memory and computes what the evaluation of Reverse
Distillation (hq-deng/RD4AD) and of many after it does: PRO at 200 thresholds, each of which finds the regions of every
mask anew, and pixel AUROC by scikit-learn. It takes minutes for all, so it runs on one category, after ours on the
same. Both are one thread; CPU seconds are counted, which other programs on the machine hardly change. The images are
drawn, at the size of the maps. The last line is JSON.
"""

from __future__ import annotations

import benchmarks.metrics  # noqa: F401 - before NumPy, whose sort it chooses

# isort: split
import json
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from benchmarks.datasets.mvtec_ad import MVTecAD
from benchmarks.metrics.conventions import CONVENTIONS
from benchmarks.scoring import score
from benchmarks.submissions import bundle, verify
from benchmarks.submissions.schema import Manifest, Value
from tests.speed.bench_metrics import draw

GOAL = 10
THRESHOLDS = 200


def main() -> None:
    """Measure and print. Takes about a minute."""
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), 256, list(MVTecAD.official_counts), ["bottle"], rounds=3)
    table = Table("", "maps", "CPU seconds", "memory")
    table.add_row("verify, all", str(result["maps"]), f"{result['seconds']:.1f}", f"{result['peak_mib']:.0f} MiB")
    table.add_row("verify, part", str(result["part_maps"]), f"{result['part_seconds']:.2f}", "")
    table.add_row(f"loop over {THRESHOLDS} thresholds", str(result["part_maps"]), f"{result['loop_seconds']:.1f}", "")
    table.add_row("and scikit-learn's AUROC", str(result["part_maps"]), f"{result['usual_seconds']:.1f}", "")
    Console(width=120).print(table)
    print(f"{result['ratio']:.1f} times faster than the loop alone; the goal is {GOAL}")
    print(json.dumps(result))


def measure(folder: Path, size: int, categories: Sequence[str], part: Sequence[str], rounds: int) -> dict[str, Any]:
    """CPU seconds, medians of `rounds`, and the peak of what ours allocates, on drawn images of these categories.

    `difference` is the largest between the loop's AUPRO and ours, which is exact.
    """
    root, cells = folder / "mvtec_ad", {}
    for number, category in enumerate(categories):
        cells[category] = _draw(root, category, size, number)
    whole, some = folder / "whole.tar.gz", folder / "part.tar.gz"
    _pack(whole, cells)
    _pack(some, {category: cells[category] for category in part})
    tracemalloc.start()
    report = verify.verify(whole, root)  # the warm-up; tracing would slow a timed run
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.agrees
    seconds, part_seconds = [], []
    for _ in range(rounds):
        seconds.append(_timed(whole, root))
        part_seconds.append(_timed(some, root))
    loop_seconds, other_seconds, difference = 0.0, 0.0, 0.0
    claimed = {c.category: c.value for c in report.manifest.claims if c.metric == "aupro"}
    for category in part:
        cell, masks, _ = cells[category]
        start = time.process_time()
        found = threshold_loop(cell.maps, masks)
        between = time.process_time()
        roc_auc_score(masks.ravel(), cell.maps.ravel())
        loop_seconds, other_seconds = loop_seconds + between - start, other_seconds + time.process_time() - between
        difference = max(difference, abs(found - claimed[category]))
    median = statistics.median(part_seconds)
    return {
        "maps": len(report.manifest.maps), "size": size, "seconds": statistics.median(seconds), "rounds": rounds,
        "peak_mib": peak / 2**20, "bundle_mib": whole.stat().st_size / 2**20, "part_seconds": median,
        "part_maps": sum(len(cells[category][0].keys) for category in part), "loop_seconds": loop_seconds,
        "usual_seconds": loop_seconds + other_seconds, "ratio": loop_seconds / median, "difference": difference,
    }  # fmt: skip


def threshold_loop(maps: NDArray[np.float32], masks: NDArray[np.bool_], limit: float = 0.3) -> float:
    """AUPRO up to FPR `limit` from equidistant thresholds, each of which compares every map and labels every mask."""
    low, high = float(maps.min()), float(maps.max())
    fpr, pro = [], []
    for threshold in np.linspace(high, low, THRESHOLDS):
        found = maps > threshold  # (N, H, W)
        overlaps = []
        for one, mask in zip(found, masks, strict=True):
            labels, count = ndimage.label(mask, np.ones((3, 3)))
            overlaps += [one[labels == region].mean() for region in range(1, count + 1)]
        fpr.append(np.count_nonzero(found & ~masks) / np.count_nonzero(~masks))
        pro.append(np.mean(overlaps))
    below = np.array(fpr) <= limit
    x, y = np.append(np.array(fpr)[below], limit), np.append(np.array(pro)[below], np.interp(limit, fpr, pro))
    return float(np.trapezoid(y, x)) / limit


def _draw(
    root: Path, category: str, size: int, seed: int
) -> tuple[score.CellPredictions, NDArray[np.bool_], list[Value]]:
    """Test images as many as MVTec AD's on disk, with masks; and their maps, scores and values."""
    counts, random = MVTecAD.official_counts[category], np.random.default_rng(seed)
    defects = [0] * counts["good"] + list(random.integers(1, 4, counts["anomalous"]))
    maps, regions = draw(defects, size, random)
    masks, keys = np.zeros(maps.shape, bool), []
    for index, of_image in enumerate(regions):
        defect = "hole" if of_image else "good"
        keys.append(f"{category}/test/{defect}/{index:03}")
        _save(root / f"{keys[-1]}.png", np.zeros((size, size), np.uint8))
        if of_image:
            masks[index] = np.any([mask for mask, _ in of_image], axis=0)
            _save(root / category / "ground_truth" / "hole" / f"{index:03}_mask.png", masks[index] * np.uint8(255))
    cell = score.CellPredictions({"category": category, "seed": 0}, keys, maps.max(axis=(1, 2)), maps)
    dataset = MVTecAD(root, [category])
    truths = {item.key: dataset.truth(item) for item in dataset.items(category, "test")}
    rows = score.category_rows([truths[key] for key in keys], [cell], [CONVENTIONS["default"]])
    values = [Value.model_validate({name: row[name] for name in Value.model_fields}) for row in rows]
    return cell, masks, values


def _pack(target: Path, cells: dict[str, tuple[score.CellPredictions, NDArray[np.bool_], list[Value]]]) -> None:
    pairs = [
        (bundle.map_entry(0, key, float(value), one), one)
        for cell, _, _ in cells.values()
        for key, value, one in zip(cell.keys, cell.scores, cell.maps, strict=True)
    ]
    pairs.sort(key=lambda pair: pair[0].sort_key)
    manifest = Manifest(
        format="proctor-bundle", schema=1, name="drawn", method="drawn", variant="drawn", dataset="mvtec_ad",
        protocol="one_class", licence="Apache-2.0", contact="none", maps=[entry for entry, _ in pairs],
        claims=[value for _, _, values in cells.values() for value in values],
    )  # fmt: skip
    bundle.pack(target, manifest, [one for _, one in pairs])


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _timed(path: Path, root: Path) -> float:
    start = time.process_time()
    verify.verify(path, root)
    return time.process_time() - start


if __name__ == "__main__":
    main()
