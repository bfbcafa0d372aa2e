"""A stored model's predictions for any images: scores, anomaly maps, and which images are anomalous.

The images of the run's own test set get the same keys, order and batches as in the run, and so the same bits.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion

from benchmarks import datasets, protocols
from benchmarks.datasets._files import read_image
from benchmarks.datasets.base import Dataset
from benchmarks.execution import image_arguments
from benchmarks.execution.stored_model import Fitted
from benchmarks.metrics.resize import fit_map
from methods.base import InputError, Sample, did_you_mean
from methods.components.atomic import replacing

COLUMNS = ("image", "score", "threshold", "is_anomalous", "map", "overlay", "reason")
OPAQUE = 0.7  # of an overlay's colour where the map is highest

Advance = Callable[[str, int, int], None]  # what is being done, how many images of it are done, and of how many


class Threshold(NamedTuple):
    """From which score on an image is anomalous.

    Attributes:
        value: an image with a higher score is anomalous.
        calm: a usual value of a normal map, where the colours of overlays begin.
        rule: how the value was found, in words.
    """

    value: float
    calm: float
    rule: str


class Predicted(NamedTuple):
    """An image with what the model says of it."""

    image: Path
    score: float
    anomaly_map: NDArray[np.float32]  # (h, w)


class Summary(NamedTuple):
    """What `write` has done."""

    images: int
    anomalous: int
    failed: dict[Path, str]  # images that cannot be read, and why


def unreadable(images: Sequence[Path], source: Dataset | None, advance: Advance = lambda *_: None) -> dict[Path, str]:
    """The images that cannot be read, and why."""
    failed = {}
    for number, image in enumerate(images, 1):
        try:
            read_image(image, _bit_depth(source))
        except InputError as error:
            failed[image] = str(error)
        advance("reading", number, len(images))
    return failed


def predict(fitted: Fitted, images: Sequence[Path], source: Dataset | None) -> Iterator[Predicted]:
    """Predictions of readable images: first those of the run's test set, in its order, then the others as given.

    Args:
        source: the run's data set, by whose `dataset.yaml` deep images are read; None: it is not here.

    Raises:
        InputError: the memory of the device does not suffice, or a prediction is not finite.
    """
    own = own_test_images(fitted, source) if source else {}
    given: dict[Path, Path] = {}
    for image in images:
        given.setdefault(image.resolve(), image)  # several links may lead to one file
    tested = {given[path]: sample for path, sample in own.items() if path in given}
    others = {image: _sample(number, image, source) for number, image in enumerate(images) if image not in tested}
    for samples in (tested, others):  # apart, so that the others do not complete a batch of the test set
        try:
            predictions = fitted.method.predict(list(samples.values()), fitted.context)
            for image, prediction in zip(samples, predictions, strict=True):
                anomaly_map = prediction.anomaly_map.numpy().astype(np.float32)
                if not (np.isfinite(prediction.score) and np.isfinite(anomaly_map).all()):
                    raise InputError(f"{image}: what {fitted.run} predicts is not finite: its model cannot be used.")
                yield Predicted(image, prediction.score, anomaly_map)
        except torch.OutOfMemoryError as error:
            raise InputError(f"out of GPU memory ({error}). Use a larger GPU, or `--device cpu`.") from None


def dataset_of(fitted: Fitted, roots: dict[str, Path]) -> Dataset | None:
    """The data set that the model was fitted on; None if it is not here."""
    with suppress(InputError):
        return datasets.load(fitted.about.dataset, roots.get(fitted.about.dataset), tuple(fitted.record.categories))
    return None


def own_test_images(fitted: Fitted, source: Dataset) -> dict[Path, Sample]:
    """The test images of the run, in its order, by their file."""
    splits = protocols.splits(fitted.about.protocol, source, fitted.about.seed)
    tests = [split.test for split in splits if split.name == fitted.about.split]
    items = [item for test in tests for of_category in test.values() for item in of_category]
    return {item.image.resolve(): source.sample(item) for item in items}


def stored_threshold(fitted: Fitted, quantile: float, category: str | None = None) -> Threshold:
    """The quantile of the scores of the normal images that the model was stored with.

    Args:
        category: of whose normal images; None: of those of all categories of the model.

    Raises:
        InputError: the model has no such category.
    """
    if category is not None and category not in fitted.normal:
        hint = did_you_mean(category, fitted.normal)
        raise InputError(f"The model of {fitted.run} is not of a category {category!r}. {hint}")
    normal = np.concatenate([of for name, of in fitted.normal.items() if category in (None, name)])
    images = {"validation": "validation", "held out": "held-out training", "training": "training"}
    kind = f"{images[fitted.about.normal_from]} images{f' of {category}' if category else ''} of the run"
    return _threshold(normal, quantile, f"the {len(normal)} normal {kind}")


def threshold_of(predicted: Sequence[Predicted], quantile: float) -> Threshold:
    """The quantile of the scores of these predictions, of normal images."""
    normal = np.array([[one.score, np.median(one.anomaly_map)] for one in predicted], np.float32)
    return _threshold(normal, quantile, f"the {len(normal)} normal images that were given")


def _threshold(normal: NDArray[np.float32], quantile: float, what: str) -> Threshold:
    value, calm = float(np.quantile(normal[:, 0], quantile)), float(np.median(normal[:, 1]))
    return Threshold(value, calm, f"the {quantile:.4g} quantile of the scores of {what}")


def write(
    fitted: Fitted,
    images: Sequence[Path],
    out: Path,
    threshold: Threshold,
    source: Dataset | None,
    advance: Advance = lambda *_: None,
) -> Summary:
    """Predict images into a new folder: `scores.csv`, `maps/NAME.tiff` (float32), `overlays/NAME.png`.

    An image that cannot be read has a row with the reason; the others are done.

    Raises:
        InputError: two images share a name, none can be read, or as `predict`.
    """
    named = dict(zip(images, image_arguments.names(images), strict=True))
    failed = unreadable(images, source, advance)
    readable = [image for image in images if image not in failed]
    if not readable:
        raise InputError("\n".join([*list(failed.values())[:5], "No image can be read."]))
    rows: dict[Path, dict[str, object]] = {image: {"image": image, "reason": why} for image, why in failed.items()}
    with replacing(out) as unfinished:
        unfinished.mkdir()
        for number, one in enumerate(predict(fitted, readable, source), 1):
            rows[one.image] = _store(one, unfinished, named[one.image], threshold, source)
            advance("predicting", number, len(readable))
        with (unfinished / "scores.csv").open("w", newline="") as table:
            writer = csv.DictWriter(table, COLUMNS)
            writer.writeheader()
            writer.writerows(rows[image] for image in images)
    return Summary(len(images), sum(row.get("is_anomalous") is True for row in rows.values()), failed)


def _store(one: Predicted, out: Path, name: Path, threshold: Threshold, source: Dataset | None) -> dict[str, object]:
    """Write the map and the overlay of an image; its row."""
    files = {"map": Path("maps") / f"{name}.tiff", "overlay": Path("overlays") / f"{name}.png"}
    for file in files.values():
        (out / file).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(one.anomaly_map).save(out / files["map"])
    shown = read_image(one.image, _bit_depth(source)).permute(1, 2, 0).numpy()
    Image.fromarray(overlay(shown, one.anomaly_map, threshold)).save(out / files["overlay"])
    is_anomalous = one.score > threshold.value
    return {"image": one.image, "score": one.score, "threshold": threshold.value, "is_anomalous": is_anomalous, **files}


def overlay(image: NDArray[np.uint8], anomaly_map: NDArray[np.float32], threshold: Threshold) -> NDArray[np.uint8]:
    """An image (H, W, 3) with its map in colour over it, and a white line around what is above the threshold.

    The scale is the same for all images: from no colour at the usual value of a normal map, over the middle at the
    threshold, to the full colour as far above it.
    """
    resized = fit_map(anomaly_map, image.shape[:2])
    span = 2 * max(threshold.value - threshold.calm, 1e-30)  # above 0, should both be the same
    level = np.clip((resized - threshold.calm) / span, 0, 1)  # (H, W)
    colour = matplotlib.colormaps["inferno"](level)[..., :3] * 255  # (H, W, 3)
    opacity = OPAQUE * level[..., None]
    mixed = image * (1 - opacity) + colour * opacity
    above = resized > threshold.value
    mixed[above & ~binary_erosion(above, border_value=True)] = 255
    return mixed.round().astype(np.uint8)


def _sample(number: int, image: Path, source: Dataset | None) -> Sample:
    """An image of which nothing is known."""
    return Sample(f"images/predict/{number:09}", "images", partial(read_image, image, _bit_depth(source)))


def _bit_depth(source: Dataset | None) -> int | None:
    return source.options.bit_depth if source else None
