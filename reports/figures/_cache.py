"""Figures that were drawn before: files by the digest of their data, and of the code and style that draw them."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import suppress
from dataclasses import asdict
from functools import cache as once
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.sources import sources
from methods.components.atomic import replacing
from reports import figures
from reports.aggregate import Cell

LIBRARIES = ("matplotlib", "seaborn", "numpy", "pandas", "scipy")


def saved(name: str, data: pd.DataFrame, stem: Path, cache: Path | None) -> list[Path]:
    """Write the figure `name` of these rows as `figures.save` does; from the cache if it was drawn before.

    Args:
        name: of the figure.
        data: what it is drawn of.
        stem: the path of its files without suffix.
        cache: a folder that can be deleted at any time; where it cannot be written, and with None, the figure is drawn.
    """
    kept = cache / digest(name, data) if cache else None
    if kept and kept.is_dir():
        stem.parent.mkdir(parents=True, exist_ok=True)
        return [Path(shutil.copyfile(kept / f"figure{s}", stem.with_name(stem.name + s))) for s in figures.SUFFIXES]
    paths = figures.save(figures.draw(name, data), stem)
    if kept:
        with suppress(OSError), replacing(kept) as partial:  # without a cache only time is lost
            partial.mkdir()
            for path in paths:
                shutil.copyfile(path, partial / f"figure{path.suffix}")
    return paths


def digest(name: str, data: pd.DataFrame) -> str:
    """Changes with the rows, with the files that they name, and with the code that draws."""
    rows = json.dumps(data.to_dict("records"), default=_plain, sort_keys=True)
    return hashlib.sha256(f"{name} {_code(name)} {rows}".encode()).hexdigest()[:32]


@once
def _code(name: str) -> str:
    """The figure's module with all that it imports of ours, the file format, and the versions of the libraries."""
    modules = {module: sources(module) for module in (f"reports.figures.{name}", "reports.figures")}
    return json.dumps([modules, {library: version(library) for library in LIBRARIES}], sort_keys=True)


def _plain(value: Any) -> Any:
    """What JSON does not have: a cell by its values, a file by its name, size and time of modification."""
    if isinstance(value, Cell):
        return asdict(value)
    if isinstance(value, Path):
        about = value.stat()
        return [value.name, about.st_size, about.st_mtime_ns]
    return value.tolist() if hasattr(value, "tolist") else repr(value)
