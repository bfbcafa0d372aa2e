"""Bring runs to their end: start them, watch their status files, start again what the cluster took away."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence

import psutil
import submitit
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from benchmarks import results, status
from benchmarks.execution.executors import slurm as executors
from benchmarks.execution.executors.slurm import Local, Loss, Slurm
from benchmarks.params import Executor
from benchmarks.plan import Run
from benchmarks.status import State

POLL_SECONDS = 0.5
QUEUE_SECONDS = 10  # between two questions to SLURM, which one driver asks for all runs together
LOCK_SECONDS = 5  # in which a driver notices that the DVC that started it is gone
TIMES_LOST = 5  # a run that the cluster takes away more often, in one launch, has failed


def launch(runs: Sequence[Run], executor: Executor, console: Console) -> None:
    """Bring every run to DONE or FAILED. Runs that are at work already are waited for, not started twice.

    Raises:
        status.Busy: another driver is at work here.
        InputError: the cluster does not accept the runs.
    """
    results.RESULTS.joinpath("scratch").mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(results.RESULTS / "scratch" / "launch.lock", timeout=LOCK_SECONDS):
            if executor.name == "debug":
                _launch_here(runs, executor, console)
            else:
                _launch(runs, Slurm(executor) if executor.name == "slurm" else Local(executor), console)
    except Timeout:
        raise status.Busy(
            f"another proctor is launching runs in {results.RESULTS.resolve()}; wait for it, or stop it and start "
            "again (`proctor status` shows what is at work)."
        ) from None


def _launch_here(runs: Sequence[Run], executor: Executor, console: Console) -> None:
    from benchmarks.execution import worker  # brings torch

    for run in runs:
        console.print(f"start {run.name}")
        job = submitit.DebugExecutor(folder=results.scratch_dir(run) / "log").submit(
            worker.execute, run, executors.device(executor), executor.threads or os.cpu_count() or 1, executor.cache_gib
        )
        # Read before anything else: result() of a failed debug job opens a debugger.
        _say_end(run, job.exception(), console)


def _launch(runs: Sequence[Run], cluster: Local | Slurm, console: Console) -> None:
    at_work: list[Run] = []
    waiting: list[Run] = []
    for run in runs:
        state = status.read_status(run).state
        if state is not State.DONE:  # it was not, when the caller looked, but may have ended since
            (at_work if state in (State.QUEUED, State.RUNNING) else waiting).append(run)
    mourner, parent = _Mourner(), _dvc()
    with _Display(len(at_work) + len(waiting), console) as display:
        try:
            while waiting or at_work:
                begun = time.monotonic()
                for run in list(at_work):
                    if status.read_status(run).state in (State.DONE, State.FAILED):
                        at_work.remove(run)
                        display.ended(run)
                for run in mourner.buried(at_work):
                    at_work.remove(run)
                    if status.read_status(run).state in (State.DONE, State.FAILED):
                        display.ended(run)
                    else:
                        waiting.append(run)
                        display.lost(run)
                display.refresh(at_work)
                looked = time.monotonic() - begun
                for run in cluster.start(waiting, at_work):
                    waiting.remove(run)
                    at_work.append(run)
                    display.started(run)
                if parent and _is_gone(parent):
                    raise status.Busy("the DVC that started this command is gone; another one attaches to the runs.")
                # Looking at hundreds of files on a busy file system takes its time; it may take a tenth of ours.
                time.sleep(max(POLL_SECONDS, 9 * looked))
        except KeyboardInterrupt:
            console.print(cluster.interrupt())
            raise


class _Mourner:
    """Writes down which runs have lost their job or process, once two inquiries have said so."""

    def __init__(self) -> None:
        self.due = float("-inf")
        self.suspects: set[str] = set()
        self.times: Counter[str] = Counter()

    def buried(self, at_work: Sequence[Run]) -> list[Run]:
        """Those whose loss is certain by now, with their status files brought up to date."""
        if time.monotonic() < self.due:
            return []
        of_slurm = any("job" in status.read_report(run) for run in at_work)
        self.due = time.monotonic() + (QUEUE_SECONDS if of_slurm else POLL_SECONDS)
        losses = executors.losses(at_work)
        if losses is None:
            return []
        certain = [run for run in at_work if run.fingerprint in self.suspects & set(losses)]
        self.suspects = set(losses)
        for run in certain:
            self._bury(run, losses[run.fingerprint])
        return certain

    def _bury(self, run: Run, loss: Loss) -> None:
        self.times[run.fingerprint] += 1
        often = self.times[run.fingerprint] > TIMES_LOST
        state = "lost" if loss.again and not often else "failed"
        reason = f"{loss.reason}; that was the {TIMES_LOST + 1}th time" if often and loss.again else loss.reason
        if job := status.read_report(run).get("job"):
            executors.forget(job)
            status.report_job(run, state, job, error=reason)
        else:
            status.report(run, state, error=reason)


def _dvc() -> psutil.Process | None:
    """The DVC that runs this command as a stage. When it is killed, nothing stops the command; it must see to that."""
    if "DVC_STAGE" not in os.environ:
        return None
    parents = psutil.Process().parents()
    return next((process for process in parents if any("dvc" in word for word in process.cmdline()[:3])), None)


def _say_end(run: Run, error: object, console: Console) -> None:
    state = status.read_status(run)
    mark = "[green]done[/]" if error is None and state.state is State.DONE else "[red]failed[/]"
    console.print(f"{mark} {run.name} {state.reason}", highlight=False, soft_wrap=True)


def _is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


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

    def lost(self, run: Run) -> None:
        self.console.print(
            f"[yellow]again[/] {run.name} {status.read_status(run).reason}", highlight=False, soft_wrap=True
        )

    def refresh(self, at_work: Sequence[Run]) -> None:
        for run in at_work:
            report = status.read_report(run)
            if "phase" not in report:
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
