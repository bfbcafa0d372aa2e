"""What lies under results/ that the plan does not name: left by earlier suites, seeds and parameters."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import results
from benchmarks.plan import Plan
from benchmarks.results import read_json

AT_WORK = ("queued", "running")


def unplanned(plan: Plan) -> list[Path]:
    """Predictions, scores, details and scratch folders that belong to no planned run; never what is at work."""
    return list(_unplanned(plan))


def remove(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _unplanned(plan: Plan) -> Iterator[Path]:
    groups = {group.name: {run.stem for run in group.runs} for group in plan.groups}
    for folder in _listed("predictions"):
        if folder.name not in groups:
            yield folder
        elif folder.is_dir():
            yield from (run for run in sorted(folder.iterdir()) if run.is_dir() and run.name not in groups[folder.name])
    for kind in ("scores", "interference", "details", "metrics"):
        yield from (path for path in _listed(kind) if _group(path) not in groups)
    fingerprints = {run.fingerprint for run in plan.runs}
    for folder in _listed("scratch"):
        status = (read_json(folder / "status.json") if folder.is_dir() else None) or {}
        if status and folder.name not in fingerprints and status.get("state") not in AT_WORK:
            yield folder


def _listed(kind: str) -> list[Path]:
    folder = results.RESULTS / kind
    return sorted(folder.glob("[!.]*"))


def _group(path: Path) -> str:
    return path.name if path.is_dir() else path.stem
