"""The last plan of this folder, used again as long as nothing that decides it has changed.

Planning imports torch and every method, and hashes code and data. The result is the same if all of these are as they
were: the parameters, the environment, and each file of the code, of the data sets, of the teachers and of the folders
that hyper-parameters name (`benchmarks/stamps.py`). If anything differs, the plan is made anew. No job relies on this:
each computes its fingerprint from the files themselves.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import platformdirs
from pydantic import BaseModel

from benchmarks import stamps
from benchmarks.params import Params
from benchmarks.plan import Plan, digest
from methods.components.atomic import replacing


class Planned(NamedTuple):
    """A plan, and the notices that it was made with."""

    plan: Plan
    notices: list[str]


class _Stored(BaseModel):
    conditions: str  # digest of everything that decides a plan and is no file below `watched`
    watched: list[Path]  # files and folders of data, teachers and hyper-parameters
    stamps: str  # digest of the files in them
    plan: Plan
    notices: list[str]


class PlanCache:
    """The stored plan of the current folder, in the user's cache folder.

    A plan is made between `observe` and `write`, so that a file that is edited meanwhile is seen as changed next time.
    """

    def __init__(self, params: Params) -> None:
        self.params, self.started = params, time.time()
        code, self.newest = stamps.of_code()
        self.conditions = digest([code, stamps.environment(), os.path.expandvars(repr(params.model_dump()))])
        name = digest(str(Path.cwd()))
        self.path = Path(platformdirs.user_cache_dir("proctor")) / "plans" / f"{name}.json"
        self.watched: list[Path] = []
        self.stamps = ""

    def read(self) -> Planned | None:
        """The stored plan if it is that of now, else None."""
        try:
            stored = _Stored.model_validate_json(self.path.read_bytes())
        except (OSError, ValueError):  # absent or damaged: that costs time, not results
            return None
        if stored.conditions != self.conditions or stored.stamps != stamps.of_files(stored.watched).digest:
            return None
        return Planned(stored.plan, stored.notices)

    def observe(self) -> None:
        """Remember how the files are from which the plan will be made. Imports the methods and data sets.

        Raises:
            InputError: a method or data set cannot be used.
        """
        self.watched = list(dict.fromkeys(_watched(self.params)))
        self.stamps, newest = stamps.of_files(self.watched)
        self.newest = max(self.newest, newest)

    def write(self, planned: Planned) -> None:
        """Store a plan that was made since `observe`, unless one of its files was written only just before."""
        if self.newest > self.started - stamps.TICK_SECONDS:
            return
        stored = _Stored(
            conditions=self.conditions, watched=self.watched, stamps=self.stamps, plan=planned.plan,
            notices=planned.notices,
        )  # fmt: skip
        with suppress(OSError), replacing(self.path) as partial:
            partial.write_text(stored.model_dump_json())


def _watched(params: Params) -> Iterator[Path]:
    """The files and folders outside of the code that a plan is made from."""
    from benchmarks import datasets, imports, runs

    for name in params.datasets:
        dataset = datasets.load(name, params.roots.get(name), params.categories.get(name))
        yield dataset.root
        for category in dataset.categories:
            yield from (path for path in dataset.side_files(category) if not path.is_relative_to(dataset.root))
    yield from params.weight_files.values()
    for variant in runs.variants(params):
        values = asdict(variant.instance).values() if variant.instance else [imports.FOLDER]
        yield from (value for value in values if isinstance(value, Path))
