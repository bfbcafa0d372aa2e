"""What a launch will cost, before it is paid: time and disk by the records of earlier runs, and the job arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from benchmarks import results
from benchmarks.execution.executors import slurm as executors
from benchmarks.params import Executor
from benchmarks.plan import Run
from benchmarks.wording import counted


class Forecast(NamedTuple):
    """The cost of some runs, as far as their groups have records of earlier runs."""

    hours: float  # at work, of one GPU or one CPU slot each
    bytes: int  # of predictions
    peak_device_bytes: int  # the most that an earlier run took of a GPU; 0 if none was on one
    unknown: list[str]  # groups without a record, left out of the sums


def forecast(pending: Sequence[Run]) -> Forecast:
    """By the mean of all records of a run's group, whatever their split, seed and fingerprint."""
    records = {group: _records(group) for group in dict.fromkeys(run.group for run in pending)}
    seconds, size, peak = 0.0, 0.0, 0
    for run in pending:
        if earlier := records[run.group]:
            seconds += mean(record["provenance"]["wall_seconds"] for _, record in earlier)
            size += mean(sum(path.stat().st_size for path in folder.rglob("*")) for folder, _ in earlier)
            peak = max(peak, *(record["provenance"]["peak_device_memory_bytes"] or 0 for _, record in earlier))
    return Forecast(seconds / 3600, round(size), peak, [group for group, found in records.items() if not found])


def sentences(pending: Sequence[Run], executor: Executor) -> list[str]:
    """The forecast in words; nothing if no run is pending."""
    if not pending:
        return []
    cost = forecast(pending)
    of = "GPU-hours" if executors.device(executor).startswith("cuda") else "CPU-slot hours"
    known = len([run for run in pending if run.group not in cost.unknown])
    said = []
    if known:
        said.append(
            f"{counted(known, 'run')}: about {cost.hours:.2g} {of} and {cost.bytes / 2**30:.2g} GiB of predictions."
        )
        if cost.peak_device_bytes:
            said.append(f"Earlier runs took up to {cost.peak_device_bytes / 2**30:.1f} GiB of a GPU's memory.")
    if cost.unknown:
        rest = f" and {counted(len(cost.unknown) - 3, 'more group')}" if len(cost.unknown) > 3 else ""
        said.append(
            f"{counted(len(pending) - known, 'run')}: cost unknown, because there is no record yet of "
            f"{', '.join(cost.unknown[:3])}{rest}; one run of each would give it (`proctor run --variant … --seed …`)."
        )
    if executor.name == "slurm":
        sizes = [len(part) for part in executors.arrays(pending, executor)]
        said.append(f"SLURM: {counted(len(sizes), 'job array')} of {', '.join(map(str, sizes))} jobs.")
    return said


def _records(group: str) -> list[tuple[Path, dict[str, Any]]]:
    paths = sorted(results.group_dir(group).glob("*/record.json"))
    found = [(path.parent, results.read_json(path) or {}) for path in paths]
    return [(folder, record) for folder, record in found if "wall_seconds" in record.get("provenance", {})]
