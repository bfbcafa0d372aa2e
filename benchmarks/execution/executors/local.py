"""Processes on this machine, as many at a time as there are slots; each GPU is leased to as few runs as possible."""

from __future__ import annotations

import os
from collections.abc import Sequence

import submitit

from benchmarks import results, status
from benchmarks.execution.executors.base import Executor, LostRun
from benchmarks.execution.job import Job
from benchmarks.params import Executor as Settings
from benchmarks.plan import Run
from benchmarks.status import State
from benchmarks.status_file import read_report, report

UNLIMITED_MINUTES = 60 * 24 * 365  # submitit ends a local job after two minutes unless it is given a time


class Local(Executor):
    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        gpus = [] if settings.device == "cpu" else _gpus()
        self.device = settings.device if settings.device != "auto" else "cuda" if gpus else "cpu"
        self.gpus = gpus if self.device.startswith("cuda") else []
        self.slots = settings.jobs or len(self.gpus) or cores
        self.threads = settings.threads or max(1, cores // self.slots)
        self.children: list[submitit.Job[None]] = []

    def start(self, waiting: Sequence[Run], at_work: Sequence[Run]) -> list[Run]:
        self.children = [job for job in self.children if not job.done()]  # `done` also reaps a process that has ended
        reports = [read_report(run) for run in at_work]
        leased = [report.gpu for report in reports if report]
        started = list(waiting[: max(0, self.slots - len(at_work))])
        for run in started:
            gpu = min(self.gpus, key=leased.count, default=None)
            leased.append(gpu)
            self._start(run, gpu)
        return started

    def _start(self, run: Run, gpu: str | None) -> None:
        executor = submitit.LocalExecutor(folder=results.scratch_dir(run) / "log")
        executor.update_parameters(timeout_min=UNLIMITED_MINUTES)
        job = executor.submit(
            Job(
                run=run,
                executor=self.name,
                device=self.device,
                threads=self.threads,
                cache_gib=self.settings.cache_gib,
                gpu=gpu,
                logger=self.settings.logger,
            )
        )
        self.children.append(job)
        # Until the process reports by itself: a driver that takes over must not start the run again.
        report(run, "running", pid=int(job.job_id), gpu=gpu)

    @classmethod
    def lost(cls, at_work: Sequence[Run]) -> dict[str, LostRun]:
        reason = (
            "its process ended without a result: killed, out of memory, or a full disk? When restarted, it continues "
            "from its last checkpoint"
        )
        gone = [run for run in at_work if status.read_status(run).state is State.MISSING]
        return {run.fingerprint: LostRun(reason, restart=False) for run in gone}

    def interrupt(self) -> str:
        for job in self.children:
            job.cancel()
        return "Stopped. Finished runs are kept; the same command continues with the others."


def _gpus() -> list[str]:
    """This machine's GPUs, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
