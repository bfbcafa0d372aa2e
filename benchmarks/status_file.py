"""`scratch/FINGERPRINT/status.json`: the last report on a run, a process's claim on the run, and its heartbeat."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import psutil
from pydantic import BaseModel, ValidationError, model_validator

from benchmarks import results
from benchmarks.plan import Run
from benchmarks.results import scratch_dir, write_json

HEARTBEAT_SECONDS = 30  # how often a running process touches its status file
TIMEOUT_SECONDS = 300  # a process on another host that has not touched it for this long is considered dead


class Superseded(RuntimeError):
    """Another process has claimed this one's run: it must stop and store nothing."""


class Place(NamedTuple):
    """Where a run is executed."""

    executor: str = "local"
    job: str | None = None  # of a cluster, as its queue calls it; None: a process that no queue knows
    node: str | None = None  # of a cluster
    restarts: int = 0  # how often the cluster has put the job back into its queue
    gpu: str | None = None  # CUDA_VISIBLE_DEVICES


class StatusReport(BaseModel, frozen=True, extra="forbid"):
    """`scratch/FINGERPRINT/status.json`: what a run's process, or its driver, wrote last about it."""

    run: str
    state: Literal["queued", "running", "lost", "failed"]  # lost: without its own fault; it is started again
    error: str = ""
    explained: bool = False  # `error` names its cure, so that nobody needs the log
    owner: str | None = None  # the process that claimed the run last
    # Where: see `Place`.
    executor: str = "local"
    job: str | None = None
    node: str | None = None
    restarts: int = 0
    gpu: str | None = None
    # The process.
    host: str | None = None
    pid: int | None = None
    process_started: float | None = None  # by the host's clock
    # Of all attempts together.
    attempts: int = 0
    elapsed: float = 0.0  # seconds at work
    queue_seconds: float = 0.0
    # As the method reports it.
    phase: str | None = None
    done: int = 0  # epochs of a fit, images of a prediction
    total: int = 0
    terms: dict[str, float] = {}  # loss terms and measures of the last epoch
    remaining: float | None = None  # estimated seconds to the end of the phase

    @model_validator(mode="after")
    def _has_job_or_process(self) -> Self:
        if self.job is None and None in (self.host, self.pid, self.process_started):
            raise ValueError("neither a job nor a process")
        return self


def read_report(run: Run) -> StatusReport | None:
    """The last report on a run; None if there is none or its file is damaged."""
    return _read(scratch_dir(run) / "status.json")


def read_reports() -> Iterator[StatusReport]:
    """The last report on each run that is at work, lost or failed, of whatever suite."""
    for path in results.RESULTS.glob("scratch/*/status.json"):
        if report := _read(path):
            yield report


def _read(path: Path) -> StatusReport | None:
    try:
        return StatusReport.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def updated_at(run: Run) -> float:
    """When a run's status file was last written or touched, in seconds since the epoch by the file system's clock."""
    try:
        return (scratch_dir(run) / "status.json").stat().st_mtime
    except FileNotFoundError:  # the run has just been collected
        return time.time()


def seconds_since_update(run: Run) -> float:
    """Seconds since a run's status file was last touched."""
    return _seconds_since(updated_at(run))


def _seconds_since(time_of_file: float) -> float:
    """Only the file system's clock is asked: hosts' may differ."""
    clock = results.RESULTS / "scratch" / f".clock-{os.getpid()}"
    try:
        clock.touch()
        now = clock.stat().st_mtime
        clock.unlink()
    except OSError:  # the folder may be another user's, or full
        now = time.time()
    return max(0.0, now - time_of_file)


def is_at_work(folder: Path) -> bool:
    """Whether the run of a scratch folder, of whatever suite, is queued or running."""
    path = folder / "status.json"
    report = _read(path)
    if report is None or report.state not in ("queued", "running"):
        return False
    return report.job is not None or is_alive(report, _seconds_since(path.stat().st_mtime))


def is_alive(report: StatusReport, seconds_since_update: float) -> bool:
    """Whether the process that wrote a report still exists; on another host, whether it has touched it lately."""
    if report.host != socket.gethostname():
        return seconds_since_update < TIMEOUT_SECONDS
    try:
        process = psutil.Process(report.pid)
        same = abs(process.create_time() - (report.process_started or 0.0)) < 1  # not another one with its number
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def report(run: Run, state: str, pid: int | None = None, **fields: Any) -> None:
    """Write what a process of this host does for a run; `pid` is that process, or this one."""
    _write(run, state, **_process(pid), **_totals(run), **fields)


def report_job(run: Run, state: str, job: str, executor: str, **fields: Any) -> None:
    """Write that a run has a job in the queue of a cluster. An earlier process of the run is then superseded."""
    _write(run, state, **_totals(run) | {"job": job, "executor": executor} | fields)


def report_loss(run: Run, state: Literal["lost", "failed"], error: str) -> None:
    """Write that a run's job or process has ended without a result. A process that still exists is superseded."""
    before = read_report(run)
    job = {"job": before.job, "executor": before.executor} if before and before.job else _process(None)
    _write(run, state, error=error, **_totals(run), **job)


def _write(run: Run, state: str, **fields: Any) -> None:
    value = StatusReport(run=run.name, state=state, **fields)
    write_json(scratch_dir(run) / "status.json", value.model_dump(exclude_none=True))


def _process(pid: int | None) -> dict[str, Any]:
    process = psutil.Process(pid)
    return {"host": socket.gethostname(), "pid": process.pid, "process_started": process.create_time()}


def _totals(run: Run) -> dict[str, Any]:
    """The sums over all attempts since the run last failed, if it did."""
    before = read_report(run)
    if before is None or before.state == "failed":
        return {}
    return before.model_dump(include={"attempts", "elapsed", "queue_seconds"})


class Claim:
    """A process's hold on a run. The last process to claim a run owns it; an earlier one stops at its next report.

    So two processes never store the same run, though a cluster may restart a job while its old process, on a node that
    the cluster considers lost, still computes.
    """

    def __init__(self, run: Run, place: Place | None = None) -> None:
        """Report that the run is running."""
        before = read_report(run)
        queued_at = updated_at(run) if before and before.state == "queued" else None
        self.run, self.place, self.started_at = run, place or Place(), time.monotonic()
        self.owner = uuid.uuid4().hex
        totals = {"attempts": 0, "elapsed": 0.0, "queue_seconds": 0.0} | _totals(run)
        self.attempts, self.queue_seconds = totals["attempts"] + 1, totals["queue_seconds"]
        self.elapsed_before = totals["elapsed"]
        self._write("running")
        if queued_at is not None:  # both times by the clock of the file system
            self.queue_seconds += round(max(0.0, updated_at(run) - queued_at), 1)
        threading.Thread(target=self._heartbeat, daemon=True).start()

    @property
    def elapsed(self) -> float:
        """Seconds at work, in all attempts."""
        return self.elapsed_before + time.monotonic() - self.started_at

    def report(self, state: Literal["running", "failed"], **fields: Any) -> None:
        """Report, if the run still belongs to this process. Progress that cannot be written is left out.

        Raises:
            Superseded: it does not.
        """
        if not self._is_owner():
            raise Superseded(f"{self.run.name} has been claimed by another process, or abandoned by its driver")
        try:
            self._write(state, **fields)
        except OSError:
            if state != "running":
                raise

    def _is_owner(self) -> bool:
        current = read_report(self.run)
        return current is not None and current.owner == self.owner

    def _write(self, state: str, **fields: Any) -> None:
        totals = {"attempts": self.attempts, "elapsed": round(self.elapsed, 1), "queue_seconds": self.queue_seconds}
        _write(self.run, state, owner=self.owner, **self.place._asdict(), **_process(None), **totals, **fields)

    def _heartbeat(self) -> None:
        while True:
            time.sleep(HEARTBEAT_SECONDS)
            with suppress(OSError):  # the folder is gone when the run has been collected
                if self._is_owner():
                    os.utime(scratch_dir(self.run) / "status.json")
