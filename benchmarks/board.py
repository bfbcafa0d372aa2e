"""The records of accepted submissions, `leaderboard/records/DATASET/PROTOCOL/BUNDLE.json`: read and checked."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from benchmarks import datasets, protocols
from benchmarks.metrics.registry import METRICS
from benchmarks.submission import Record, complaint
from methods.base import InputError

MAX_BYTES = 1 << 20  # of one record; five seeds of 15 categories take a tenth


def read(folder: Path) -> tuple[list[Record], list[str]]:
    """Every valid record under a folder, and what is wrong with any: one sentence each, naming the file and the cure.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder. Give the one that holds DATASET/PROTOCOL/BUNDLE.json.")
    found: dict[Path, Record] = {}
    problems: list[str] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()):
        if path.name == ".gitkeep":
            continue
        try:
            found[path] = _record(path)
        except (ValueError, OSError) as error:
            reason = complaint(error) if isinstance(error, ValidationError) else error
            problems.append(f"{path}: {reason}")
    bundles: dict[str, Path] = {}
    names: dict[tuple[str, str, str], Path] = {}
    for path, record in found.items():
        problems += [f"{path}: {problem}" for problem in _inconsistencies(record)]
        if path.relative_to(folder) != (place := where(record)):
            problems.append(f"{path}: its content belongs at {folder / place}. Move it there.")
        if (first := bundles.setdefault(record.sha256, path)) != path:
            problems.append(f"{path}: the same bundle as {first} (sha256 {record.sha256[:12]}…). Keep one of them.")
        name = (record.dataset, record.protocol, record.name.casefold())
        if (first := names.setdefault(name, path)) != path:
            problems.append(f"{path}: {first} has the name {record.name!r} already. Choose another.")
    return list(found.values()), problems


def where(record: Record) -> Path:
    """Where a record lies, in the folder of records."""
    return Path(record.dataset, record.protocol, record.bundle.removesuffix(".tar.gz") + ".json")


def _record(path: Path) -> Record:
    """Raises: ValueError: it is no record."""
    if path.is_symlink() or path.suffix != ".json":
        raise ValueError("no record: only files that end in .json belong here. Remove it.")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.stat().st_size} bytes; a record has at most {MAX_BYTES}. Leave out details.")
    return Record.model_validate_json(path.read_bytes())


def _inconsistencies(record: Record) -> list[str]:
    """What the schema cannot say."""
    found = []
    if record.verified != (record.data_revision is not None):
        found.append("`verified` and `data_revision` contradict each other: only a verified record has a revision.")
    if date.fromisoformat(record.date) > datetime.now(UTC).date() + timedelta(days=1):  # it may be tomorrow elsewhere
        found.append(f"date {record.date} lies in the future.")
    if record.dataset not in (known := datasets.available()):
        return [*found, f"no data set {record.dataset!r}; it may be {', '.join(known)}."]
    categories = datasets.find(record.dataset).official_counts
    for values, allowed, what in (
        ({record.protocol}, protocols.available(), "protocol"),
        ({record.selection}, ["last", "validation", "oracle"], "selection"),
        ({row.metric for row in record.metrics}, list(METRICS), "metric"),
        ({row.category for row in record.metrics} if categories else set(), list(categories), "category"),
    ):
        if unknown := sorted(values - set(allowed)):
            found.append(f"no {what} {unknown[0]!r}; it may be {', '.join(allowed)}.")
    return found
