"""Draws the figures of a report, in parallel; each is kept by the digest of its data, and of the code that draws it."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache as once
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from benchmarks.sources import sources
from methods.components.atomic import replacing
from reports import specs
from reports.aggregate import Cell
from reports.load import error_text

SUFFIXES = (".svg", ".pdf")
LIBRARIES = ("matplotlib", "seaborn", "numpy", "pandas", "scipy", "pillow")
KEPT_DAYS = 30  # since a figure was last used
ERROR = "error.txt"  # of a figure without anything to draw
FEW = 3  # figures that are drawn before another process has started


class Job(NamedTuple):
    """A figure to draw."""

    figure: str  # its module in `reports/figures`
    rows: pd.DataFrame


class Drawn(NamedTuple):
    """A figure as files and as markup; or why it could not be drawn."""

    files: dict[str, bytes]  # by suffix
    markup: str  # to stand in a page
    note: str  # what its caption has to say
    error: str = ""


def draw(jobs: Sequence[Job], cache: Path | None) -> list[Drawn]:
    """Every figure, from the cache where it was drawn before.

    Args:
        jobs: the figures.
        cache: a folder that can be deleted at any time; where it cannot be written, and with None, all are drawn.
    """
    with _folder(cache) as folder:
        places = [folder / digest(job) for job in jobs]
        missing = {place: job for place, job in zip(places, jobs, strict=True) if not place.is_dir()}
        errors = dict(zip(missing, _draw_all(list(missing.items())), strict=True))
        drawn = [_read(place, errors.get(place, "")) for place in places]
        _prune(folder)
    return drawn


def description(figure: str) -> str:
    """What a figure shows: the first paragraph of its module's docstring."""
    text = (specs.FIGURES / f"{figure}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n\n")[0]


def digest(job: Job) -> str:
    """Changes with the rows, with the files that they come from, and with the code that draws."""
    rows = job.rows.drop(columns="details") if "digest" in job.rows else job.rows  # which is that of their file
    text = json.dumps(rows.to_dict("records"), default=_plain, sort_keys=True)
    return hashlib.sha256(f"{job.figure} {_code(job.figure)} {text}".encode()).hexdigest()[:32]


@once
def _code(figure: str) -> str:
    """The figure's module with all that it imports of ours, and what all figures share."""
    return json.dumps([sources(f"reports.figures.{figure}"), *_shared()], sort_keys=True)


@once
def _shared() -> list[dict[str, str]]:
    """What writes figures and makes markup of them, and the versions of the libraries."""
    ours = [sources("reports.figures"), sources("reports.render.svg")]
    return [*ours, {library: version(library) for library in LIBRARIES}]


def _plain(value: Any) -> Any:
    """What JSON does not have: a cell by its values, a file by its name, size and time of modification."""
    if isinstance(value, Cell):
        return asdict(value)
    if isinstance(value, Path):
        about = value.stat()
        return [value.name, about.st_size, about.st_mtime_ns]
    return value.tolist() if hasattr(value, "tolist") else repr(value)


@contextmanager
def _folder(cache: Path | None) -> Iterator[Path]:
    """The cache, or a temporary folder where there is none or it cannot be written."""
    with suppress(OSError):
        if cache:
            cache.mkdir(parents=True, exist_ok=True)
    if cache and cache.is_dir() and os.access(cache, os.W_OK):
        yield cache
    else:
        with tempfile.TemporaryDirectory(prefix="proctor-figures-") as folder:
            yield Path(folder)


def _draw_all(jobs: Sequence[tuple[Path, Job]]) -> list[str]:
    """Draw into these folders; for each figure why it could not be drawn, or nothing."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if len(jobs) <= FEW or cores == 1:
        return [_draw(*job) for job in jobs]
    context = get_context("forkserver")  # starts without the threads and the memory of this process
    context.set_forkserver_preload(["reports.figures._style"])
    with ProcessPoolExecutor(min(cores, len(jobs)), context) as pool:
        return list(pool.map(_draw, *zip(*jobs, strict=True)))


def _draw(folder: Path, job: Job) -> str:
    from reports import figures
    from reports.render import svg

    try:
        with replacing(folder) as partial:
            partial.mkdir()
            try:
                drawing = figures.draw(job.figure, job.rows)
            except ValueError as error:  # these rows have nothing to draw
                (partial / ERROR).write_text(error_text(error), encoding="utf-8")
                return ""
            svg_path, _ = figures.save(drawing.figure, partial / "figure")
            (partial / "markup.txt").write_text(svg.inline(svg_path, f"f{folder.name[:8]}"), encoding="utf-8")
            (partial / "note.txt").write_text(drawing.note, encoding="utf-8")
    except Exception as error:  # a figure is a plug-in: one that cannot be drawn must not cost the others
        return error_text(error)
    return ""


def _read(folder: Path, error: str) -> Drawn:
    if error:
        return Drawn({}, "", "", error)
    with suppress(OSError):
        os.utime(folder)  # used now
    if (folder / ERROR).exists():
        return Drawn({}, "", "", (folder / ERROR).read_text(encoding="utf-8"))
    files = {suffix: (folder / f"figure{suffix}").read_bytes() for suffix in SUFFIXES}
    return Drawn(files, *((folder / f"{name}.txt").read_text(encoding="utf-8") for name in ("markup", "note")))


def _prune(folder: Path) -> None:
    """Remove the figures that no report has used for long."""
    for kept in folder.iterdir():
        with suppress(OSError):  # another process may remove it too
            if time.time() - kept.stat().st_mtime > KEPT_DAYS * 86400:
                shutil.rmtree(kept, ignore_errors=True)
