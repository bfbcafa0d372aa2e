"""Executors: one file each, found by its name (`executor: {name: NAME}`); there is nothing to register."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from importlib import import_module

from benchmarks.execution.executors.base import Executor, LostRun
from benchmarks.plan import Run
from benchmarks.status import State, read_status
from benchmarks.status_file import read_report
from methods.base import InputError, did_you_mean


def load(name: str) -> type[Executor]:
    """The executor in `benchmarks/execution/executors/<name>.py`.

    Raises:
        InputError: there is no such file, or it does not define one executor.
    """
    if name not in names():
        raise InputError(f"There is no executor {name!r}. {did_you_mean(name, names())}")
    module = import_module(f"{__name__}.{name}")
    defined = [value for value in vars(module).values() if _is_executor(value) and value.__module__ == module.__name__]
    if len(defined) != 1:
        raise InputError(f"{module.__file__} must define one subclass of Executor; it has {len(defined)}.")
    executor: type[Executor] = defined[0]
    return executor


def names() -> list[str]:
    """All executors, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def lost(at_work: Iterable[Run]) -> dict[str, LostRun]:
    """By fingerprint, the runs whose job or process is gone, each according to the executor that started it."""
    lost_runs: dict[str, LostRun] = {}
    started: dict[str, list[Run]] = {}  # by the name of the executor, which need not be the one in params.yaml now
    for run in at_work:
        if report := read_report(run):
            started.setdefault(report.executor, []).append(run)
        elif read_status(run).state is not State.DONE:  # else it has just been collected
            lost_runs[run.fingerprint] = LostRun("its status file is missing or damaged", restart=True)
    for name, runs in started.items():
        lost_runs |= load(name).lost(runs)
    return lost_runs


def poll_seconds(at_work: Iterable[Run]) -> float:
    """Time from one call of `lost` to the next: that of the slowest executor."""
    names = {report.executor for run in at_work if (report := read_report(run))}
    return max((load(name).poll_seconds for name in names), default=Executor.poll_seconds)


def _is_executor(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Executor)
