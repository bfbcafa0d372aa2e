"""Whether files are as they were, without reading them: by their sizes, inodes and times. A leaf.

A file is as it was if its size, its inode, and its times of modification and of change are; an edit that sets the
former time back cannot set the latter.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from stat import S_ISDIR
from typing import NamedTuple

from benchmarks.plan import digest
from benchmarks.sources import OURS

# Two edits within one tick of a file system's clock look like one: a file that is younger than this is not relied on.
TICK_SECONDS = 2
COMPILED = "__pycache__"  # what Python writes by itself


class Stamps(NamedTuple):
    """What is compared of a set of files."""

    digest: str  # of names, sizes, inodes and times
    newest: float  # when one of them changed last; 0 without files


def of_files(paths: Iterable[str | Path], skipped: Collection[str] = (COMPILED,)) -> Stamps:
    """The stamps of these files and of all that is in these folders, but for folders of the `skipped` names."""
    stamps, newest = list[list[str | int]](), 0.0
    for path in sorted({name for given in paths for name in _files(Path(given), skipped)}):
        stamp: list[str | int] = [path]
        with suppress(OSError):  # absent, or a link that leads nowhere
            found = os.stat(path)
            if not S_ISDIR(found.st_mode):
                stamp += [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]
                newest = max(newest, found.st_ctime)
        stamps.append(stamp)
    return Stamps(digest(stamps), newest)


def of_code() -> Stamps:
    """The stamps of our packages, without the report that is built into one of them."""
    folders = [folder for package in OURS for folder in import_module(package).__path__]
    return of_files(folders, skipped=(COMPILED, "build"))


def environment() -> dict[str, object]:
    """What decides a command's output besides files and parameters."""
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


def _files(path: Path, skipped: Collection[str]) -> Iterator[str]:
    """A file; or a folder with all that is in it, through links as well."""
    yield str(path)
    seen = set[str]()  # a link may lead back
    for folder, folders, names in os.walk(path, followlinks=True):
        folders[:] = sorted(name for name in folders if name not in skipped)
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (os.path.join(folder, name) for name in [*folders, *names])
