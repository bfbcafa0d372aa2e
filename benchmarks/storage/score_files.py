"""What the score stage writes for a group, and the seal that says what it was computed from. A leaf.

`results/scores/GROUP.json`, the seal, holds the digests of the files of the group (tidy rows, probes, details) and of
the records of the runs that were scored. So a table's numbers lead back to the arrays: cell, tidy row, seal, record,
array. A file that was edited, or runs that were replaced since, are noticed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, ValidationError

from benchmarks.storage.digests import file_digest
from methods.components.atomic import replacing

ARRAYS = ".npz"  # of the details


class Seal(BaseModel, extra="forbid", frozen=True):
    """What the files of a scored group must be.

    Attributes:
        files: path below results/ -> digest.
        records: SPLIT-seedK -> digest of the record that was scored.
    """

    files: dict[str, str]
    records: dict[str, str]


def seal_path(results: Path, group: str) -> Path:
    return results / "scores" / f"{group}.json"


def seal(results: Path, group: str, files: Iterable[Path], records: Mapping[str, str]) -> None:
    """Write the seal of a group whose files are complete."""
    digests = {_name(path, results): file_digest(path, full=True) for path in sorted(files)}
    with replacing(seal_path(results, group)) as partial:
        partial.write_text(json.dumps(Seal(files=digests, records=dict(records)).model_dump(), indent=1) + "\n")


def _name(path: Path, results: Path) -> str:
    return path.relative_to(results).as_posix()


def read_seal(results: Path, group: str) -> Seal:
    """The seal of a group that is known to be scored."""
    return Seal.model_validate_json(seal_path(results, group).read_bytes())


def problems(
    results: Path, group: str, records: Mapping[str, str] | None, full: bool = False, archived: bool = False
) -> list[str]:
    """Why the scores of a group cannot be trusted, a sentence each; empty if they can.

    Args:
        records: of the planned runs as they are now: SPLIT-seedK -> digest of the record; None: not compared.
        full: compute every digest, even where size and modification time of a file are as they were.
        archived: the folder is an archive, which has no arrays and cannot be scored again.
    """
    cure = "restore it from where the archive comes from" if archived else f"`dvc repro` scores {group} again"
    path = seal_path(results, group)
    try:
        stored = Seal.model_validate_json(path.read_bytes())
    except OSError:
        rows = results / "scores" / f"{group}.csv"
        if rows.exists():
            return [f"{rows} has no {path.name} that says what it was computed from: {cure}."]
        return [f"{group} is not scored: {cure}."]
    except ValidationError:
        return [f"{path} is damaged: {cure}."]
    messages = []
    for name, digest in stored.files.items():
        if archived and name.endswith(ARRAYS):
            continue
        try:
            changed = file_digest(results / name, full) != digest
        except OSError:
            messages.append(f"{results / name} is missing: {cure}.")
            continue
        if changed:
            messages.append(f"{results / name} was changed after it was scored: {cure}.")
    added = sorted(path for path in (results / "details" / group).glob("*") if _name(path, results) not in stored.files)
    messages += [f"{path} was added after {group} was scored: remove it." for path in added]
    return messages + ([] if records is None else _unlike(stored.records, records, group, cure))


def _unlike(scored: Mapping[str, str], planned: Mapping[str, str], group: str, cure: str) -> list[str]:
    """How the runs that were scored differ from those that are planned and stored."""
    return [
        f"{group}/{stem} {reason}: {cure}."
        for stem in sorted(scored.keys() | planned.keys())
        if (reason := _difference(scored.get(stem), planned.get(stem)))
    ]


def _difference(scored: str | None, planned: str | None) -> str:
    if scored is None:
        return "is not scored"
    if planned is None:
        return "was scored, but is not planned or has no result"
    return "" if scored == planned else "was run again after it was scored"
