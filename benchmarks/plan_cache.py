"""The last plan of this folder, used again as long as nothing that decides it has changed.

Planning imports torch and every method, and hashes code and data. The result is the same if all of these are as they
were: the parameters, the environment, and each file of the code, of the data sets, of the teachers and of the folders
that hyper-parameters name. A file is as it was if its size, its inode, and its times of modification and of change are;
an edit that sets the former time back cannot set the latter. If anything differs, the plan is made anew. No job relies
on this: each computes its fingerprint from the files themselves.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from stat import S_ISDIR
from typing import NamedTuple

import platformdirs
from pydantic import BaseModel

from benchmarks.params import Params
from benchmarks.plan import Plan, digest
from benchmarks.sources import OURS
from methods.components.atomic import replacing

# Two edits within one tick of a file system's clock look like one: a file that is younger than this is not relied on.
TICK_SECONDS = 2


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
        code, self.newest = _stamps(folder for package in OURS for folder in import_module(package).__path__)
        self.conditions = digest([code, _environment(), os.path.expandvars(repr(params.model_dump()))])
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
        if stored.conditions != self.conditions or stored.stamps != _stamps(stored.watched)[0]:
            return None
        return Planned(stored.plan, stored.notices)

    def observe(self) -> None:
        """Remember how the files are from which the plan will be made. Imports the methods and data sets.

        Raises:
            InputError: a method or data set cannot be used.
        """
        self.watched = list(dict.fromkeys(_watched(self.params)))
        self.stamps, newest = _stamps(self.watched)
        self.newest = max(self.newest, newest)

    def write(self, planned: Planned) -> None:
        """Store a plan that was made since `observe`, unless one of its files was written only just before."""
        if self.newest > self.started - TICK_SECONDS:
            return
        stored = _Stored(
            conditions=self.conditions, watched=self.watched, stamps=self.stamps, plan=planned.plan,
            notices=planned.notices,
        )  # fmt: skip
        with suppress(OSError), replacing(self.path) as partial:
            partial.write_text(stored.model_dump_json())


def _environment() -> dict[str, object]:
    """What decides a plan besides files and parameters."""
    return {
        "folder": str(Path.cwd()),
        "home": str(Path.home()),
        "host": platform.node(),  # parameters may ask for a device that another host lacks
        "roots": sorted(item for item in os.environ.items() if item[0].startswith("PROCTOR_")),
        "python": sys.version,
        "packages": sorted(_packages()),
    }


def _packages() -> Iterator[str]:
    """Name and version of every installed package, as the name of its folder has them."""
    for folder in map(Path, sys.path):
        with suppress(OSError):
            yield from (name for name in os.listdir(folder) if name.endswith((".dist-info", ".egg-info")))


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


def _stamps(paths: Iterable[str | Path]) -> tuple[str, float]:
    """Digest of names, sizes, inodes and times of all files in these files and folders; and when one changed last."""
    stamps, newest = list[list[str | int]](), 0.0
    for path in sorted({name for given in paths for name in _files(Path(given))}):
        stamp: list[str | int] = [path]
        with suppress(OSError):  # absent, or a link that leads nowhere
            found = os.stat(path)
            if not S_ISDIR(found.st_mode):
                stamp += [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]
                newest = max(newest, found.st_ctime)
        stamps.append(stamp)
    return digest(stamps), newest


def _files(path: Path) -> Iterator[str]:
    """A file; or a folder with all that is in it, through links as well, without what Python compiles by itself."""
    yield str(path)
    seen = set[str]()  # a link may lead back
    for folder, folders, names in os.walk(path, followlinks=True):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (os.path.join(folder, name) for name in [*folders, *names])
