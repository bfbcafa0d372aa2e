"""Recomputes the claimed values of a bundle from its maps and the user's own copy of the data set.

The bundle is read as a stream by `benchmarks/archive.py`: only the maps of one category and seed are in memory at a
time. They are scored by `benchmarks/score.py`, as Proctor's own runs are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks import datasets
from benchmarks.datasets.base import Dataset, Truth
from benchmarks.metrics.conventions import CONVENTIONS, Convention
from benchmarks.scoring import score
from benchmarks.submissions.reader import BundleReader
from benchmarks.submissions.schema import MAX_CELL_BYTES, Manifest, Map, Value, ValueKey
from benchmarks.wording import counted
from methods.base import InputError

TOLERANCE = 1e-6  # absolute: another order of summation changes a fraction by 1e-12, another map by more
MAX_MAGNITUDE = 1e30  # of a map's values: leaves room for sums within float32's range
MAX_LISTED = 20  # problems, and differing values, that are printed one by one


class Recomputed(NamedTuple):
    value: float | None
    reason: str  # why there is no value; else empty


class Comparison(NamedTuple):
    """A claimed value and the recomputed one."""

    claim: Value
    recomputed: float | None
    reason: str  # why there is no recomputed value; else empty

    @property
    def difference(self) -> float | None:
        return None if self.recomputed is None else self.recomputed - self.claim.value

    @property
    def agrees(self) -> bool:
        return self.difference is not None and abs(self.difference) <= TOLERANCE * max(1, abs(self.claim.value))


class ImageProblem(NamedTuple):
    """A problem with an image. Its category and seed are then not scored."""

    image: str
    seed: int
    problem: str


class Report(NamedTuple):
    manifest: Manifest
    sha256: str  # of the bundle
    values: list[Comparison]
    images: list[ImageProblem]

    @property
    def agrees(self) -> bool:
        """Whether every claimed value was recomputed, from all test images, and agrees within TOLERANCE."""
        return not self.images and all(value.agrees for value in self.values)

    def as_json(self) -> dict[str, Any]:
        return {
            **self.manifest.model_dump(include={"name", "method", "variant", "dataset", "protocol"}),
            "sha256": self.sha256,
            "agrees": self.agrees,
            "values": [
                value.claim.model_dump(exclude={"value"})
                | {"claimed": value.claim.value, "recomputed": value.recomputed}
                | {"difference": value.difference, "agrees": value.agrees, "reason": value.reason}
                for value in self.values
            ],
            "images": [problem._asdict() for problem in self.images],
        }


def verify(path: Path, root: Path | None = None) -> Report:
    """Recompute every claimed value of a bundle.

    Args:
        path: the bundle.
        root: folder of the data set; None: the default of `benchmarks.datasets.default_root`.

    Raises:
        InputError: the bundle does not follow its format, or the data set cannot be used; names the member.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file. Give the path of a bundle.")
    problems: list[ImageProblem] = []
    recomputed: dict[ValueKey, Recomputed] = {}
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        reader = BundleReader(file, path)
        manifest = reader.read_manifest()
        dataset = datasets.load(manifest.dataset, root, [entry.category for entry in manifest.maps])
        for category, entries in groupby(manifest.maps, lambda entry: entry.category):
            values, of_images = _score_category(reader, dataset, category, entries, manifest.claims)
            recomputed |= values
            problems += of_images
        for weights in manifest.weights:
            reader.check_weights(weights)
        reader.check_end()
    absent = Recomputed(None, "unknown metric, convention or subset, or no maps of this category and seed")
    comparisons = [Comparison(claim, *recomputed.get(claim.key, absent)) for claim in manifest.claims]
    return Report(manifest, digest, comparisons, problems)


def data_revision(report: Report, root: Path | None) -> str:
    """The revision of the data on which a bundle was verified. Reads every image of the bundle's categories."""
    categories = [entry.category for entry in report.manifest.maps]
    return datasets.load(report.manifest.dataset, root, categories).revision()


def table(report: Report) -> Table:
    """Every claimed value beside the recomputed one. The schema keeps markup and control characters out of the text."""
    columns = Table("category", "seed", "subset", "metric", "convention", "claimed", "recomputed", "difference", "")
    for value in report.values:
        recomputed = [value.reason, ""]
        if value.difference is not None:
            recomputed = [f"{value.recomputed:.6f}", f"{value.difference:+.1e}"]
        category, seed, *metric = value.claim.key
        claimed = f"{value.claim.value:.6f}"
        columns.add_row(category, str(seed), *metric, claimed, *recomputed, "" if value.agrees else "differs")
    return columns


def summary(report: Report) -> Iterator[str]:
    """The result of a verification in sentences: first the problems, last the conclusion."""
    for image, seed, problem in report.images[:MAX_LISTED]:
        yield f"seed {seed}, {image}: {problem}"
    if len(report.images) > MAX_LISTED:
        yield f"… and {len(report.images) - MAX_LISTED} more problems with images; `--json` lists all"
    differing = [value for value in report.values if not value.agrees]
    for value in differing[:MAX_LISTED]:
        claim = value.claim
        recomputed = value.reason if value.recomputed is None else f"recomputed {value.recomputed:.6f}"
        metric = f"seed {claim.seed}, {claim.category}: {claim.metric} ({claim.convention})"
        yield f"{metric}: claimed {claim.value:.6f}, {recomputed}"
    if len(differing) > MAX_LISTED:
        yield f"… and {len(differing) - MAX_LISTED} more values"
    maps, total = len(report.manifest.maps), len(report.values)
    if report.agrees:
        yield f"verified: all {total} claimed values agree with those of the {maps} maps within {TOLERANCE:g}"
    else:
        images = f"{counted(len(report.images), 'problem')} with images"
        yield f"NOT verified: {len(differing)} of {total} claimed values do not agree with the maps; {images}"


def _score_category(
    reader: BundleReader, dataset: Dataset, category: str, entries: Iterable[Map], claims: Sequence[Value]
) -> tuple[dict[ValueKey, Recomputed], list[ImageProblem]]:
    """Read the maps of a category, seed after seed, and recompute its claimed values."""
    items = {item.key: item for item in dataset.items(category, "test")}
    truths: list[Truth] = []  # of all test images; read once, for the first complete seed
    values: dict[ValueKey, Recomputed] = {}
    problems: list[ImageProblem] = []
    for seed, of_seed in groupby(entries, lambda entry: entry.seed):
        listed = list(of_seed)
        claimed = [claim for claim in claims if (claim.category, claim.seed) == (category, seed)]
        maps, of_images = _read_maps(reader, listed, items.keys())
        if of_images:
            problems += of_images
            reason = (
                counted(len(of_images), "problem with images", "problems with images") + " of this category and seed"
            )
            values |= {claim.key: Recomputed(None, reason) for claim in claimed}
            continue
        truths = truths or [dataset.truth(items[entry.image]) for entry in listed]
        values |= _score_seed(listed, maps, truths, {claim.convention for claim in claimed})
    return values, problems


def _score_seed(
    entries: Sequence[Map], maps: NDArray[np.float32], truths: Sequence[Truth], claimed: AbstractSet[str]
) -> dict[ValueKey, Recomputed]:
    """The values of one category and seed, under the claimed conventions."""
    category, seed = entries[0].category, entries[0].seed
    scores = np.array([entry.score for entry in entries])
    cell = score.CellPredictions({"category": category, "seed": seed}, [entry.image for entry in entries], scores, maps)
    values = {}
    for row in score.category_rows(truths, [cell], _conventions(claimed)):
        key = ValueKey(category, seed, row["subset"], row["metric"], row["convention"])
        values[key] = Recomputed(row["value"], row["reason"])
    return values


def _read_maps(
    reader: BundleReader, entries: Sequence[Map], known: AbstractSet[str]
) -> tuple[NDArray[np.float32], list[ImageProblem]]:
    """The maps (N, h, w) of one category and seed, which are complete only if there are no problems."""
    seed, listed = entries[0].seed, {entry.image for entry in entries}
    problems = [ImageProblem(image, seed, "missing from the bundle") for image in sorted(known - listed)]
    problems += [ImageProblem(image, seed, "not in the data set") for image in sorted(listed - known)]
    complete = not problems
    maps = np.empty((0, 0, 0), np.float32)
    for index, entry in enumerate(entries):
        anomaly_map = reader.read_map(entry)
        if index == 0:
            size = anomaly_map.shape
            if len(entries) * anomaly_map.size * maps.itemsize > MAX_CELL_BYTES:
                problem = f"{len(entries)} maps of this size need more than {MAX_CELL_BYTES >> 30} GiB"
                raise reader.error(entry.member, problem, "Store smaller maps.")
            maps = np.empty((len(entries) if complete else 0, *size), np.float32)
        if not (np.abs(anomaly_map, dtype=np.float32) < MAX_MAGNITUDE).all():  # False for NaN
            problem = f"its map has values that are not finite, or of a magnitude of {MAX_MAGNITUDE:g} or more"
            problems.append(ImageProblem(entry.image, seed, problem))
        if anomaly_map.shape != size:
            sizes = f"{anomaly_map.shape[0]}x{anomaly_map.shape[1]}, the first map of the category {size[0]}x{size[1]}"
            problems.append(ImageProblem(entry.image, seed, f"its map has another size: {sizes}"))
        elif complete:
            maps[index] = anomaly_map
    return maps, problems


def _conventions(claimed: AbstractSet[str]) -> list[Convention]:
    """The conventions that these texts describe.

    Several conventions share the description of their pixel metrics. If only pixel metrics are claimed, any of them
    gives the values.
    """
    chosen = [convention for convention in CONVENTIONS.values() if convention.describe() in claimed]
    of_pixels = [convention for convention in CONVENTIONS.values() if convention.pro != "saturated"]
    for text in claimed - {convention.describe_pixels() for convention in chosen if convention in of_pixels}:
        chosen += [convention for convention in of_pixels if convention.describe_pixels() == text][:1]
    return chosen
