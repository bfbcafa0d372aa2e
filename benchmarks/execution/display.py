"""Runs on the terminal: one picture for `status`, for `--watch`, and while they are executed."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Literal

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from benchmarks.execution import monitor
from benchmarks.execution.forecast import mean_seconds
from benchmarks.execution.monitor import AT_WORK, Row
from benchmarks.plan import Run, Unsupported
from benchmarks.status import State, read_status
from benchmarks.wording import counted

ORDER = (*AT_WORK, State.FAILED, State.STALE, State.MISSING, State.UNSUPPORTED, State.DONE)
WATCH_SECONDS = 5
REFRESH_SECONDS = 1
GAP = 2  # blanks between columns
SHORTEST_TEXT = 12  # to which a reason or a line of a log may be cut
LEAST_IMPORTANT = ("log", "job", "node", "elapsed", "pace", "loss")  # left out first where the terminal is narrow


def picture(rows: Sequence[Row], width: int, height: int | None = None) -> Group:
    """Totals, the runs at work, and the others as numbers by group.

    Args:
        width: of the terminal, in characters.
        height: in lines; the runs at work that it does not hold are counted. None: all are shown.
    """
    working = sorted((row for row in rows if row.state in AT_WORK), key=lambda row: ORDER.index(row.state))
    others = [row for row in rows if row.state not in AT_WORK]
    parts: list[Table | Text] = [Text(totals(rows) + _time_left(rows))]
    groups = by_group(others, width)
    shown = len(working) if height is None else max(1, height - groups.row_count - 8)
    if working:
        parts += [Text(), _working(working[:shown], width)]
        if more := len(working) - shown:
            parts.append(Text(f"and {counted(more, 'more run')}"))
    if others:
        parts += [Text(), groups]
    return Group(*parts)


def totals(rows: Sequence[Row]) -> str:
    """How many runs are in which state, in words."""
    numbers = Counter(row.state for row in rows)
    refused = numbers.pop(State.UNSUPPORTED, 0)
    states = ", ".join(f"{numbers[state]} {state}" for state in ORDER if numbers[state])
    parts = [f"{counted(numbers.total(), 'run')}: {states}"] if states else []
    return "; ".join([*parts, f"{counted(refused, 'group')} unsupported"] if refused else parts)


def by_group(rows: Iterable[Row], width: int) -> Table:
    """How many runs of each group are in which state, and why. Those that failed are named."""
    alike: dict[str, dict[tuple[State, str], list[Row]]] = {}
    for row in rows:
        alike.setdefault(row.group, {}).setdefault((row.state, row.reason), []).append(row)
    lines: list[dict[str, str]] = []
    for group, kinds in alike.items():
        name = group
        for (state, reason), members in sorted(kinds.items(), key=lambda kind: ORDER.index(kind[0][0])):
            number = "" if state is State.UNSUPPORTED else str(len(members))
            named = f"{_stems(members)}: " if state is State.FAILED else ""
            lines.append({"group": name, "runs": number, "state": state, "reason": named + reason})
            name = ""  # once
    return _table(lines, width, text="reason", right=("runs",))


def every_run(rows: Iterable[Row], width: int) -> Table:
    """A line for each run."""
    lines = [{"run": row.run, "state": str(row.state), "reason": row.reason} for row in rows]
    return _table(lines, width, text="reason")


def _stems(rows: Sequence[Row]) -> str:
    stems = [row.run.partition("/")[2] for row in rows]
    return ", ".join(stems[:3]) + (", …" if len(stems) > 3 else "")


def _working(rows: Sequence[Row], width: int) -> Table:
    lines = [
        {
            "run": row.run,
            "progress": f"{row.phase} {row.done}/{row.total}" if row.phase else str(row.state),
            "loss": "" if row.loss is None else f"{row.loss:.4g}",
            "pace": _pace(row),
            "left": _clock(row.remaining),
            "elapsed": _clock(row.elapsed),
            "node": row.node or "",
            "job": row.job or "",
            "log": row.last or "",
        }
        for row in rows
    ]
    return _table(lines, width, text="log", right=("loss", "pace", "left", "elapsed"))


def _table(lines: Sequence[Mapping[str, str]], width: int, text: str, right: Sequence[str] = ()) -> Table:
    """A table without empty columns. Names are never wrapped; `text`, the last column, takes what they leave."""
    names = [name for name in (lines[0] if lines else ()) if any(line[name] for line in lines)]
    sizes = {name: max(cell_len(value) for value in (name, *(line[name] for line in lines))) for name in names}
    whole = sizes.get(text, 0)
    sizes[text] = min(whole, SHORTEST_TEXT)
    for name in LEAST_IMPORTANT:
        if name in names and _width(names, sizes) > width:
            names.remove(name)
    sizes[text] = min(whole, sizes[text] + max(0, width - _width(names, sizes)))
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for name in names:
        justify: Literal["left", "right"] = "right" if name in right else "left"
        table.add_column(name, justify=justify, width=sizes[name], no_wrap=name != "reason", overflow="ellipsis")
    for line in lines:
        table.add_row(*(Text(line[name]) for name in names))
    return table


def _width(names: Sequence[str], sizes: Mapping[str, int]) -> int:
    return sum(sizes[name] + GAP for name in names) - GAP


def _pace(row: Row) -> str:
    if not row.seconds_each:
        return ""
    if row.phase == "predict":
        return f"{1 / row.seconds_each:.3g} images/s"
    return f"{row.seconds_each:.3g} s/epoch"


def _time_left(rows: Sequence[Row], seconds_of: Callable[[str], float | None] = mean_seconds) -> str:
    """When all runs will have ended, if as many are executed at a time as now; empty if none is running."""
    running = [row for row in rows if row.state is State.RUNNING]
    if not running:
        return ""

    @cache
    def whole(group: str) -> float | None:
        """Seconds that a run of a group takes: by its records, else by the runs at work."""
        ends = [row.elapsed + row.remaining for row in running if row.group == group and row.elapsed and row.remaining]
        return seconds_of(group) or (sum(ends) / len(ends) if ends else None)

    def left(row: Row) -> float | None:
        if row.state not in (*AT_WORK, State.STALE, State.MISSING):
            return 0.0
        if row.remaining is not None and row.phase != "amplify":  # after which the fit begins
            return row.remaining
        total = whole(row.group)
        return None if total is None else max(0.0, total - (row.elapsed or 0.0))

    known = [seconds for row in rows if (seconds := left(row)) is not None]
    longest = max([*known, sum(known) / len(running)])
    return f"; {'about' if len(known) == len(rows) else 'more than'} {_duration(longest)} left" if longest else ""


def _duration(seconds: float) -> str:
    minutes = math.ceil(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def watch(entries: Sequence[Run | Unsupported], console: Console) -> None:
    """Keep the picture on the screen until no run is at work."""
    with Live(console=console, auto_refresh=False) as live:
        while True:
            rows = monitor.rows(entries)
            active = any(row.state in AT_WORK for row in rows)
            live.update(picture(rows, console.width, console.height if active else None), refresh=True)
            if not active:
                return
            time.sleep(WATCH_SECONDS)


class Display:
    """The progress of a launch: the picture; without a terminal, a plain line at each start and end."""

    def __init__(self, runs: Sequence[Run], console: Console) -> None:
        self.console = console
        self.rows = {run.name: Row(run=run.name, state=State.MISSING, reason="") for run in runs}
        self.reasons: set[str] = set()  # that were printed
        self.live = Live(console=console, auto_refresh=False, transient=True)
        self.refreshed = float("-inf")

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def started(self, run: Run) -> None:
        if not self.console.is_terminal:
            self._print(f"start {run.name}")

    def ended(self, run: Run) -> None:
        state, reason = read_status(run)
        self.rows[run.name] = Row(run=run.name, state=state, reason=reason)
        if state is State.DONE:
            self._print(f"[green]done[/] {run.name}")
        else:
            self._print(f"[red]failed[/] {run.name} {self._once(reason)}")

    def lost(self, run: Run) -> None:
        state, reason = read_status(run)
        self.rows[run.name] = Row(run=run.name, state=state, reason=reason)
        self._print(f"[yellow]lost[/] {run.name} {self._once(reason)}")

    def refresh(self, at_work: Sequence[Run]) -> None:
        """Bring the picture up to date with the status files of the runs at work."""
        if not self.console.is_terminal or time.monotonic() < self.refreshed + REFRESH_SECONDS:
            return
        self.rows |= {run.name: monitor.row(run, read_status(run)) for run in at_work}
        shown = picture(list(self.rows.values()), self.console.width, self.console.height)
        self.live.update(shown, refresh=True)
        self.refreshed = time.monotonic()

    def _once(self, reason: str) -> str:
        """A reason in full the first time; runs that fail alike fill no screen."""
        if reason in self.reasons:
            return "(as above)"
        self.reasons.add(reason)
        return escape(reason)

    def _print(self, markup: str) -> None:
        self.console.print(markup, highlight=False, soft_wrap=True)
