"""Stored predictions and the truth, to tidy rows. The only place where predictions meet labels and masks."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmarks import datasets, details, store
from benchmarks.datasets.base import Dataset, Item, Truth
from benchmarks.metrics import detection, localization
from benchmarks.metrics.conventions import CONVENTIONS, Convention, fit_maps, fit_masks
from benchmarks.metrics.detection import UndefinedMetric
from benchmarks.runs import Run
from methods.base import InputError

COLUMNS = [
    "variant", "method", "dataset", "protocol", "category", "seed", "subset", "metric", "convention", "selection",
    "teacher", "value", "reason", "images", "anomalous", "fingerprint", "record",
]  # fmt: skip
IMAGE_METRICS: dict[str, Callable[..., float]] = {
    "image_auroc": detection.auroc,
    "image_ap": detection.average_precision,
    "image_f1_max": detection.f1_max,
}
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1_max")


class Cell(NamedTuple):
    """One result: what its rows say of it, and what was predicted."""

    about: dict[str, Any]
    keys: list[str]
    scores: np.ndarray  # (N,)
    maps: np.ndarray  # (N, h, w)


def score_group(group: str, runs: Sequence[Run], conventions: Sequence[str]) -> None:
    """Score every run of a group; writes `scores/GROUP.csv` and `details/GROUP/` (see results/README.md).

    Raises:
        InputError: a convention is unknown, or an image that was predicted is no longer in the data set.
    """
    for name in conventions:
        if name not in CONVENTIONS:
            raise InputError(f"params.yaml: there is no convention {name!r}; it may be {', '.join(CONVENTIONS)}.")
    shutil.rmtree(details.folder(group), ignore_errors=True)
    details.folder(group).mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    cells = [cell for run in runs for cell in _cells(run)]
    for category in dict.fromkeys(cell.about["category"] for cell in cells):
        of_category = [cell for cell in cells if cell.about["category"] == category]
        dataset = datasets.load(runs[0].dataset, runs[0].root, runs[0].categories)
        items = _items(dataset, category, of_category[0].keys)
        truths = [dataset.truth(item) for item in items]
        rows += _rows(truths, of_category, [CONVENTIONS[name] for name in conventions])
        for cell in of_category:
            details.write(details.folder(group), cell.about, items, truths, cell.scores, cell.maps)
    target = store.RESULTS / "scores" / f"{group}.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=COLUMNS).to_csv(target, index=False)


def _cells(run: Run) -> Iterator[Cell]:
    folder = store.result_dir(run)
    record, predictions = store.load(folder)
    names = ("variant", "method", "dataset", "protocol", "seed", "selection", "fingerprint")
    teacher = record.get("teacher")
    about = {name: record[name] for name in names} | {
        "teacher": f"{teacher['name']} ({teacher['pretraining']})" if teacher else "none",
        "record": str(folder / "record.json"),
    }
    for category, (keys, scores, maps) in predictions.items():
        yield Cell(about | {"category": category}, keys, scores, maps)


def _items(dataset: Dataset, category: str, keys: Sequence[str]) -> list[Item]:
    known = {item.key: item for item in dataset.items(category, "test")}
    missing = [key for key in keys if key not in known]
    if missing:
        raise InputError(
            f"{dataset.root}: {len(missing)} images that were predicted are no longer in the data set, such as "
            f"{missing[0]}. Restore them, or run `dvc repro` to predict what is there now."
        )
    return [known[key] for key in keys]


def _rows(
    truths: Sequence[Truth], cells: Sequence[Cell], conventions: Sequence[Convention]
) -> Iterator[dict[str, Any]]:
    """The rows of one category: on all test images, and on each kind of anomaly where there are several."""
    kinds = sorted({truth.subset for truth in truths if truth.anomalous})
    for subset in ["all", *(kinds if len(kinds) > 1 else [])]:
        chosen = [i for i, truth in enumerate(truths) if subset == "all" or truth.subset in ("good", subset)]
        of_subset = [truths[i] for i in chosen]
        labels = np.array([truth.anomalous for truth in of_subset])
        about = {"subset": subset, "images": len(chosen), "anomalous": int(labels.sum())}
        picked = [cell._replace(scores=cell.scores[chosen], maps=cell.maps[chosen]) for cell in cells]
        for cell in picked:
            for metric, compute in IMAGE_METRICS.items():
                named = {"metric": metric, "convention": "folder label"}
                yield cell.about | about | named | _value(compute, labels, cell.scores)
        for convention in conventions:
            rows = _spro_rows if convention.pro == "saturated" else _pixel_rows
            for row in rows(of_subset, picked, convention):
                yield about | row


def _pixel_rows(truths: Sequence[Truth], cells: Sequence[Cell], convention: Convention) -> Iterator[dict[str, Any]]:
    size = convention.target(cells[0].maps.shape[1:], truths[0].mask.shape)
    prepared = localization.prepare(fit_masks([t.mask for t in truths], size, convention.mask_threshold))
    for cell in cells:
        maps, described = fit_maps(cell.maps, size), convention.describe(cell.maps.shape[1:])
        values: dict[str, Any] = dict.fromkeys(PIXEL_METRICS)
        reason = ""
        try:
            values = dict(localization.pixel_metrics(maps, prepared, (convention.fpr_limit,)))
        except UndefinedMetric as error:
            reason = str(error)
        at_size = described[described.index("mask") :]
        for metric in PIXEL_METRICS:
            yield cell.about | {"metric": metric, "convention": at_size, "value": values[metric], "reason": reason}
        named = {"metric": "aupro", "convention": described}
        if convention.pro == "pooled" and not reason:
            yield cell.about | named | {"value": values["aupro"][convention.fpr_limit], "reason": ""}
        else:
            yield cell.about | named | _value(convention.aupro, maps, prepared)


def _spro_rows(truths: Sequence[Truth], cells: Sequence[Cell], convention: Convention) -> Iterator[dict[str, Any]]:
    """sPRO, for data sets that give their regions a saturation; no row for others."""
    if not any(truth.regions for truth in truths):
        return
    size = convention.target(cells[0].maps.shape[1:], truths[0].mask.shape)
    prepared = localization.prepare_regions([[(r.mask, r.saturation) for r in t.regions] for t in truths], size)
    for cell in cells:
        named = {"metric": "spro", "convention": convention.describe(cell.maps.shape[1:])}
        yield cell.about | named | _value(convention.aupro, fit_maps(cell.maps, size), prepared)


def _value(compute: Callable[..., float], *arguments: Any) -> dict[str, Any]:
    try:
        return {"value": compute(*arguments), "reason": ""}
    except UndefinedMetric as reason:
        return {"value": None, "reason": str(reason)}
