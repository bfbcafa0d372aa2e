"""The records of the leaderboard, `leaderboard/records/DATASET/PROTOCOL/BUNDLE.json`: written, read and checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

from pydantic import ValidationError

from benchmarks import datasets, protocols, results
from benchmarks.metrics.registry import METRICS
from benchmarks.schema import SELECTIONS
from benchmarks.submissions.schema import Manifest, Record, Submission, first_error, parse_record
from methods.base import InputError, did_you_mean

MAX_BYTES = 1 << 20  # of one record; five seeds of 15 categories need a tenth of it


def make_record(
    manifest: Manifest, bundle: Path, digest: str, on: str | None = None, data_revision: str | None = None
) -> Record:
    """The record of a bundle, with the claimed values.

    Args:
        digest: SHA-256 of the bundle.
        on: date of the record, YYYY-MM-DD; None: today.
        data_revision: of the data on which the values were verified; None: they were not verified.

    Raises:
        InputError: the bundle's file name or the date is not valid.
    """
    try:
        return Record(
            **{name: getattr(manifest, name) for name in Submission.model_fields},
            schema=1,
            bundle=bundle.name,
            sha256=digest,
            seeds=sorted({claim.seed for claim in manifest.claims}),
            metrics=manifest.claims,
            verified=data_revision is not None,
            proctor=version("proctor"),
            data_revision=data_revision,
            date=on or date.today().isoformat(),
        )
    except ValidationError as error:
        cure = "Rename the bundle, or correct --date."
        raise InputError(f"{bundle.name}: not allowed in a record: {first_error(error)}. {cure}") from None


def write_record(path: Path, record: Record) -> None:
    results.write_json(path, record.model_dump(by_alias=True))


def read(folder: Path) -> tuple[list[Record], list[str]]:
    """Read all records in a folder.

    Returns:
        The records, and all problems: a sentence each, with the file and the cure.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder. Give the one that contains DATASET/PROTOCOL/BUNDLE.json.")
    records: dict[Path, Record] = {}
    problems: list[str] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()):
        if path.name == ".gitkeep":
            continue
        try:
            records[path] = _read_record(path)
        except (ValueError, OSError) as error:
            problems.append(f"{path}: {error}")
    for path, record in records.items():
        problems += [f"{path}: {problem}" for problem in (*_contradictions(record), *_unknown_names(record))]
        if path.relative_to(folder) != (expected := record_path(record)):
            problems.append(f"{path}: by its content it belongs at {folder / expected}. Move it there.")
    return list(records.values()), problems + list(_duplicates(records))


def record_path(record: Record) -> Path:
    """The path of a record within the folder of records."""
    return Path(record.dataset, record.protocol, record.bundle.removesuffix(".tar.gz") + ".json")


def _read_record(path: Path) -> Record:
    """Raises: ValueError: it is not a record."""
    if path.is_symlink() or path.suffix != ".json":
        raise ValueError("not a record: only .json files belong here. Remove it.")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.stat().st_size} bytes; a record has at most {MAX_BYTES}. Leave out details.")
    return parse_record(path.read_bytes())


def _contradictions(record: Record) -> Iterator[str]:
    if record.verified != (record.data_revision is not None):
        yield "`verified` contradicts `data_revision`: exactly the verified records have a revision."
    # By the clock of the submitter it may be tomorrow.
    if date.fromisoformat(record.date) > datetime.now(UTC).date() + timedelta(days=1):
        yield f"date {record.date} is in the future."


def _unknown_names(record: Record) -> Iterator[str]:
    if record.dataset not in datasets.available():
        yield f"unknown data set {record.dataset!r}. {did_you_mean(record.dataset, datasets.available())}"
        return
    names: list[tuple[str, set[str], Iterable[str]]] = [
        ("protocol", {record.protocol}, protocols.available()),
        ("selection", {record.selection}, SELECTIONS),
        ("metric", {row.metric for row in record.metrics}, METRICS),
    ]
    if categories := datasets.find(record.dataset).official_counts:
        names.append(("category", {row.category for row in record.metrics}, categories))
    for kind, values, known in names:
        for value in sorted(values - set(known))[:1]:
            yield f"unknown {kind} {value!r}. {did_you_mean(value, known)}"


def _duplicates(records: dict[Path, Record]) -> Iterator[str]:
    """Records of one bundle, and records with one name."""
    bundles: dict[str, Path] = {}
    names: dict[tuple[str, str, str], Path] = {}
    for path, record in records.items():
        if (first := bundles.setdefault(record.sha256, path)) != path:
            yield f"{path}: the same bundle as {first} (sha256 {record.sha256[:12]}…). Keep one of them."
        name = (record.dataset, record.protocol, record.name.casefold())
        if (first := names.setdefault(name, path)) != path:
            yield f"{path}: {first} already has the name {record.name!r}. Choose another."
