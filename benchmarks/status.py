"""The state of a run, read from the disk and never remembered; and its result, moved to its place."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from benchmarks import results
from benchmarks.plan import Run
from benchmarks.results import result_dir, scratch_dir
from benchmarks.status_file import StatusReport, is_alive, read_report, seconds_since_update, updated_at
from benchmarks.storage import disk

LOG_LINES = 40  # of a log, in the result


class State(StrEnum):
    DONE = "done"
    MISSING = "missing"
    STALE = "stale"
    QUEUED = "queued"
    RUNNING = "running"
    FAILED = "failed"
    UNSUPPORTED = "unsupported"


class Status(NamedTuple):
    """The state of a run and the reason for it, in words."""

    state: State
    reason: str = ""


def collect(run: Run) -> None:
    """Move a finished result from scratch to `result_dir`, over an older one; nothing if there is none in scratch.

    Raises:
        InputError: the results folder cannot be written.
    """
    finished, target = scratch_dir(run) / "result", result_dir(run)
    if not finished.exists():
        return
    from filelock import FileLock

    with disk.explained(target), FileLock(results.RESULTS / "scratch" / "collect.lock"):
        if not finished.exists():  # another process was faster
            return
        if tail := log_tail(run, LOG_LINES):
            (finished / "log.txt").write_text(tail + "\n")  # the log itself is deleted with the scratch folder
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        shutil.move(finished, target)
        # The last file that submitit writes, without which a job counts as failed.
        if any(log_dir(run).glob("*_result.pkl")):
            shutil.rmtree(log_dir(run), ignore_errors=True)
        shutil.rmtree(scratch_dir(run), ignore_errors=True)  # where a local process may still be writing its last lines


def discard(run: Run) -> None:
    """Remove a run's result, so that it is missing; nothing if there is none."""
    for folder in (result_dir(run), scratch_dir(run) / "result"):
        shutil.rmtree(folder, ignore_errors=True)


def collect_finished(runs: Sequence[Run]) -> list[tuple[Run, Status]]:
    """Collect the finished ones of some runs.

    Returns:
        The others, with their status.

    Raises:
        InputError: as `collect`.
    """
    for run in runs:
        collect(run)
    statuses = [(run, read_status(run)) for run in runs]
    return [(run, status) for run, status in statuses if status.state is not State.DONE]


def read_status(run: Run) -> Status:
    """The state of a run, from the disk alone: a job counts as alive until a driver finds out that it is not."""
    damage, stored = "", None
    for folder in (scratch_dir(run) / "result", result_dir(run)):
        if not (folder / "record.json").exists():
            continue
        try:
            stored = results.check(folder)
        except ValueError as error:
            damage = str(error) if folder.exists() else ""  # else it has just been collected
            continue
        if stored.fingerprint == run.fingerprint:
            return Status(State.DONE)
    if report := read_report(run):
        return _reported(run, report)
    if damage:
        return Status(State.STALE, damage)
    if stored is None:
        return Status(State.MISSING)
    before, now = stored.fingerprint_parts, run.fingerprint_parts
    return Status(State.STALE, "changed: " + ", ".join(p for p in before | now if before.get(p) != now.get(p)))


def _reported(run: Run, report: StatusReport) -> Status:
    if report.state == "failed":
        return Status(State.FAILED, report.error)
    if report.state == "lost":
        return Status(State.MISSING, report.error)
    if report.state == "queued":
        return Status(State.QUEUED, f"job {report.job}")
    if report.job:
        return Status(State.RUNNING, f"job {report.job} on {report.node}")
    if is_alive(report, seconds_since_update(run)):
        return Status(State.RUNNING, f"process {report.pid} on {report.host}")
    return Status(State.MISSING, "its process ended without a result; it resumes from its last checkpoint")


def is_pending(run: Run, failed_before: float) -> bool:
    """Whether a run is still to be executed; a failed one only if it failed before this time (seconds)."""
    state = read_status(run).state
    return state in (State.MISSING, State.STALE, State.QUEUED, State.RUNNING) or (
        state is State.FAILED and updated_at(run) < failed_before
    )


def log_dir(run: Run) -> Path:
    """Where the output of a run's last process lies: of a job, in a folder of its own below that of its executor."""
    report = read_report(run)
    if report and report.job:
        return results.RESULTS / "scratch" / report.executor / report.job
    return scratch_dir(run) / "log"


def log_tail(run: Run, lines: int) -> str:
    """The last lines of each of the two files that a run's last process wrote; empty if there is none."""
    logs = sorted(log_dir(run).glob("*_log.*"), key=lambda path: path.stat().st_mtime)
    return "\n".join(line for path in logs[-2:] for line in path.read_text(errors="replace").splitlines()[-lines:])
