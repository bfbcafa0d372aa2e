"""Whether what is stored of a plan is what was computed, from the arrays to the scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks import records, results
from benchmarks.plan import Group, Plan, Run
from benchmarks.storage import score_files
from methods.base import InputError


def problems(plan: Plan, full: bool = False) -> list[str]:
    """A sentence for each stored file that is not what was written, with its cure; empty if all are.

    Runs and groups that are missing are no problem of integrity: `proctor plan` lists them.

    Args:
        full: compute every digest, even where size and modification time of a file are as they were.
    """
    return [problem for group in plan.groups for problem in _group_problems(group, full)]


def require_sound(group: Group) -> None:
    """Make sure that a group's scores are those of its planned runs as they are stored.

    Raises:
        InputError: they are not; names the file and the cure.
    """
    if found := score_files.problems(results.RESULTS, group.name, record_digests(group.runs)):
        raise InputError("\n".join(found))


def seal(group: str, runs: Sequence[Run]) -> None:
    """Write the seal of a group that has just been scored."""
    rows = [results.RESULTS / kind / f"{group}.csv" for kind in ("scores", "interference")]
    details = [path for path in results.details_dir(group).rglob("*") if path.is_file()]
    score_files.seal(results.RESULTS, group, [*rows, *details], record_digests(runs))


def record_digests(runs: Sequence[Run]) -> dict[str, str]:
    """SPLIT-seedK -> digest of the record, of those runs whose stored record can be read."""
    digests = {}
    for run in runs:
        try:
            record = records.read(results.result_dir(run) / "record.json")
        except ValueError:
            continue
        digests[run.stem] = record.digest
    return digests


def _group_problems(group: Group, full: bool) -> Iterator[str]:
    for run in group.runs:
        folder = results.result_dir(run)
        if folder.exists():
            try:
                results.check(folder, full)
            except ValueError as error:
                yield f"{error}: `dvc repro` runs {run.name} again."
    if score_files.seal_path(results.RESULTS, group.name).exists():
        yield from score_files.problems(results.RESULTS, group.name, record_digests(group.runs), full)
