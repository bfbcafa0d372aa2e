"""What every run of a suite is doing: rows for people and programs, read from the disk; SLURM is asked at most once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from benchmarks import status
from benchmarks.execution.executors import slurm as executors
from benchmarks.plan import Run, Unsupported
from benchmarks.status import State, Status

COLUMNS = ("run", "state", "job", "node", "elapsed", "progress", "loss", "left", "last")
AT_WORK = (State.RUNNING, State.QUEUED)
WATCH_SECONDS = 5


def rows(entries: Iterable[Run | Unsupported]) -> list[dict[str, Any]]:
    """One row per run, with its state, the reason, and, where a process has told it, these:

    `job` and `node`; `elapsed` seconds in all attempts; `phase`, `done` and `total` (epochs of a fit, images of a
    prediction); `terms`, the loss terms and measures of the last epoch; `left`, the estimated seconds to the end of the
    phase; `last`, the last line of the log.
    """
    listed = list(entries)
    states = {e.name: status.read_status(e) for e in listed if isinstance(e, Run)}
    lost = executors.losses([e for e in listed if isinstance(e, Run) and states[e.name].state in AT_WORK]) or {}
    found = []
    for entry in listed:
        if isinstance(entry, Unsupported):
            found.append({"run": entry.group, "state": State.UNSUPPORTED.value, "reason": entry.reason})
            continue
        state = states[entry.name]
        if entry.fingerprint in lost:
            state = Status(State.MISSING, lost[entry.fingerprint].reason)
        at_work = _at_work(entry) if state.state in (*AT_WORK, State.FAILED) else {}
        found.append({"run": entry.name, "state": state.state.value, "reason": state.reason} | at_work)
    return found


def _at_work(run: Run) -> dict[str, Any]:
    report = status.read_report(run)
    told = ("job", "node", "elapsed", "phase", "done", "total", "terms", "left")
    row: dict[str, Any] = {key: report[key] for key in told if key in report}
    row.setdefault("node", report.get("host"))
    if report.get("state") == "running" and "elapsed" in report:
        since = status.silence(run)
        row["elapsed"] = round(report["elapsed"] + since, 1)
        if report.get("left") is not None:
            row["left"] = round(max(0.0, report["left"] - since), 1)
    row["last"] = last_line(run)
    return row


def last_line(run: Run) -> str:
    """The last line that a run's process has written, to either stream; empty if none."""
    logs = sorted(status.log_dir(run).glob("*_log.*"), key=lambda path: path.stat().st_mtime)
    for path in reversed(logs):
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - 2000))
            lines = [line for line in stream.read().decode(errors="replace").splitlines() if line.strip()]
        if lines:
            return lines[-1]
    return ""


def table(found: Sequence[dict[str, Any]]) -> Table:
    """Runs at work first, then those that failed, then the others."""
    order = [State.RUNNING, State.QUEUED, State.FAILED, State.STALE, State.MISSING, State.UNSUPPORTED, State.DONE]
    drawn = Table(title=counts(found))
    for column in COLUMNS:
        drawn.add_column(
            column, no_wrap=column not in ("run", "loss"), overflow="ellipsis" if column == "last" else "fold"
        )
    for row in sorted(found, key=lambda row: order.index(State(row["state"]))):
        shown = row | {
            "elapsed": _clock(row.get("elapsed")),
            "left": _clock(row.get("left")),
            "progress": f"{row['phase']} {row['done']}/{row['total']}" if "phase" in row else "",
            "loss": " ".join(f"{name} {value:.4g}" for name, value in row.get("terms", {}).items()),
            "last": row["reason"] if row["state"] not in AT_WORK else row.get("last"),
        }
        drawn.add_row(*(str(shown.get(column) or "") for column in COLUMNS))
    return drawn


def counts(found: Sequence[dict[str, Any]]) -> str:
    """How many runs are in which state, in words."""
    numbers = {state.value: sum(row["state"] == state for row in found) for state in State}
    return ", ".join(f"{number} {state}" for state, number in numbers.items() if number)


def watch(entries: Sequence[Run | Unsupported], console: Console) -> None:
    """Keep the table on the screen until no run is at work."""
    found = rows(entries)
    with Live(table(found), console=console, auto_refresh=False) as live:
        while any(row["state"] in AT_WORK for row in found):
            time.sleep(WATCH_SECONDS)
            found = rows(entries)
            live.update(table(found), refresh=True)


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
