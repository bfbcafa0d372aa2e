"""What figures are drawn from: per-image scores, curves, and a few images with truth and map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from benchmarks import interference, results
from benchmarks.datasets.base import Dataset, Item, Truth, masks_of, opaque_key
from benchmarks.interference import Probe
from benchmarks.metrics import detection, localization
from benchmarks.metrics.detection import UndefinedMetric
from benchmarks.metrics.localization import DefectRegions, Pixels
from benchmarks.metrics.resize import fit_maps, fit_masks

EXAMPLES = 6  # test images of each category that no score has chosen, for figures
EXTREMES = 2  # the anomalies that score lowest, and the normal images that score highest, of each cell


def defects(truths: Sequence[Truth]) -> dict[str, DefectRegions]:
    """What the curves `pro` and, where regions have a saturation, `spro` are drawn from: defects at native size.

    Empty where the data set has no masks.
    """
    masks = masks_of(truths)
    if masks is None:
        return {}
    of_curve = {"pro": localization.prepare(masks)}
    if any(truth.regions for truth in truths):
        regions = [[(region.mask, region.saturation) for region in truth.regions] for truth in truths]
        of_curve["spro"] = localization.prepare_regions(regions, [mask.shape for mask in masks])
    return of_curve


def write(
    target: Path,
    about: dict[str, Any],
    items: Sequence[Item],
    truths: Sequence[Truth],
    of_curve: Mapping[str, DefectRegions],
    scores: np.ndarray,
    maps: np.ndarray,
) -> None:
    """Write `CATEGORY-seedK.json` and its two `.npz` of one cell into a folder, as results/README.md describes them.

    Args:
        of_curve: from `defects`.
    """
    target.mkdir(parents=True, exist_ok=True)
    labels = [truth.anomalous for truth in truths]
    native_masks = masks_of(truths)  # without masks the truth of the examples is shown empty
    masks = np.zeros(maps.shape, bool) if native_masks is None else _fitted(native_masks, maps.shape[1:])
    curves = {}
    try:
        curves["roc"] = _points("tpr", detection.roc_curve(labels, scores))
        for axis, truth in of_curve.items():
            curves[axis] = _points(axis, localization.pro_curve(Pixels(fit_maps(maps, truth.sizes), truth)))
    except UndefinedMetric:
        pass  # the rows give the reason
    names = ("variant", "method", "dataset", "protocol", "category", "seed", "record")
    images = [
        {"key": item.key, "defect": item.defect, "anomalous": label, "score": float(score)}
        for item, label, score in zip(items, labels, scores, strict=True)
    ]
    stem = f"{about['category']}-seed{about['seed']}"
    results.write_json(
        target / f"{stem}.json", {name: about[name] for name in names} | {"images": images, "curves": curves}
    )
    shown, extreme = _examples(items), _extremes(labels, scores)
    _save(target / f"{stem}.npz", items, masks, shown, maps=maps[shown])
    _save(target / f"{stem}.extremes.npz", items, masks, extreme)


def write_composites(
    target: Path, about: dict[str, Any], dataset: Dataset, drawn: Sequence[Probe], maps: np.ndarray
) -> None:
    """Write `CATEGORY-seedK.composites.npz` of one cell: the first images with a pasted patch, as examples."""
    height, width = maps.shape[1:]
    shown = drawn[: min(EXAMPLES, len(maps))]
    images = [interference.sample(dataset, probe).image.permute(1, 2, 0).numpy() for probe in shown]
    np.savez_compressed(
        target / f"{about['category']}-seed{about['seed']}.composites.npz",
        keys=np.array([f"{probe.a.category}/{probe.b.category}/{probe.key.rpartition('/')[2]}" for probe in shown]),
        images=np.stack([np.asarray(Image.fromarray(image).resize((width, height))) for image in images]),
        truth=_fitted([interference.mask(dataset, probe) for probe in shown], (height, width)),
        maps=maps[: len(shown)],
    )


def _fitted(masks: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Masks at the size of the maps, (N, h, w), every touched pixel a defect."""
    return np.stack(fit_masks(masks, [size] * len(masks), "mask>0"))


def _save(path: Path, items: Sequence[Item], masks: np.ndarray, shown: Sequence[int], **further: np.ndarray) -> None:
    """Write key, image and truth of these images, at the size of the masks."""
    height, width = masks.shape[1:]
    small = [Image.open(items[i].image).convert("RGB").resize((width, height)) for i in shown]
    np.savez_compressed(
        path,
        keys=np.array([items[i].key for i in shown]),
        images=np.stack([np.asarray(image) for image in small]),  # (K, h, w, 3)
        truth=masks[shown],
        **further,  # type: ignore[arg-type]  # which of its parameters these are, mypy cannot know
    )


def _extremes(labels: Sequence[bool], scores: np.ndarray) -> list[int]:
    """The anomalous images with the lowest scores, and the normal ones with the highest."""
    rising = np.argsort(scores, kind="stable").tolist()
    missed = [i for i in rising if labels[i]][:EXTREMES]
    false = [i for i in reversed(rising) if not labels[i]][:EXTREMES]
    return missed + false


def _points(axis: str, curve: tuple[np.ndarray, np.ndarray]) -> dict[str, list[float]]:
    return {"fpr": curve[0].tolist(), axis: curve[1].tolist()}


def _examples(items: Sequence[Item]) -> list[int]:
    """Images that no score has chosen: one of each defect in turn, and a third of normal ones."""
    by_hash = sorted(range(len(items)), key=lambda i: opaque_key(items[i]))
    defects = pd.Series({i: items[i].defect for i in by_hash})
    in_turn = defects.groupby(defects).cumcount().sort_values(kind="stable").index
    normal = [i for i in in_turn if defects[i] == "good"]
    anomalous = [i for i in in_turn if defects[i] != "good"][: EXAMPLES - min(len(normal), EXAMPLES // 3)]
    return anomalous + normal[: EXAMPLES - len(anomalous)]
