"""What figures are drawn from: per-image scores, curves, and a few images with truth and map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from benchmarks import interference, store
from benchmarks.datasets.base import Dataset, Item, Truth, opaque_key
from benchmarks.interference import Probe
from benchmarks.metrics import detection, localization
from benchmarks.metrics.conventions import fit_masks
from benchmarks.metrics.detection import UndefinedMetric

EXAMPLES = 6  # test images of each category that figures show


def folder(group: str) -> Path:
    return store.RESULTS / "details" / group


def write(
    target: Path,
    about: dict[str, Any],
    items: Sequence[Item],
    truths: Sequence[Truth],
    scores: np.ndarray,
    maps: np.ndarray,
) -> None:
    """Write `CATEGORY-seedK.json` and `.npz` of one cell into a folder, as results/README.md describes them."""
    target.mkdir(parents=True, exist_ok=True)
    labels = [truth.anomalous for truth in truths]
    masks = fit_masks([truth.mask for truth in truths], maps.shape[1:], 0)
    curves = {}
    try:
        curves["roc"] = _points("tpr", detection.roc_curve(labels, scores))
        curves["pro"] = _points("pro", localization.pro_curve(maps, localization.prepare(masks)))
    except UndefinedMetric:
        pass  # the rows give the reason
    names = ("variant", "method", "dataset", "protocol", "category", "seed", "record")
    images = [
        {"key": item.key, "defect": item.defect, "anomalous": label, "score": float(score)}
        for item, label, score in zip(items, labels, scores, strict=True)
    ]
    stem = f"{about['category']}-seed{about['seed']}"
    store.write_json(
        target / f"{stem}.json", {name: about[name] for name in names} | {"images": images, "curves": curves}
    )
    shown = _examples(items)
    height, width = maps.shape[1:]
    small = [Image.open(items[i].image).convert("RGB").resize((width, height)) for i in shown]
    np.savez_compressed(
        target / f"{stem}.npz",
        keys=np.array([items[i].key for i in shown]),
        images=np.stack([np.asarray(image) for image in small]),  # (K, h, w, 3)
        truth=masks[shown],
        maps=maps[shown],
    )


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
        truth=fit_masks([interference.mask(dataset, probe) for probe in shown], (height, width), 0),
        maps=maps[: len(shown)],
    )


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
