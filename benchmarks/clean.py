"""What lies under results/ that the plan does not name: left by earlier suites, seeds and parameters."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from benchmarks import results
from benchmarks.plan import Plan
from benchmarks.status_file import is_at_work


def unplanned(plan: Plan) -> list[Path]:
    """Predictions, scores, details and scratch folders that belong to no planned run; never what is at work."""
    return list(_unplanned(plan))


def remove(path: Path) -> None:
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
    for folder in (path.parent for path in sorted(results.RESULTS.glob("scratch/*/status.json"))):
        if folder.name not in fingerprints and not is_at_work(folder):
            yield folder


def _listed(kind: str) -> list[Path]:
    folder = results.RESULTS / kind
    return sorted(folder.glob("[!.]*"))


def _group(path: Path) -> str:
    return path.name if path.is_dir() else path.stem
