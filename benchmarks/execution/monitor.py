"""What every run of a suite is doing, read from the disk."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from benchmarks.execution import executors
from benchmarks.metrics.registry import METRICS
from benchmarks.plan import Run, Unsupported
from benchmarks.status import State, Status, log_dir, read_status
from benchmarks.status_file import read_report, seconds_since_update

AT_WORK = (State.RUNNING, State.QUEUED)
MEASURED = {"validation", *METRICS}  # what stands among the loss terms of an epoch and is no part of the loss
LAUNCHER = re.compile(r"submitit \w+ \(")  # begins what the launcher logs, which says nothing of the run


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
    seconds_each: float | None = None  # for an epoch or image, at the present pace
    remaining: float | None = None  # estimated seconds to the end of the phase
    last: str | None = None  # line of the log

    @property
    def group(self) -> str:
        return self.run.partition("/")[0]

    @property
    def loss(self) -> float | None:
        """What the run minimises: the sum of its loss terms."""
        terms = [value for name, value in (self.terms or {}).items() if name not in MEASURED]
        return sum(terms) if terms else None

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
            result.append(row(entry, Status(State.MISSING, lost[entry.fingerprint].reason)))
        else:
            result.append(row(entry, statuses[entry.name]))
    return result


def row(run: Run, status: Status) -> Row:
    """What a run in this state is doing, by its last report."""
    known = Row(run=run.name, state=status.state, reason=status.reason)
    report = read_report(run)
    if report is None or status.state not in (*AT_WORK, State.FAILED):
        return known
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
        if report.remaining is not None and report.total > report.done:
            fields["seconds_each"] = round(report.remaining / (report.total - report.done), 3)
    return known.model_copy(update=fields)


def last_line(run: Run) -> str:
    """The last line that a run has written, to either stream; empty if there is none."""
    logs = sorted(log_dir(run).glob("*_log.*"), key=lambda path: path.stat().st_mtime)
    for path in reversed(logs):
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - 2000))
            lines = stream.read().decode(errors="replace").splitlines()
        if own := [line.strip() for line in lines if line.strip() and not LAUNCHER.match(line)]:
            return own[-1]
    return ""
