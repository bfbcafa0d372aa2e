"""Execute runs through submitit, a few at a time, and watch them until each is done or failed."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import submitit
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from benchmarks import runner, store
from benchmarks.params import Executor
from benchmarks.runs import Run
from benchmarks.store import State

POLL_SECONDS = 0.5
UNLIMITED_MINUTES = 60 * 24 * 365  # submitit ends a local job after two minutes unless it is told otherwise


def launch(runs: Sequence[Run], executor: Executor, console: Console) -> None:
    """Bring every run to DONE or FAILED. Runs that are at work already are waited for, not started twice.

    Raises:
        store.Busy: another driver is at work here.
    """
    store.RESULTS.joinpath("scratch").mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(store.RESULTS / "scratch" / "launch.lock", timeout=0):
            if executor.name == "debug":
                _launch_here(runs, executor, console)
            else:
                _launch_local(runs, executor, console)
    except Timeout:
        raise store.Busy(
            f"another proctor is launching runs in {store.RESULTS.resolve()}; wait for it, or stop it and start again "
            "(`proctor status` shows what is at work)."
        ) from None


def _launch_here(runs: Sequence[Run], executor: Executor, console: Console) -> None:
    device = _device(executor)
    for run in runs:
        console.print(f"start {run.name}")
        job = submitit.DebugExecutor(folder=store.scratch_dir(run) / "log").submit(
            runner.execute, run, device, executor.threads or os.cpu_count() or 1, executor.cache_gib
        )
        # Read before anything else: result() of a failed debug job opens a debugger.
        _say_end(run, job.exception(), console)


def _launch_local(runs: Sequence[Run], executor: Executor, console: Console) -> None:
    device = _device(executor)
    cores, gpus = os.cpu_count() or 1, _count_gpus() if device.startswith("cuda") else 0
    slots = executor.jobs or gpus or cores
    threads = executor.threads or max(1, cores // slots)
    waiting = [run for run in runs if store.status(run).state is not State.RUNNING]
    attached = [run for run in runs if run not in waiting]
    jobs: dict[int, tuple[Run, submitit.Job[None]]] = {}  # by slot

    with _Display(len(runs), console) as display:
        try:
            while waiting or jobs or attached:
                for slot in range(slots - len(attached)):
                    if slot not in jobs and waiting:
                        run = waiting.pop(0)
                        local = submitit.LocalExecutor(folder=store.scratch_dir(run) / "log")
                        gpu = {"gpus_per_node": 1, "visible_gpus": [slot % gpus]} if gpus else {}
                        local.update_parameters(timeout_min=UNLIMITED_MINUTES, **gpu)
                        job = local.submit(runner.execute, run, device, threads, executor.cache_gib)
                        # Until the job speaks for itself: a driver that takes over must not submit it again.
                        store.report(run, "running", pid=int(job.job_id))
                        jobs[slot] = (run, job)
                        display.started(run)
                for slot, (run, job) in list(jobs.items()):
                    if job.done():
                        del jobs[slot]
                        if store.status(run).state not in (State.DONE, State.FAILED):
                            store.report(run, "failed", error=f"its process ended without a result ({job.state})")
                        display.ended(run)
                for run in list(attached):
                    if store.status(run).state is not State.RUNNING:
                        attached.remove(run)
                        if store.status(run).state is State.MISSING:
                            waiting.append(run)
                        else:
                            display.ended(run)
                display.refresh([run for run, _ in jobs.values()] + attached)
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            for _, job in jobs.values():
                job.cancel()
            console.print("Stopped. What is finished is kept; the same command takes up the rest.")
            raise


def _device(executor: Executor) -> str:
    if executor.device != "auto":
        return executor.device
    return "cuda" if _count_gpus() else "cpu"


def _count_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def log_tail(run: Run, lines: int = 15) -> str:
    """Where a run's log lies, and its last lines."""
    logs = sorted((store.scratch_dir(run) / "log").glob("*_log.*"), key=lambda path: path.stat().st_mtime)
    if not logs:
        return ""
    text = "\n".join(line for path in logs[-2:] for line in path.read_text(errors="replace").splitlines()[-lines:])
    return f"log: {logs[-1].parent}\n{text}"


def _say_end(run: Run, error: object, console: Console) -> None:
    state = store.status(run)
    mark = "[green]done[/]" if error is None and state.state is State.DONE else "[red]failed[/]"
    console.print(f"{mark} {run.name} {state.reason}", highlight=False, soft_wrap=True)


class _Display:
    """A line for the whole, and one for each run at work; without a terminal, a plain line at each start and end."""

    def __init__(self, total: int, console: Console) -> None:
        self.console, self.rows = console, dict[str, TaskID]()
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.whole = self.progress.add_task("runs", total=total, detail="")

    def __enter__(self) -> _Display:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def started(self, run: Run) -> None:
        if not self.console.is_terminal:
            self.console.print(f"start {run.name}", highlight=False)

    def ended(self, run: Run) -> None:
        if run.name in self.rows:
            self.progress.remove_task(self.rows.pop(run.name))
        self.progress.advance(self.whole)
        _say_end(run, None, self.console)

    def refresh(self, at_work: Sequence[Run]) -> None:
        for run in at_work:
            report = store.read_json(store.scratch_dir(run) / "status.json")
            if report is None or "phase" not in report:
                continue
            if run.name not in self.rows:
                self.rows[run.name] = self.progress.add_task(run.name, detail="")
            terms = " ".join(f"{name} {value:.4g}" for name, value in report["terms"].items())
            self.progress.update(
                self.rows[run.name],
                completed=report["done"],
                total=report["total"],
                detail=f"{report['phase']} {terms}",
            )
