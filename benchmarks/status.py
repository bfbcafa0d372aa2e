"""What a run is doing, read from the disk and never remembered: its state, a process's claim on it, its heartbeat."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks import results
from benchmarks.plan import Run
from benchmarks.results import read_json, result_dir, scratch_dir, write_json

BEAT_SECONDS = 30  # how often a run at work touches its status file
SILENT_SECONDS = 300  # on another host, a run that was silent for this long is considered dead
KEPT_LINES = 40  # of a log, in the result
CARRIED = ("attempts", "elapsed", "waited")  # what a status says of all of a run's attempts together


class Busy(RuntimeError):
    """Another driver is launching runs in this folder."""


class Superseded(RuntimeError):
    """Another process has claimed this one's run: it must stop and store nothing."""


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
    """Move a finished run from its scratch folder to where it belongs, over an older one; nothing if it is there."""
    finished, target = scratch_dir(run) / "result", result_dir(run)
    if not finished.exists():
        return
    if tail := log_tail(run, KEPT_LINES):
        (finished / "log.txt").write_text(tail + "\n")  # the log itself goes with the scratch folder
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(finished, target)
    # The last file that submitit writes, without which a job counts as failed.
    if any(log_dir(run).glob("*_result.pkl")):
        shutil.rmtree(log_dir(run), ignore_errors=True)
    shutil.rmtree(scratch_dir(run), ignore_errors=True)  # where a local process may still be writing its last lines


def read_status(run: Run) -> Status:
    """The state of a run, from the disk alone: a job of SLURM counts as alive until a driver learns that it is not."""
    damage, stored = "", None
    for folder in (scratch_dir(run) / "result", result_dir(run)):
        if not (folder / "record.json").exists():
            continue
        try:
            stored = results.check(folder)
        except ValueError as error:
            damage = str(error)
            continue
        if stored.fingerprint == run.fingerprint:
            return Status(State.DONE)
    if report := read_report(run):
        return _at_work(run, report)
    if damage:
        return Status(State.STALE, damage)
    if stored is None:
        return Status(State.MISSING)
    before, now = stored.fingerprint_parts, run.fingerprint_parts
    return Status(State.STALE, "changed: " + ", ".join(p for p in before | now if before.get(p) != now.get(p)))


def is_pending(run: Run, since: float) -> bool:
    """Whether a run is still to be brought to its end; one that failed only if that was before `since` (seconds)."""
    state = read_status(run).state
    return state in (State.MISSING, State.STALE, State.QUEUED, State.RUNNING) or (
        state is State.FAILED and touched_at(run) < since
    )


def _at_work(run: Run, report: Mapping[str, Any]) -> Status:
    if report["state"] == "failed":
        return Status(State.FAILED, report["error"])
    if report["state"] == "lost":
        return Status(State.MISSING, report["error"])
    if report["state"] == "queued":
        return Status(State.QUEUED, f"job {report['job']}")
    if "job" in report:
        return Status(State.RUNNING, f"job {report['job']} on {report['node']}")
    if alive(report, silence(run)):
        return Status(State.RUNNING, f"process {report['pid']} on {report['host']}")
    return Status(State.MISSING, "its process ended without a result; it resumes from its last checkpoint")


def read_report(run: Run) -> dict[str, Any]:
    """What a run's process, or its driver, wrote last about it; empty if nothing."""
    return read_json(scratch_dir(run) / "status.json") or {}


def log_dir(run: Run) -> Path:
    """Where the output of a run's last process lies."""
    job = read_report(run).get("job")
    return results.RESULTS / "scratch" / "slurm" / job if job else scratch_dir(run) / "log"


def log_tail(run: Run, lines: int) -> str:
    """The last lines of each of the two files that a run's last process wrote; empty if there is none."""
    logs = sorted(log_dir(run).glob("*_log.*"), key=lambda path: path.stat().st_mtime)
    return "\n".join(line for path in logs[-2:] for line in path.read_text(errors="replace").splitlines()[-lines:])


def touched_at(run: Run) -> float:
    """When a run's status file was last written or touched, in seconds since the epoch by the file system's clock."""
    return (scratch_dir(run) / "status.json").stat().st_mtime


def silence(run: Run) -> float:
    """Seconds since a run's status file was last touched. Only the file system's clock is asked: hosts' may differ."""
    clock = results.RESULTS / "scratch" / f".clock-{os.getpid()}"
    clock.touch()
    now = clock.stat().st_mtime
    clock.unlink()
    return max(0.0, now - touched_at(run))


def alive(report: Mapping[str, Any], silent: float) -> bool:
    """Whether the process that wrote a status still exists; if on another host, whether it was silent for long."""
    if report["host"] != socket.gethostname():
        return silent < SILENT_SECONDS
    try:
        process = psutil.Process(report["pid"])
        same = abs(process.create_time() - report["process_started"]) < 1
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def report(run: Run, state: str, pid: int | None = None, **more: Any) -> None:
    """Write what a run is doing, for `proctor status` and other drivers; `pid` is the run's process, or this one."""
    process = psutil.Process(pid)
    write_json(
        scratch_dir(run) / "status.json",
        {
            "run": run.name,
            "state": state,
            "host": socket.gethostname(),
            "pid": process.pid,
            "process_started": process.create_time(),
            **_carried(run),
            **more,
        },
    )


def report_job(run: Run, state: str, job: str, **more: Any) -> None:
    """Write what a driver knows of a run's job: that it is queued, lost or failed. Its process is then superseded."""
    write_json(scratch_dir(run) / "status.json", {"run": run.name, "state": state, "job": job, **_carried(run), **more})


def _carried(run: Run) -> dict[str, Any]:
    """The sums over all attempts since the run last failed, if it did."""
    before = read_report(run)
    return {k: before[k] for k in CARRIED if k in before and before["state"] != "failed"}


class Claim:
    """A process's hold on a run. The last process to claim a run owns it; an earlier one stops at its next report.

    So two processes never store the same run, though SLURM may start a job anew while the old one, on a node that it
    holds for dead, still computes.
    """

    def __init__(self, run: Run, **place: Any) -> None:
        """Write that the run is at work; `place` says where: `job`, `node`, `gpu`."""
        queued_at = touched_at(run) if read_report(run).get("state") == "queued" else None
        self.run, self.owner, self.began = run, uuid.uuid4().hex, time.monotonic()
        before = dict.fromkeys(CARRIED, 0) | _carried(run)
        self.earlier = before["elapsed"]
        self.facts = {**place, "owner": self.owner, "attempts": before["attempts"] + 1, "waited": before["waited"]}
        self._write("running")
        if queued_at is not None:  # both times by the clock of the file system
            self.facts["waited"] += round(max(0.0, touched_at(run) - queued_at), 1)
        threading.Thread(target=self._beat, daemon=True).start()

    @property
    def elapsed(self) -> float:
        """Seconds at work, in all attempts."""
        return self.earlier + time.monotonic() - self.began

    def report(self, state: str, **more: Any) -> None:
        """Report, if the run is still this process's.

        Raises:
            Superseded: it is not.
        """
        if not self._is_mine():
            raise Superseded(f"{self.run.name} has been claimed by another process, or given up by its driver")
        self._write(state, **more)

    def _is_mine(self) -> bool:
        return read_report(self.run).get("owner") == self.owner

    def _write(self, state: str, **more: Any) -> None:
        report(self.run, state, **self.facts, elapsed=round(self.elapsed, 1), **more)

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT_SECONDS)
            with suppress(OSError):  # the folder is gone when the run has been collected
                if self._is_mine():
                    os.utime(scratch_dir(self.run) / "status.json")
