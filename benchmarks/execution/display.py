"""The progress of a launch on the console."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from benchmarks.plan import Run
from benchmarks.status import State, read_status
from benchmarks.status_file import read_report


class Display:
    """A bar for all runs and one for each run at work; without a terminal, a plain line at each start and end."""

    def __init__(self, total: int, console: Console) -> None:
        self.console, self.tasks = console, dict[str, TaskID]()
        self.reasons: set[str] = set()  # that were printed
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

    def __enter__(self) -> Display:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def started(self, run: Run) -> None:
        if not self.console.is_terminal:
            self._print(f"start {run.name}")

    def ended(self, run: Run) -> None:
        if run.name in self.tasks:
            self.progress.remove_task(self.tasks.pop(run.name))
        self.progress.advance(self.whole)
        state, reason = read_status(run)
        if state is State.DONE:
            self._print(f"[green]done[/] {run.name}")
        else:
            self._print(f"[red]failed[/] {run.name} {self._once(reason)}")

    def lost(self, run: Run) -> None:
        self._print(f"[yellow]lost[/] {run.name} {self._once(read_status(run).reason)}")

    def refresh(self, at_work: Sequence[Run]) -> None:
        """Bring the bars up to date with the status files."""
        for run in at_work:
            report = read_report(run)
            if report is None or report.phase is None:
                continue
            if run.name not in self.tasks:
                self.tasks[run.name] = self.progress.add_task(run.name, detail="")
            terms = " ".join(f"{name} {value:.4g}" for name, value in report.terms.items())
            self.progress.update(
                self.tasks[run.name], completed=report.done, total=report.total, detail=f"{report.phase} {terms}"
            )

    def _once(self, reason: str) -> str:
        """A reason in full the first time; runs that fail alike fill no screen."""
        if reason in self.reasons:
            return "(as above)"
        self.reasons.add(reason)
        return escape(reason)

    def _print(self, markup: str) -> None:
        self.console.print(markup, highlight=False, soft_wrap=True)
