"""What an executor starts: a run on its way to the process that executes it."""

from __future__ import annotations

import gc
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path

from submitit.helpers import DelayedSubmission

from benchmarks import results
from benchmarks.execution import executors
from benchmarks.params import LoggerName
from benchmarks.plan import Run
from benchmarks.status_file import read_report, report_job
from methods.base import InputError

MAX_STOPS = 5


@dataclass(kw_only=True)
class Job:
    """A run as it is submitted.

    Attributes:
        executor: the name of the executor.
        gpu: of a machine's GPUs, the one that is leased to this run; None: as the environment says.
        folder: the project's folder, absolute, as the driver sees it.
        stops: how often in a row the run was stopped from outside before it had written a new checkpoint.
        checkpoint_time: when the checkpoint from which this process resumes was written; 0 if there is none.
    """

    run: Run
    executor: str
    device: str
    threads: int
    cache_gib: float
    gpu: str | None = None
    logger: LoggerName | None = None
    folder: Path = field(default_factory=Path.cwd)
    stops: int = 0
    checkpoint_time: float = 0.0

    def __call__(self) -> None:
        """Execute the run.

        Raises:
            InputError: this machine does not see the project.
            Exception: as `worker.execute`.
        """
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise InputError(_not_visible(self.folder, error)) from None
        if not results.scratch_dir(self.run).is_dir():
            raise InputError(_not_visible(results.scratch_dir(self.run).absolute(), "no such folder"))
        if self.gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpu
        self.checkpoint_time = self._checkpoint_time()
        # Modules live as long as the process: to look for garbage among them takes a fifth of their import.
        gc.disable()
        from benchmarks.execution import worker  # imports torch, which the driver need not do

        gc.freeze()
        gc.enable()
        place = executors.load(self.executor).place()
        worker.execute(self.run, self.device, self.threads, self.cache_gib, place, self.logger)

    def checkpoint(self) -> DelayedSubmission:
        """What submitit puts back into the queue when the cluster announces the end of the job.

        There is nothing to save here: a fit saves its state at intervals, for an end may come unannounced.

        Raises:
            InputError: the run was stopped too often before it had written a new checkpoint.
        """
        self.stops = 0 if self._checkpoint_time() > self.checkpoint_time else self.stops + 1
        if self.stops >= MAX_STOPS:
            raise InputError(
                f"stopped {self.stops} times in a row before it had written a new checkpoint: its jobs are pre-empted "
                "too soon, or `executor.minutes` is too short for the method."
            )
        report = read_report(self.run)
        if report and report.job:
            report_job(self.run, "queued", report.job, report.executor)
        return DelayedSubmission(self)

    def _checkpoint_time(self) -> float:
        path = results.checkpoint(self.run)
        return path.stat().st_mtime if path.exists() else 0.0


def _not_visible(path: Path, error: object) -> str:
    return (
        f"{socket.gethostname()} does not see {path} ({error}): the project must lie on a file system that all nodes "
        "share, under the same path."
    )
