"""What is submitted: a run on its way to the process that executes it."""

from __future__ import annotations

import gc
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from submitit.helpers import DelayedSubmission

from benchmarks import results, status
from benchmarks.plan import Run
from methods.base import InputError

FRUITLESS_STOPS = 5


@dataclass(kw_only=True)
class Job:
    """A run as it is submitted.

    Attributes:
        folder: the project's folder, absolute, as the driver sees it.
        gpu: of a machine's GPUs, the one that is leased to this run; None: as the environment says.
        stops: how often in a row the run was stopped from outside before it had written a new checkpoint.
    """

    run: Run
    folder: Path
    device: str
    threads: int
    cache_gib: float
    gpu: str | None = None
    stops: int = 0
    begun: float = 0.0  # when the checkpoint that this process found was written

    def __call__(self) -> None:
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise InputError(_unseen(self.folder, error)) from None
        if not results.scratch_dir(self.run).is_dir():
            raise InputError(_unseen(results.scratch_dir(self.run).absolute(), "it is not there"))
        if self.gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpu
        self.begun = self._checkpoint_time()
        # Modules live as long as the process: to look for garbage among them takes a fifth of their import.
        gc.disable()
        from benchmarks.execution import worker  # brings torch

        gc.freeze()
        gc.enable()
        worker.execute(self.run, self.device, self.threads, self.cache_gib)

    def checkpoint(self) -> DelayedSubmission:
        """What submitit puts back into the queue when SLURM announces the end of the time or of the patience.

        There is nothing to save here: a fit saves its state by the clock, and the end may come unannounced.
        """
        self.stops = 0 if self._checkpoint_time() > self.begun else self.stops + 1
        if self.stops >= FRUITLESS_STOPS:
            raise InputError(
                f"stopped {self.stops} times in a row before it had written a new checkpoint: its jobs are pre-empted "
                "too soon, or `executor.minutes` is too short for the method."
            )
        job = status.read_report(self.run).get("job")
        if job:
            status.report_job(self.run, "queued", job)
        return DelayedSubmission(self)

    def _checkpoint_time(self) -> float:
        path = results.checkpoint(self.run)
        return path.stat().st_mtime if path.exists() else 0.0


def _unseen(path: Path, error: object) -> str:
    return (
        f"{socket.gethostname()} does not see {path} ({error}): the project must lie on a file system that all nodes "
        "share, under the same path."
    )
