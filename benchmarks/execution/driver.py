"""Bring runs to their end: start them, watch their status files, start again those that the cluster took away."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence

import psutil
from filelock import FileLock, Timeout
from rich.console import Console

from benchmarks import results
from benchmarks.execution import executors
from benchmarks.execution.display import Display
from benchmarks.execution.executors.base import Executor, LostRun
from benchmarks.params import Executor as Settings
from benchmarks.plan import Run
from benchmarks.status import State, read_status
from benchmarks.status_file import read_report, report_loss
from benchmarks.storage import disk
from benchmarks.storage.disk import Busy

POLL_SECONDS = 0.5
LOCK_SECONDS = 5  # in which a driver notices that the DVC that started it is gone
MAX_LOSSES = 5  # a run that is lost more often, in one launch, has failed
ENDED = (State.DONE, State.FAILED)


def launch(runs: Sequence[Run], settings: Settings, console: Console) -> None:
    """Bring every run to DONE or FAILED. Runs that are queued or running already are waited for, not started twice.

    Raises:
        Busy: another driver is at work here.
        InputError: there is no such executor, it does not accept the runs, or the results folder cannot be written.
    """
    executor = executors.load(settings.name)(settings)
    scratch = results.RESULTS / "scratch"
    with disk.explained(scratch):
        scratch.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(scratch / "launch.lock", timeout=LOCK_SECONDS):
                _launch(runs, executor, console)
        except Timeout:
            raise Busy(
                f"another proctor is launching runs in {results.RESULTS.resolve()}; wait for it, or stop it and start "
                "again (`proctor status` shows what is running)."
            ) from None


def _launch(runs: Sequence[Run], executor: Executor, console: Console) -> None:
    queue, dvc = _Queue(runs, executor), _dvc_parent()
    with Display([*queue.waiting, *queue.at_work], console) as display:
        try:
            while queue.waiting or queue.at_work:
                started_at = time.monotonic()
                queue.update(display)
                seconds = time.monotonic() - started_at
                queue.start(display)
                if dvc and not _is_alive(dvc):
                    raise Busy(
                        "the `dvc` that started this command has ended. Runs continue; `dvc repro` attaches to them."
                    )
                # Reading hundreds of status files on a busy file system takes its time; it may take a tenth of ours.
                time.sleep(max(POLL_SECONDS, 9 * seconds))
        except KeyboardInterrupt:
            console.print(executor.interrupt())
            raise


class _Queue:
    """The runs of a launch that have not ended: those to be started, and those that are queued or running."""

    def __init__(self, runs: Sequence[Run], executor: Executor) -> None:
        self.executor, self.losses = executor, LossDetector()
        self.waiting: list[Run] = []
        self.at_work: list[Run] = []
        for run in runs:
            state = read_status(run).state
            if state is not State.DONE:  # it was not when the caller looked, but may have ended since
                (self.at_work if state in (State.QUEUED, State.RUNNING) else self.waiting).append(run)

    def update(self, display: Display) -> None:
        """Remove the runs that have ended; move those that are lost back to the waiting ones."""
        for run in list(self.at_work):
            if read_status(run).state in ENDED:
                self.at_work.remove(run)
                display.ended(run)
        for run in self.losses.check(self.at_work):
            self.at_work.remove(run)
            if read_status(run).state in ENDED:
                display.ended(run)
            else:
                self.waiting.append(run)
                display.lost(run)
        display.refresh(self.at_work)

    def start(self, display: Display) -> None:
        for run in self.executor.start(self.waiting, self.at_work):
            self.waiting.remove(run)
            self.at_work.append(run)
            display.started(run)


class LossDetector:
    """Finds the runs that have lost their job or process: those of which their executor says so twice in a row."""

    def __init__(self) -> None:
        self.next_check = float("-inf")
        self.suspected: set[str] = set()
        self.losses: Counter[str] = Counter()

    def check(self, at_work: Sequence[Run]) -> list[Run]:
        """Those that are lost, with the reason in their status files."""
        if time.monotonic() < self.next_check:
            return []
        self.next_check = time.monotonic() + executors.poll_seconds(at_work)
        suspected = executors.lost(at_work)
        lost = [run for run in at_work if run.fingerprint in self.suspected and run.fingerprint in suspected]
        self.suspected = set(suspected) - {run.fingerprint for run in lost}
        for run in lost:
            self._report(run, suspected[run.fingerprint])
        return lost

    def _report(self, run: Run, lost: LostRun) -> None:
        self.losses[run.fingerprint] += 1
        too_often = lost.restart and self.losses[run.fingerprint] > MAX_LOSSES
        reason = f"{lost.reason}; it was lost {MAX_LOSSES + 1} times" if too_often else lost.reason
        report = read_report(run)
        if report and report.job:
            executors.load(report.executor).cancel(report.job)
        report_loss(run, "lost" if lost.restart and not too_often else "failed", reason)


def _dvc_parent() -> psutil.Process | None:
    """The DVC that runs this command as a stage. If it is killed, nothing stops this command; it stops by itself."""
    if "DVC_STAGE" not in os.environ:
        return None
    parents = psutil.Process().parents()
    return next((process for process in parents if any("dvc" in word for word in process.cmdline()[:3])), None)


def _is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
