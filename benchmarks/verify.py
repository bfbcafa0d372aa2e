"""Scores a bundle again, from its maps and the user's own copy of the data.

`benchmarks/archive.py` reads it as a stream and trusts it with nothing. The maps of one category and seed are in memory
at a time. They are scored by what scores our own runs, `benchmarks/score.py`.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks import datasets, score
from benchmarks.archive import Archive
from benchmarks.bundle import sha256
from benchmarks.datasets.base import Dataset, Truth
from benchmarks.metrics.conventions import CONVENTIONS, Convention
from benchmarks.submission import MAX_CELL_BYTES, Manifest, Map, Value
from methods.base import InputError

# Absolute, and relative above 1: of fractions another order of summation differs by 1e-12, another map by more.
TOLERANCE = 1e-6
MAX_VALUE = 1e30  # of a map: room for sums and for float32's range
SHOWN = 20  # faults and differing values that are named one by one

Place: TypeAlias = tuple[str, int, str, str, str]  # category, seed, subset, metric, convention


class Recomputed(NamedTuple):
    value: float | None
    reason: str  # why there is none


class Compared(NamedTuple):
    """A claimed value beside the recomputed one; None where there is none, and the reason."""

    claim: Value
    recomputed: float | None
    reason: str

    @property
    def difference(self) -> float | None:
        return None if self.recomputed is None else self.recomputed - self.claim.value

    @property
    def agrees(self) -> bool:
        return self.difference is not None and abs(self.difference) <= TOLERANCE * max(1, abs(self.claim.value))


class Fault(NamedTuple):
    """An image that keeps its category and seed from being scored."""

    image: str
    seed: int
    problem: str


class Report(NamedTuple):
    manifest: Manifest
    sha256: str  # of the bundle
    values: list[Compared]
    faults: list[Fault]

    @property
    def agrees(self) -> bool:
        """Whether every claimed value was recomputed, from all test images, and is the same up to TOLERANCE."""
        return not self.faults and all(value.agrees for value in self.values)

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
            "images": [fault._asdict() for fault in self.faults],
        }


def verify(path: Path, root: Path | None = None) -> Report:
    """Recompute every claimed value of a bundle.

    Args:
        path: the bundle.
        root: of the data set; None: as `benchmarks.datasets.default_root` says.

    Raises:
        InputError: the bundle is not what its format asks for, or the data set cannot be used; names the member.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file. Give the path of a bundle.")
    digest = sha256(path)
    with gzip.open(path) as file:
        archive = Archive(file, path)
        manifest = archive.manifest()
        dataset = datasets.load(manifest.dataset, root, [entry.category for entry in manifest.maps])
        faults: list[Fault] = []
        recomputed: dict[Place, Recomputed] = {}
        for category, entries in groupby(manifest.maps, lambda entry: entry.category):
            recomputed |= _score(archive, dataset, category, entries, manifest.claims, faults)
        for weights in manifest.weights:
            archive.check(weights)
        archive.end()
    absent = Recomputed(None, "these maps give no such value: no such metric or convention, category or seed")
    values = [Compared(claim, *recomputed.get(claim.place, absent)) for claim in manifest.claims]
    return Report(manifest, digest, values, faults)


def data_revision(report: Report, root: Path | None) -> str:
    """The revision of the data that a bundle was verified on; reads every image of its categories once."""
    categories = [entry.category for entry in report.manifest.maps]
    return datasets.load(report.manifest.dataset, root, categories).revision()


def table(report: Report) -> Table:
    """Every claimed value beside the recomputed one. Their alphabets keep markup and control characters out."""
    shown = Table("category", "seed", "subset", "metric", "convention", "claimed", "recomputed", "difference", "")
    for value in report.values:
        recomputed = [value.reason, ""]
        if value.difference is not None:
            recomputed = [f"{value.recomputed:.6f}", f"{value.difference:+.1e}"]
        category, seed, *metric = value.claim.place
        claimed = f"{value.claim.value:.6f}"
        shown.add_row(category, str(seed), *metric, claimed, *recomputed, "" if value.agrees else "differs")
    return shown


def verdict(report: Report) -> Iterator[str]:
    """What keeps it from being verified, a line each, and the conclusion."""
    for fault in report.faults[:SHOWN]:
        yield f"seed {fault.seed}, {fault.image}: {fault.problem}"
    if len(report.faults) > SHOWN:
        yield f"… and {len(report.faults) - SHOWN} more images; `--json` lists all"
    differing = [value for value in report.values if not value.agrees]
    for value in differing[:SHOWN]:
        claim = value.claim
        found = value.reason if value.recomputed is None else f"recomputed {value.recomputed:.6f}"
        what = f"seed {claim.seed}, {claim.category}: {claim.metric} ({claim.convention})"
        yield f"{what}: claimed {claim.value:.6f}, {found}"
    if len(differing) > SHOWN:
        yield f"… and {len(differing) - SHOWN} more values"
    images, total = len(report.manifest.maps), len(report.values)
    if report.agrees:
        yield f"verified: all {total} claimed values are what the {images} maps give, within {TOLERANCE:g}"
    else:
        faults = f"{len(report.faults)} faults of images"
        yield f"NOT verified: {len(differing)} of {total} claimed values are not what the maps give; {faults}"


def _score(
    archive: Archive,
    dataset: Dataset,
    category: str,
    entries: Iterable[Map],
    claims: Sequence[Value],
    faults: list[Fault],
) -> dict[Place, Recomputed]:
    """Read the maps of a category, seed after seed, and compute what is claimed of them; appends to `faults`."""
    items = {item.key: item for item in dataset.items(category, "test")}
    truths: list[Truth] = []
    found: dict[Place, Recomputed] = {}
    for seed, of_seed in groupby(entries, lambda entry: entry.seed):
        listed = list(of_seed)
        claimed = [claim for claim in claims if (claim.category, claim.seed) == (category, seed)]
        maps, wrong = _read_maps(archive, listed, items.keys())
        faults += wrong
        if wrong:
            reason = f"{len(wrong)} faults of images of this category and seed"
            found |= {claim.place: Recomputed(None, reason) for claim in claimed}
            continue
        truths = truths or [dataset.truth(items[entry.image]) for entry in listed]
        scores = np.array([entry.score for entry in listed])
        cell = score.Cell({"category": category, "seed": seed}, [entry.image for entry in listed], scores, maps)
        for row in score.category_rows(truths, [cell], _conventions({c.convention for c in claimed})):
            place = (category, seed, row["subset"], row["metric"], row["convention"])
            found[place] = Recomputed(row["value"], row["reason"])
    return found


def _read_maps(
    archive: Archive, entries: Sequence[Map], known: AbstractSet[str]
) -> tuple[NDArray[np.float32], list[Fault]]:
    """The maps (N, h, w) of one category and seed; what they hold is of use only if there is no fault."""
    seed, listed = entries[0].seed, {entry.image for entry in entries}
    faults = [Fault(image, seed, "missing from the bundle") for image in sorted(known - listed)]
    faults += [Fault(image, seed, "not in the data set") for image in sorted(listed - known)]
    incomplete = bool(faults)
    maps = np.empty((0, 0, 0), np.float32)
    for index, entry in enumerate(entries):
        one = archive.map(entry)
        if index == 0:
            size = one.shape
            if len(entries) * one.size * 4 > MAX_CELL_BYTES:
                problem = f"{len(entries)} maps of this size take more than {MAX_CELL_BYTES >> 30} GiB"
                raise archive.refusal(entry.member, problem, "Store the maps smaller.")
            maps = np.empty((0 if incomplete else len(entries), *size), np.float32)
        if not np.isfinite(entry.score):
            faults.append(Fault(entry.image, seed, "its score is not finite"))
        if not (np.abs(one, dtype=np.float32) < MAX_VALUE).all():  # False for NaN
            faults.append(Fault(entry.image, seed, f"its map is not finite, or beyond {MAX_VALUE:g}"))
        if one.shape != size:
            shapes = f"{one.shape[0]}x{one.shape[1]}, the category's first map has {size[0]}x{size[1]}"
            faults.append(Fault(entry.image, seed, f"its map is of another size: {shapes}"))
        elif not incomplete:
            maps[index] = one
    return maps, faults


def _conventions(claimed: AbstractSet[str]) -> list[Convention]:
    """The conventions that these texts name.

    Pixel metrics say less of their convention than PRO does; where only they are claimed, any one that fits will do.
    """
    chosen = [convention for convention in CONVENTIONS.values() if convention.describe() in claimed]
    of_pixels = [convention for convention in CONVENTIONS.values() if convention.pro != "saturated"]
    for text in claimed - {convention.describe_pixels() for convention in chosen if convention in of_pixels}:
        chosen += [convention for convention in of_pixels if convention.describe_pixels() == text][:1]
    return chosen
