"""From a run to its numbers: fit the method, predict the test images and all others that the run asks for.

Part of every fingerprint, as is all that it imports: what changes here changes every run.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic_core import to_jsonable_python

import methods
from benchmarks.storage.arrays import Predictions
from methods.base import Context, InputError, Method, Progress, Sample, TestEvaluation

if TYPE_CHECKING:
    from benchmarks.datasets.base import Dataset
    from benchmarks.plan import Run
    from benchmarks.protocols.base import Split

NORMAL_IMAGES = 100  # of each category, by whose predictions a stored model's users set thresholds


class ProbeImages(NamedTuple):
    """Probes of one category; only the first `maps` keep their anomaly map."""

    keys: list[str]
    samples: list[Sample]
    maps: int


class Model(NamedTuple):
    """What is stored of a fitted method.

    Attributes:
        state: as `Method.state` gives it.
        normal: category -> of some normal images each the score and the median of the map, (N, 2) float32.
        normal_from: which images these are: "validation", the data set's split; "held out", training images that the
            method was not trained on; or "training".
    """

    state: dict[str, torch.Tensor]
    normal: dict[str, NDArray[np.float32]]
    normal_from: str


class Outcome(NamedTuple):
    """What a run gives.

    Attributes:
        predictions: of the test images, by category.
        parts: of other images, by the name of their folder: see `benchmarks.results.save`.
        record: entries of `record.json`.
        timing: entries of its `provenance`.
        model: None if it is not kept, or if the method has no state.
    """

    predictions: dict[str, Predictions]
    parts: dict[str, dict[str, Predictions]]
    record: dict[str, Any]
    timing: dict[str, Any]
    model: Model | None


def random_seed(run: Run) -> int:
    """Derived from what the run is, so that the order of runs never matters; the same for every variant."""
    identity = json.dumps([run.dataset, run.protocol, run.split, run.seed], sort_keys=True)
    return int(hashlib.blake2b(identity.encode(), digest_size=8).hexdigest(), 16) % 2**31


def fit_and_predict(
    run: Run,
    dataset: Dataset,
    split: Split,
    *,
    device: str,
    cache: Path,
    cache_gib: float,
    checkpoint: Path,
    progress: Callable[[Progress], None],
    evaluate_test: TestEvaluation | None = None,
    probes: Mapping[str, ProbeImages] = MappingProxyType({}),
) -> Outcome:
    """Carry out a run.

    Args:
        cache: where images and teacher features of this data set are kept.
        cache_gib: memory for teacher features.
        checkpoint: where the fit saves its state, and from where it resumes.
        evaluate_test: measures a model on the test images while it trains; None: nothing does.
        probes: images of cross-class interference to predict as well, by category.

    Raises:
        InputError: the method refuses the images, or a GPU's memory does not suffice for training.
        ValueError: the method broke its contract.
    """
    context = _context(run, device, cache, cache_gib, checkpoint, progress, evaluate_test)
    method = methods.create(run.method, **run.hyper_parameters)
    train, validation = ([dataset.sample(item) for item in items] for items in (split.train, split.validation))
    test = [dataset.sample(item) for items in split.test.values() for item in items]
    started = time.perf_counter()
    try:
        method.fit(train, validation, context)
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"out of GPU memory during training: {error}. Use a larger GPU, or run fewer on each (`executor.jobs`). A "
            "smaller batch would be another experiment: declare it as a variant."
        ) from error
    fitted = time.perf_counter()
    scores, maps, predict_batch = predict(method, test, context)
    predicted = time.perf_counter()
    context = replace(context, predict_batch=predict_batch)
    parts = {
        "interference": {category: _probes(method, images, context) for category, images in probes.items()},
        "private": _private(method, dataset, split, context),
    }
    record = _record(run, method, dataset, split)
    if parts["private"]:
        record["validation_pixels"] = _validation_pixels(method, dataset, split, context)
    timing = {
        "predict_batch": predict_batch,
        "fit_seconds": round(fitted - started, 3),
        "predict_seconds": round(predicted - fitted, 3),
        "test_images_per_second": round(len(test) / (predicted - fitted), 3),
    }
    model = _model(method, train, validation, context) if run.keep_model else None
    return Outcome(_by_category(split, scores, maps), parts, record, timing, model)


def _context(
    run: Run,
    device: str,
    cache: Path,
    cache_gib: float,
    checkpoint: Path,
    progress: Callable[[Progress], None],
    evaluate_test: TestEvaluation | None,
) -> Context:
    return Context(
        seed=random_seed(run),
        device=device,
        **run.compute,
        weights={name: Path(path) for name, path in run.weights.items()},
        cache=cache,
        cache_gib=cache_gib,
        checkpoint=checkpoint,
        evaluate_test=evaluate_test,
        evaluate_every=run.evaluate_every or 1,
        progress=progress,
    )


def _record(run: Run, method: Method, dataset: Dataset, split: Split) -> dict[str, Any]:
    """What the record says of how the predictions were made."""
    numbers = {"train": len(split.train), "validation": len(split.validation)}
    return {
        "hyper_parameters": to_jsonable_python(asdict(method)),
        "paper": method.paper,
        "source": method.source,
        "deviations": list(method.deviations),
        "selection": "last",
        "data": {"revision": dataset.revision(split.test), **numbers},
        "compute": run.compute,
        **method.record,
    }


def predict(
    method: Method, samples: Sequence[Sample], context: Context
) -> tuple[NDArray[np.float32], NDArray[np.float32], int]:
    """Scores (N,), anomaly maps (N, h, w), and the batch size: smaller than asked for where a GPU's memory is short.

    Raises:
        ValueError: the method broke its contract.
    """
    try:
        predictions = list(method.predict(samples, context))
    except torch.OutOfMemoryError:
        context = replace(context, predict_batch=max(1, context.predict_batch // 4))
        predictions = []
    if not predictions:  # outside of the handler, whose traceback holds on to the tensors
        torch.cuda.empty_cache()
        predictions = list(method.predict(samples, context))
    scores = np.array([prediction.score for prediction in predictions], np.float32)
    maps = np.stack([prediction.anomaly_map.numpy() for prediction in predictions]).astype(np.float32)
    finite = np.isfinite(scores).all() and np.isfinite(maps).all()
    if len(predictions) != len(samples) or maps.ndim != 3 or not finite:
        raise ValueError(
            f"{type(method).__name__}.predict gave {len(predictions)} predictions for {len(samples)} images, maps of "
            f"shape {maps.shape}, {(~np.isfinite(scores)).sum()} scores and {(~np.isfinite(maps)).sum()} pixels that "
            "are not finite"
        )
    return scores, maps, context.predict_batch


def _model(method: Method, train: Sequence[Sample], validation: Sequence[Sample], context: Context) -> Model | None:
    """The fitted method, with what it predicts for normal images, if possible for others than it was trained on."""
    state = method.state()
    if state is None:
        return None
    held_out = method.held_out(train, validation)
    normal_from = "validation" if validation else "held out" if held_out else "training"
    by_category: dict[str, list[Sample]] = {}
    for sample in validation or held_out or train:
        by_category.setdefault(sample.category, []).append(sample)
    normal = {}
    for category, samples in by_category.items():
        spread = samples[:: math.ceil(len(samples) / NORMAL_IMAGES)]
        # Features of so few images, used once, are not worth a place in the cache.
        scores, maps, _ = predict(method, spread, replace(context, cache=None, cache_gib=0))
        normal[category] = np.stack([scores, np.median(maps, (1, 2))], 1).astype(np.float32)
    return Model(state, normal, normal_from)


def _by_category(split: Split, scores: NDArray[np.float32], maps: NDArray[np.float32]) -> dict[str, Predictions]:
    predictions, start = {}, 0
    for category, items in split.test.items():
        stop = start + len(items)
        predictions[category] = Predictions([item.key for item in items], scores[start:stop], maps[start:stop])
        start = stop
    return predictions


def _probes(method: Method, images: ProbeImages, context: Context) -> Predictions:
    scores, maps, _ = predict(method, images.samples, context)
    return Predictions(images.keys, scores, maps[: images.maps].copy())


def _private(method: Method, dataset: Dataset, split: Split, context: Context) -> dict[str, Predictions]:
    """Predictions of test images whose truth only a server knows."""
    predictions = {}
    for category in split.test:
        if items := dataset.private(category):
            scores, maps, _ = predict(method, [dataset.sample(item) for item in items], context)
            predictions[category] = Predictions([item.key for item in items], scores, maps)
    return predictions


def _validation_pixels(
    method: Method, dataset: Dataset, split: Split, context: Context
) -> Mapping[str, Mapping[str, float]]:
    """Of all pixels of a category's validation maps: mean and standard deviation, by which thresholds are set."""
    statistics = {}
    for category in split.test:
        if held_out := [dataset.sample(item) for item in split.validation if item.category == category]:
            _, maps, _ = predict(method, held_out, context)
            mean, std = maps.mean(dtype=np.float64), maps.std(dtype=np.float64)
            statistics[category] = {"images": len(held_out), "mean": float(mean), "std": float(std)}
    return statistics
