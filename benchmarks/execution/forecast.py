"""What a launch will cost, in time and disk, by the records of earlier runs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from statistics import mean
from typing import NamedTuple

from benchmarks import records, results
from benchmarks.execution import executors
from benchmarks.params import Executor as Settings
from benchmarks.plan import Run
from benchmarks.storage import model_files
from benchmarks.wording import counted


class Forecast(NamedTuple):
    """The cost of some runs, as far as their groups have records of earlier runs."""

    hours: float  # at work, of one GPU or one CPU slot each
    bytes: int  # of predictions
    model_bytes: int  # of models, as far as a run of their group has kept one before
    peak_device_bytes: int  # the most that an earlier run took of a GPU; 0 if none was on one
    unknown: list[str]  # groups without a record, left out of the sums


def forecast(pending: Sequence[Run]) -> Forecast:
    """By the mean of all records of a run's group, whatever their split, seed and fingerprint."""
    by_group = {group: _costs(group) for group in dict.fromkeys(run.group for run in pending)}
    seconds, size, of_models, peak = 0.0, 0.0, 0.0, 0
    for run in pending:
        if costs := by_group[run.group]:
            seconds += mean(cost.seconds for cost in costs)
            size += mean(cost.bytes for cost in costs)
            if run.keep_model and (kept := [cost.model_bytes for cost in costs if cost.model_bytes]):
                of_models += mean(kept)
            peak = max(peak, *(cost.peak_device_bytes for cost in costs))
    unknown = [group for group, costs in by_group.items() if not costs]
    return Forecast(seconds / 3600, round(size), round(of_models), peak, unknown)


def sentences(pending: Sequence[Run], settings: Settings) -> list[str]:
    """The forecast in words; nothing if no run is pending.

    Raises:
        InputError: there is no such executor.
    """
    if not pending:
        return []
    executor, total = executors.load(settings.name)(settings), forecast(pending)
    unit = "GPU-hours" if executor.device.startswith("cuda") else "CPU hours"
    known = len([run for run in pending if run.group not in total.unknown])
    lines = []
    if known:
        kept = any(run.keep_model for run in pending)
        models = f"{total.model_bytes / 2**30:.2g} GiB of models" if total.model_bytes else "models of unknown size"
        size = f"{total.bytes / 2**30:.2g} GiB of predictions{f' and {models}' if kept else ''}"
        lines.append(f"{counted(known, 'run')}: about {total.hours:.2g} {unit}, {size}.")
        if total.peak_device_bytes:
            lines.append(f"Earlier runs took up to {total.peak_device_bytes / 2**30:.1f} GiB of a GPU's memory.")
    if total.unknown:
        rest = f" and {counted(len(total.unknown) - 3, 'more group')}" if len(total.unknown) > 3 else ""
        lines.append(
            f"{counted(len(pending) - known, 'run')}: cost unknown, because there is no record yet of "
            f"{', '.join(total.unknown[:3])}{rest}; run one of each to get an estimate (`proctor run`)."
        )
    return [*lines, *filter(None, [executor.forecast(pending)])]


@cache
def mean_seconds(group: str) -> float | None:
    """How long a run of a group took, by all its records; None if there is none. Read once."""
    costs = _costs(group)
    return mean(cost.seconds for cost in costs) if costs else None


class _Cost(NamedTuple):
    """What an earlier run took."""

    seconds: float
    bytes: int
    model_bytes: int  # 0: no model was kept
    peak_device_bytes: int


def _costs(group: str) -> list[_Cost]:
    """Of the stored runs of a group; damaged ones are left out."""
    costs = []
    for path in sorted(results.group_dir(group).glob("*/record.json")):
        with suppress(ValueError):
            record = records.read(path)
            made, model = record.provenance, record.model.bytes if record.model else 0
            if made.wall_seconds is not None:
                files = [file for file in path.parent.rglob("*") if file.name != model_files.NAME]
                size = sum(file.stat().st_size for file in files)
                costs.append(_Cost(made.wall_seconds, size, model, made.peak_device_memory_bytes or 0))
    return costs
