"""Stored predictions and the truth, to tidy rows. The only place where predictions meet labels and masks."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmarks import datasets, integrity, interference, results
from benchmarks.datasets.base import Dataset, Item, Truth, masks_of
from benchmarks.interference import Probe
from benchmarks.metrics import detection, localization
from benchmarks.metrics.conventions import CONVENTIONS, Convention, fit_maps, fit_masks
from benchmarks.metrics.detection import UndefinedMetric
from benchmarks.metrics.localization import GroundTruth
from benchmarks.plan import Run
from benchmarks.scoring import artifacts
from methods.base import InputError

COLUMNS = [
    "variant", "method", "dataset", "protocol", "category", "seed", "subset", "metric", "convention", "selection",
    "teacher", "value", "reason", "images", "anomalous", "fingerprint", "record",
]  # fmt: skip
PROBE_COLUMNS = [column for name in COLUMNS for column in (["probe", "ratio"] if name == "subset" else [name])]
IMAGE_METRICS: dict[str, Callable[..., float]] = {
    "image_auroc": detection.auroc,
    "image_ap": detection.average_precision,
    "image_f1_max": detection.f1_max,
}
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1_max")


class Cell(NamedTuple):
    """One result: what its rows say of it, and what was predicted."""

    about: dict[str, Any]
    keys: Sequence[str]
    scores: np.ndarray  # (N,)
    maps: np.ndarray  # (N, h, w)
    probes: Cell | None = None  # the same of the category's probes, if any were made, but with maps of the first only


def score_group(group: str, runs: Sequence[Run], conventions: Sequence[str]) -> None:
    """Score every run of a group; writes `scores/GROUP.csv`, `interference/GROUP.csv`, `details/GROUP/` and their seal.

    results/README.md describes them.

    Raises:
        InputError: a convention is unknown, or an image that was predicted is no longer in the data set.
    """
    known = _conventions(conventions)
    shutil.rmtree(results.details_dir(group), ignore_errors=True)
    results.details_dir(group).mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    probe_rows: list[dict[str, Any]] = []
    cells = [cell for run in runs for cell in _cells(run)]
    for category in dict.fromkeys(cell.about["category"] for cell in cells):
        of_category = [cell for cell in cells if cell.about["category"] == category]
        dataset = datasets.load(runs[0].dataset, runs[0].root, runs[0].categories)
        items = _items(dataset, category, of_category[0].keys)
        truths = [dataset.truth(item) for item in items]
        rows += category_rows(truths, of_category, known)
        for cell in of_category:
            artifacts.write(results.details_dir(group), cell.about, items, truths, cell.scores, cell.maps)
        if settings := runs[0].interference:
            drawn = interference.probes(dataset, category, **settings)
            probed = [cell.probes for cell in of_category if cell.probes]
            probe_rows += _probe_rows(dataset, drawn, probed, truths, of_category)
            for cell in probed:
                artifacts.write_composites(results.details_dir(group), cell.about, dataset, drawn, cell.maps)
    _write("scores", group, rows, COLUMNS)
    _write("interference", group, probe_rows, PROBE_COLUMNS)
    integrity.seal(group, runs)


def score_runs(runs: Sequence[Run], conventions: Sequence[str]) -> pd.DataFrame:
    """The tidy rows of some runs, which are written nowhere: to look at one cell alone.

    Raises:
        InputError: as `score_group`.
    """
    known = _conventions(conventions)
    rows: list[dict[str, Any]] = []
    for run in runs:
        dataset = datasets.load(run.dataset, run.root, run.categories)
        for cell in _cells(run):
            truths = [dataset.truth(item) for item in _items(dataset, cell.about["category"], cell.keys)]
            rows += category_rows(truths, [cell], known)
    return pd.DataFrame(rows, columns=COLUMNS)


def _conventions(names: Sequence[str]) -> list[Convention]:
    for name in names:
        if name not in CONVENTIONS:
            raise InputError(f"params.yaml: there is no convention {name!r}; it may be {', '.join(CONVENTIONS)}.")
    return [CONVENTIONS[name] for name in names]


def _write(folder: str, group: str, rows: list[dict[str, Any]], columns: list[str]) -> None:
    target = results.RESULTS / folder / f"{group}.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=columns).to_csv(target, index=False)


def _cells(run: Run) -> Iterator[Cell]:
    folder = results.result_dir(run)
    record, predictions = results.load(folder)
    probes = results.load_part(folder, "interference")
    names = ("variant", "method", "dataset", "protocol", "seed", "selection", "fingerprint")
    about = {name: getattr(record, name) for name in names} | {
        "teacher": record.teacher.title if record.teacher else "none",
        "record": str(folder / "record.json"),
    }
    for category, (keys, scores, maps) in predictions.items():
        of_cell = about | {"category": category}
        of_probes = Cell(of_cell, *probes[category]) if category in probes else None
        yield Cell(of_cell, keys, scores, maps, of_probes)


def _items(dataset: Dataset, category: str, keys: Sequence[str]) -> list[Item]:
    known = {item.key: item for item in dataset.items(category, "test")}
    missing = [key for key in keys if key not in known]
    if missing:
        raise InputError(
            f"{dataset.root}: {len(missing)} images that were predicted are no longer in the data set, such as "
            f"{missing[0]}. Restore them, or run `dvc repro` to predict what is there now."
        )
    return [known[key] for key in keys]


def category_rows(
    truths: Sequence[Truth], cells: Sequence[Cell], conventions: Sequence[Convention]
) -> Iterator[dict[str, Any]]:
    """The rows of one category: on all test images, and on each kind of anomaly where there are several."""
    kinds = sorted({truth.subset for truth in truths if truth.anomalous})
    for subset in ["all", *(kinds if len(kinds) > 1 else [])]:
        of_subset, picked = truths, cells
        if subset != "all":  # a choice copies the maps, which may be many
            chosen = [i for i, truth in enumerate(truths) if truth.subset in ("good", subset)]
            of_subset = [truths[i] for i in chosen]
            picked = [cell._replace(scores=cell.scores[chosen], maps=cell.maps[chosen]) for cell in cells]
        labels = np.array([truth.anomalous for truth in of_subset])
        about = {"subset": subset, "images": len(of_subset), "anomalous": int(labels.sum())}
        for cell in picked:
            for metric, compute in IMAGE_METRICS.items():
                named = {"metric": metric, "convention": "folder label"}
                yield cell.about | about | named | _value(compute, labels, cell.scores)
        pixel = [convention for convention in conventions if convention.pro != "saturated"]
        if masks_of(of_subset) is None:
            for row in _rows_without_masks(picked, pixel):
                yield about | row
            continue
        for row in _pixel_rows(of_subset, picked, pixel):
            yield about | row
        for convention in conventions:
            if convention.pro == "saturated":
                for row in _spro_rows(of_subset, picked, convention):
                    yield about | row


def _rows_without_masks(cells: Sequence[Cell], conventions: Sequence[Convention]) -> Iterator[dict[str, Any]]:
    """Empty rows of the pixel metrics and AUPRO, with the reason, for a category whose pixels are not annotated."""
    for cell in cells:
        shape = cell.maps.shape[1:]
        empty = {"value": None, "reason": f"the data set has no masks for {cell.about['category']}"}
        places = [(metric, c.describe_pixels(shape)) for c in conventions for metric in PIXEL_METRICS]
        places += [("aupro", convention.describe(shape)) for convention in conventions]
        for metric, words in dict.fromkeys(places):
            yield cell.about | {"metric": metric, "convention": words} | empty


def _pixel_rows(
    truths: Sequence[Truth], cells: Sequence[Cell], conventions: Sequence[Convention]
) -> Iterator[dict[str, Any]]:
    """Pixel metrics and AUPRO. Conventions that evaluate at one size and mask threshold share the work and the rows."""
    shape, masks = cells[0].maps.shape[1:], masks_of(truths) or []
    frames: dict[tuple[tuple[int, int], float], dict[str, Convention]] = {}
    for convention in conventions:
        frame = convention.target(shape, masks[0].shape), convention.mask_threshold
        frames.setdefault(frame, {})[convention.describe(shape)] = convention
    for (size, threshold), described in frames.items():
        prepared = localization.prepare(fit_masks(masks, size, threshold))
        for cell in cells:
            for row in _frame_rows(cell.maps, size, prepared, described):
                yield cell.about | row


def _frame_rows(
    maps: np.ndarray, size: tuple[int, int], truth: GroundTruth, described: Mapping[str, Convention]
) -> Iterator[dict[str, Any]]:
    shape, maps = maps.shape[1:], fit_maps(maps, size)
    values: dict[str, Any] = dict.fromkeys(PIXEL_METRICS)
    reason = ""
    try:
        limits = [convention.fpr_limit for convention in described.values()]
        values = dict(localization.pixel_metrics(maps, truth, limits))
    except UndefinedMetric as error:
        reason = str(error)
    for of_pixels in dict.fromkeys(convention.describe_pixels(shape) for convention in described.values()):
        for metric in PIXEL_METRICS:
            yield {"metric": metric, "convention": of_pixels, "value": values[metric], "reason": reason}
    for words, convention in described.items():
        named = {"metric": "aupro", "convention": words}
        if convention.pro == "pooled" and not reason:
            yield named | {"value": values["aupro"][convention.fpr_limit], "reason": ""}
        else:
            yield named | _value(convention.aupro, maps, truth)


def _spro_rows(truths: Sequence[Truth], cells: Sequence[Cell], convention: Convention) -> Iterator[dict[str, Any]]:
    """sPRO, for data sets that give their regions a saturation; no row for others."""
    if not any(truth.regions for truth in truths):
        return
    masks = masks_of(truths) or []
    size = convention.target(cells[0].maps.shape[1:], masks[0].shape)
    prepared = localization.prepare_regions([[(r.mask, r.saturation) for r in t.regions] for t in truths], size)
    for cell in cells:
        named = {"metric": "spro", "convention": convention.describe(cell.maps.shape[1:])}
        yield cell.about | named | _value(convention.aupro, fit_maps(cell.maps, size), prepared)


def _probe_rows(
    dataset: Dataset,
    drawn: Sequence[Probe],
    probed: Sequence[Cell],
    truths: Sequence[Truth],
    cells: Sequence[Cell],
) -> Iterator[dict[str, Any]]:
    """Probes of each kind and ratio against the category's normal test images; a patch against the rest of its image.

    Raises:
        InputError: these are not the probes that were predicted.
    """
    normal = np.array([not truth.anomalous for truth in truths])
    for cell in probed:
        if cell.keys != [probe.key for probe in drawn]:
            raise InputError(f"{cell.about['record']}: other probes were predicted than now asked for; `dvc repro`.")
    for kind, ratio in dict.fromkeys((probe.kind, probe.ratio) for probe in drawn):
        chosen = [i for i, probe in enumerate(drawn) if (probe.kind, probe.ratio) == (kind, ratio)]
        about = {"probe": kind, "ratio": ratio, "anomalous": len(chosen)}
        labels = np.repeat([False, True], [normal.sum(), len(chosen)])
        named = {"metric": "image_auroc", "convention": "against normal test images", "images": len(labels)}
        for cell, of_probes in zip(cells, probed, strict=True):
            scores = np.concatenate([cell.scores[normal], of_probes.scores[chosen]])
            yield cell.about | about | named | _value(detection.auroc, labels, scores)
        if kind == "cut_paste":
            pasted = [Truth(True, interference.mask(dataset, drawn[i]), (), kind) for i in chosen]
            found = [cell._replace(scores=cell.scores[chosen], maps=cell.maps[chosen]) for cell in probed]
            for row in _pixel_rows(pasted, found, [CONVENTIONS["default"]]):
                yield about | {"images": len(chosen)} | row


def _value(compute: Callable[..., float], *arguments: Any) -> dict[str, Any]:
    try:
        return {"value": compute(*arguments), "reason": ""}
    except UndefinedMetric as reason:
        return {"value": None, "reason": str(reason)}
