"""What every run of a suite is doing: rows for people and programs, read from the disk."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from benchmarks.execution import executors
from benchmarks.plan import Run, Unsupported
from benchmarks.status import State, Status, log_dir, read_status
from benchmarks.status_file import read_report, seconds_since_update

COLUMNS = ("run", "state", "job", "node", "elapsed", "progress", "loss", "remaining", "last")
AT_WORK = (State.RUNNING, State.QUEUED)
ORDER = (*AT_WORK, State.FAILED, State.STALE, State.MISSING, State.UNSUPPORTED, State.DONE)
WATCH_SECONDS = 5


class Row(BaseModel, frozen=True):
    """What a run is doing. All but `run`, `state` and `reason` is None unless it is at work or has failed."""

    run: str
    state: State
    reason: str
    job: str | None = None
    node: str | None = None
    elapsed: float | None = None  # seconds, in all attempts
    phase: str | None = None
    done: int | None = None  # epochs of a fit, images of a prediction
    total: int | None = None
    terms: dict[str, float] | None = None  # loss terms and measures of the last epoch
    remaining: float | None = None  # estimated seconds to the end of the phase
    last: str | None = None  # line of the log

    def json_object(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


def rows(entries: Iterable[Run | Unsupported]) -> list[Row]:
    """One row per run, or per group that cannot run. A cluster is asked at most once."""
    entries = list(entries)
    statuses = {entry.name: read_status(entry) for entry in entries if isinstance(entry, Run)}
    at_work = [entry for entry in entries if isinstance(entry, Run) and statuses[entry.name].state in AT_WORK]
    lost = executors.lost(at_work)
    result = []
    for entry in entries:
        if isinstance(entry, Unsupported):
            result.append(Row(run=entry.group, state=State.UNSUPPORTED, reason=entry.reason))
        elif entry.fingerprint in lost:
            result.append(_row(entry, Status(State.MISSING, lost[entry.fingerprint].reason)))
        else:
            result.append(_row(entry, statuses[entry.name]))
    return result


def _row(run: Run, status: Status) -> Row:
    row = Row(run=run.name, state=status.state, reason=status.reason)
    report = read_report(run)
    if report is None or status.state not in (*AT_WORK, State.FAILED):
        return row
    idle = seconds_since_update(run) if report.state == "running" else 0.0
    fields: dict[str, Any] = {
        "job": report.job,
        "node": report.node or report.host,
        "elapsed": round(report.elapsed + idle, 1) or None,
        "last": last_line(run),
    }
    if report.phase is not None:
        remaining = None if report.remaining is None else round(max(0.0, report.remaining - idle), 1)
        fields |= report.model_dump(include={"phase", "done", "total", "terms"}) | {"remaining": remaining}
    return row.model_copy(update=fields)


def last_line(run: Run) -> str:
    """The last line that a run's process has written, to either stream; empty if there is none."""
    logs = sorted(log_dir(run).glob("*_log.*"), key=lambda path: path.stat().st_mtime)
    for path in reversed(logs):
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - 2000))
            lines = [line for line in stream.read().decode(errors="replace").splitlines() if line.strip()]
        if lines:
            return lines[-1]
    return ""


def table(rows: Sequence[Row]) -> Table:
    """Runs at work first, then those that failed, then the others."""
    result = Table(title=counts(rows))
    for column in COLUMNS:
        result.add_column(
            column, no_wrap=column not in ("run", "loss"), overflow="ellipsis" if column == "last" else "fold"
        )
    for row in sorted(rows, key=lambda row: ORDER.index(row.state)):
        cells = row.json_object() | {
            "elapsed": _clock(row.elapsed),
            "remaining": _clock(row.remaining),
            "progress": f"{row.phase} {row.done}/{row.total}" if row.phase else "",
            "loss": " ".join(f"{name} {value:.4g}" for name, value in (row.terms or {}).items()),
            "last": row.last if row.state in AT_WORK else row.reason,
        }
        result.add_row(*(escape(str(cells.get(column) or "")) for column in COLUMNS))
    return result


def counts(rows: Sequence[Row]) -> str:
    """How many runs are in which state, in words."""
    numbers = Counter(row.state for row in rows)
    return ", ".join(f"{numbers[state]} {state}" for state in State if numbers[state])


def watch(entries: Sequence[Run | Unsupported], console: Console) -> None:
    """Keep the table on the screen until no run is at work."""
    current = rows(entries)
    with Live(table(current), console=console, auto_refresh=False) as live:
        while any(row.state in AT_WORK for row in current):
            time.sleep(WATCH_SECONDS)
            current = rows(entries)
            live.update(table(current), refresh=True)


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
