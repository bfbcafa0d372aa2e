"""Stored predictions and the truth, to tidy rows. The only place where predictions meet labels and masks."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks import datasets, integrity, interference, results
from benchmarks.datasets.base import Dataset, Item, Truth, masks_of
from benchmarks.interference import Probe
from benchmarks.metrics import detection, localization
from benchmarks.metrics.conventions import CONVENTIONS, Convention
from benchmarks.metrics.detection import UndefinedMetric
from benchmarks.metrics.localization import DefectRegions, Pixels
from benchmarks.metrics.registry import METRICS
from benchmarks.metrics.resize import Size, fit_maps, fit_masks
from benchmarks.plan import Run
from benchmarks.schema import IMAGE_CONVENTION, PROBE_COLUMNS, SCORE_COLUMNS
from benchmarks.scoring import artifacts
from methods.base import InputError, did_you_mean


class CellPredictions(NamedTuple):
    """One result: what its rows say of it, and what was predicted."""

    about: dict[str, Any]
    keys: Sequence[str]
    scores: np.ndarray  # (N,)
    maps: np.ndarray  # (N, h, w)
    probes: CellPredictions | None = (
        None  # the same of the category's probes, if any were made, but with maps of the first only
    )


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
        defects = artifacts.defects(truths)
        for cell in of_category:
            artifacts.write(results.details_dir(group), cell.about, items, truths, defects, cell.scores, cell.maps)
        if settings := runs[0].interference:
            drawn = interference.probes(dataset, category, **settings)
            probed = [cell.probes for cell in of_category if cell.probes]
            probe_rows += _probe_rows(dataset, drawn, probed, truths, of_category)
            for cell in probed:
                artifacts.write_composites(results.details_dir(group), cell.about, dataset, drawn, cell.maps)
    _write("scores", group, rows, SCORE_COLUMNS)
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
    return pd.DataFrame(rows, columns=list(SCORE_COLUMNS))


def _conventions(names: Sequence[str]) -> list[Convention]:
    for name in names:
        if name not in CONVENTIONS:
            raise InputError(f"params.yaml: there is no convention {name!r}. {did_you_mean(name, CONVENTIONS)}")
    return [CONVENTIONS[name] for name in dict.fromkeys(names)]


def _write(folder: str, group: str, rows: list[dict[str, Any]], columns: Sequence[str]) -> None:
    target = results.RESULTS / folder / f"{group}.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=list(columns)).to_csv(target, index=False)


def _cells(run: Run) -> Iterator[CellPredictions]:
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
        of_probes = CellPredictions(of_cell, *probes[category]) if category in probes else None
        yield CellPredictions(of_cell, keys, scores, maps, of_probes)


def _items(dataset: Dataset, category: str, keys: Sequence[str]) -> list[Item]:
    known = {item.key: item for item in dataset.items(category, "test")}
    missing = [key for key in keys if key not in known]
    if missing:
        raise InputError(
            f"{dataset.root} lacks images of the stored predictions, such as {missing[0]} ({len(missing)} in all). "
            f"Restore them, or run `dvc repro` to predict what is there now."
        )
    return [known[key] for key in keys]


def category_rows(
    truths: Sequence[Truth], cells: Sequence[CellPredictions], conventions: Sequence[Convention]
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
        for row in [*_image_rows(labels, picked), *_map_rows(of_subset, picked, conventions)]:
            yield about | row


def _image_rows(labels: np.ndarray, cells: Sequence[CellPredictions]) -> Iterator[dict[str, Any]]:
    for cell in cells:
        for name, metric in METRICS.items():
            if metric.level == "image":
                row = {"metric": name, "convention": IMAGE_CONVENTION}
                yield cell.about | row | _value(metric.compute, labels, cell.scores)


def _map_rows(
    truths: Sequence[Truth], cells: Sequence[CellPredictions], conventions: Sequence[Convention]
) -> Iterator[dict[str, Any]]:
    """Metrics of pixels and regions. Conventions that evaluate the same pixels share the work and the rows of pixels.

    A convention with saturated regions gives rows for data sets that annotate such regions alone, and none of pixels.
    Without masks the rows are empty, with the reason.
    """
    masks = masks_of(truths)
    shared: dict[tuple[str, bool], list[Convention]] = {}
    for convention in conventions:
        shared.setdefault((convention.describe_pixels(), convention.pro == "saturated"), []).append(convention)
    for (_, saturated), of_pixels in shared.items():
        if saturated and not any(truth.regions for truth in truths):
            continue
        if masks is None:
            for cell in cells:
                for row in _pixels_rows(None, of_pixels, f"the data set has no masks for {cell.about['category']}"):
                    yield cell.about | row
            continue
        sizes = of_pixels[0].sizes(cells[0].maps.shape[1:], [mask.shape for mask in masks])
        prepared = _prepare(truths, masks, sizes, of_pixels[0])
        for cell in cells:
            for row in _pixels_rows(Pixels(fit_maps(cell.maps, sizes), prepared), of_pixels):
                yield cell.about | row


def _prepare(
    truths: Sequence[Truth], masks: Sequence[NDArray[np.bool_]], sizes: Sequence[Size], convention: Convention
) -> DefectRegions:
    if convention.pro == "saturated":
        return localization.prepare_regions([[(r.mask, r.saturation) for r in t.regions] for t in truths], sizes)
    return localization.prepare(fit_masks(masks, sizes, convention.masks) if convention.masks else masks)


def _pixels_rows(
    pixels: Pixels | None, conventions: Sequence[Convention], reason: str = ""
) -> Iterator[dict[str, Any]]:
    """The rows of one cell under conventions that evaluate the same pixels; empty ones where there are no pixels."""
    empty = {"value": None, "reason": reason}
    for name, metric in METRICS.items():
        if metric.level == "pixel" and conventions[0].pro != "saturated":
            row = {"metric": name, "convention": conventions[0].describe_pixels()}
            yield row | (_value(metric.compute, pixels) if pixels else empty)
        for convention in conventions:
            if metric.level == "region" and convention.pro in metric.under:
                row = {"metric": name, "convention": convention.describe()}
                yield row | (_value(metric.compute, pixels, convention) if pixels else empty)


def _probe_rows(
    dataset: Dataset,
    drawn: Sequence[Probe],
    probed: Sequence[CellPredictions],
    truths: Sequence[Truth],
    cells: Sequence[CellPredictions],
) -> Iterator[dict[str, Any]]:
    """Probes of each kind and ratio against the category's normal test images; a patch against the rest of its image.

    Raises:
        InputError: these are not the probes that were predicted.
    """
    normal = np.array([not truth.anomalous for truth in truths])
    for cell in probed:
        if cell.keys != [probe.key for probe in drawn]:
            raise InputError(
                f"{cell.about['record']}: the stored probes are not those that params.yaml asks for: `dvc repro`."
            )
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
            with_patch = [cell._replace(scores=cell.scores[chosen], maps=cell.maps[chosen]) for cell in probed]
            for row in _map_rows(pasted, with_patch, [CONVENTIONS["default"]]):
                yield about | {"images": len(chosen)} | row


def _value(compute: Callable[..., float], *arguments: Any) -> dict[str, Any]:
    try:
        return {"value": compute(*arguments), "reason": ""}
    except UndefinedMetric as reason:
        return {"value": None, "reason": str(reason)}
