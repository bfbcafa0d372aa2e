"""Whether what is stored of a plan is what was computed, from the arrays to the scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks import records, results
from benchmarks.plan import Group, Plan, Run
from benchmarks.records import Record
from benchmarks.storage import score_files
from methods.base import InputError

# A run whose numbers are sound is not stale, and a stage that runs nothing would keep the group without the model.
MODEL_CURE = "remove it, and `dvc checkout` restores it; or remove its folder, and `dvc repro` runs it again"


def problems(plan: Plan, full: bool = False) -> list[str]:
    """A sentence for each stored file that is not what was written, with its cure; empty if all are.

    Runs and groups that are missing are no problem of integrity: `proctor plan` lists them.

    Args:
        full: compute every digest, even where size and modification time of a file are as they were, and look at
            models, on which no score rests.
    """
    return [problem for group in plan.groups for problem in _group_problems(group, full)]


def require_sound(group: Group) -> None:
    """Make sure that a group's scores are those of its planned runs as they are stored.

    Raises:
        InputError: they are not; names the file and the cure.
    """
    if reasons := score_problems(group):
        raise InputError("\n".join(reasons))


def require_model(folder: Path) -> Path:
    """The file of a stored run's fitted method, which is known to be what was written.

    Raises:
        InputError: the run kept none, or it was changed; names the file and the cure.
    """
    try:
        path = results.check_model(folder)
    except ValueError as error:
        raise InputError(f"{error}: {MODEL_CURE}.") from None
    if path is None:
        raise InputError(
            f"The run {folder.parent.name}/{folder.name} kept no model: `keep_models` was false, it is of an earlier "
            "version, or its method cannot be stored. With `keep_models: true` in params.yaml, remove "
            f"{folder}, and `dvc repro` runs it again."
        )
    return path


def score_problems(group: Group) -> list[str]:
    """Why the scores of a group are not those of its planned runs, a sentence each; empty if they are."""
    stored = _records(group.runs)
    outdated = [run for run in group.runs if run.stem in stored and stored[run.stem].fingerprint != run.fingerprint]
    return [
        *(f"{run.name} is stale (`proctor plan --why {run.name}`): `dvc repro` runs it again." for run in outdated),
        *score_files.problems(results.RESULTS, group.name, _digests(stored)),
    ]


def is_scored(group: Group) -> bool:
    """Whether a score file or the seal of a group is stored, sound or not."""
    return any((results.RESULTS / "scores" / f"{group.name}.{suffix}").exists() for suffix in ("csv", "json"))


def seal(group: str, runs: Sequence[Run]) -> None:
    """Write the seal of a group that has just been scored."""
    rows = [results.RESULTS / kind / f"{group}.csv" for kind in ("scores", "interference")]
    details = [path for path in results.details_dir(group).rglob("*") if path.is_file()]
    score_files.seal(results.RESULTS, group, [*rows, *details], _digests(_records(runs)))


def _records(runs: Sequence[Run]) -> dict[str, Record]:
    """SPLIT-seedK -> record, of those runs whose stored record can be read."""
    stored = {}
    for run in runs:
        with suppress(ValueError):
            stored[run.stem] = records.read(results.result_dir(run) / "record.json")
    return stored


def _digests(stored: Mapping[str, Record]) -> dict[str, str]:
    return {stem: record.digest for stem, record in stored.items()}


def _group_problems(group: Group, full: bool) -> Iterator[str]:
    for run in group.runs:
        folder = results.result_dir(run)
        if folder.exists():
            try:
                results.check(folder, full)
            except ValueError as error:
                yield f"{error}: `dvc repro` runs {run.name} again."
                continue
            try:
                if full:
                    results.check_model(folder, full)
            except ValueError as error:
                yield f"{error}: {MODEL_CURE}."
    if is_scored(group):
        yield from score_files.problems(results.RESULTS, group.name, _digests(_records(group.runs)), full)
