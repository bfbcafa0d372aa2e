"""An archive: what the tables of a suite rest on, without arrays and images, so small that git can keep it.

It is a results folder with the suite, the plan, the tidy rows and their seals, per-image scores and curves, and the
records of the runs.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from benchmarks import integrity, params, plan, records, results, suite_files, yaml_files
from benchmarks.plan import Group, Plan
from benchmarks.storage import score_files
from methods.base import InputError
from methods.components.atomic import replacing


def write(out: Path, suite: Plan) -> int:
    """Copy what belongs to a plan into a new folder.

    Returns:
        The number of runs in the archive.

    Raises:
        InputError: the folder exists, the parameters are not those of the plan, or a group is not scored as planned.
    """
    if out.exists():
        raise InputError(f"{out} exists already: an archive is written into a new folder.")
    if plan.is_older_than(params.PATH, results.RESULTS):
        raise InputError(f"{params.PATH} was changed after it was planned: run `dvc repro` first.")
    for group in suite.groups:
        if not group.unsupported:
            integrity.require_sound(group)
    with replacing(out) as partial:
        plan.write(partial, _without_paths(suite))
        (partial / params.PATH.name).write_text(_suite_text())
        for source in (path for group in suite.groups for path in _files(group)):
            target = partial / source.relative_to(results.RESULTS)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    return len(suite.runs)


def problems(archive: Path, suite: Plan) -> list[str]:
    """A sentence for each file of an archive that is missing or not what was archived."""
    return [problem for group in suite.groups if group.runs for problem in _problems(archive, group)]


def _problems(archive: Path, group: Group) -> Iterator[str]:
    stored = {}
    for run in group.runs:
        try:
            stored[run.stem] = records.read(archive / "predictions" / run.name / "record.json").digest
        except ValueError as error:
            yield f"{error}: restore it from where the archive comes from."
    yield from score_files.problems(archive, group.name, stored, full=True, archived=True)


def _files(group: Group) -> Iterator[Path]:
    if group.unsupported:
        return
    yield score_files.seal_path(results.RESULTS, group.name)
    for kind in ("scores", "interference"):
        yield results.RESULTS / kind / f"{group.name}.csv"
    yield from sorted(results.details_dir(group.name).glob("*.json"))
    yield from (results.result_dir(run) / "record.json" for run in group.runs)


def _suite_text() -> str:
    """The parameters with their comments, without what only this machine decides."""
    text = yaml_files.read(params.PATH)
    entries = yaml_files.parse(text, params.PATH)
    return yaml_files.excerpt(text, [name for name in entries if name not in suite_files.YOURS])


def _without_paths(suite: Plan) -> Plan:
    """The plan without the places of data and weights on this machine; the fingerprints hold their contents."""
    groups = []
    for group in suite.groups:
        runs = [run.model_copy(update={"root": None, "weights": {}}) for run in group.runs]
        groups.append(group.model_copy(update={"runs": runs}))
    return suite.model_copy(update={"groups": groups})
