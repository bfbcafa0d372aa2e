"""The fingerprint of a run: hashes of everything that decides its numbers, and of nothing else.

The code that counts is that of the method, of the data set, of the protocol and of what turns a method's answer into
the stored numbers (`CODE`), each with every module of ours that it imports; with `evaluate_every` or `interference`
also the code of these. Comments, docstrings, layout, citations and the texts of errors do not count, nor does what only
schedules, reports or displays. docs/architecture.md states the rule.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path

import methods
from benchmarks import datasets, imports, protocols
from benchmarks.datasets.base import Dataset
from benchmarks.plan import Run, digest
from benchmarks.protocols.base import Split
from benchmarks.schema import IMPORTED
from benchmarks.sources import sources
from methods.base import InputError, Method

CODE = ("benchmarks.execution.fit_predict", "benchmarks.storage.arrays")  # from a method's answer to the stored numbers


class Shared:
    """What the runs of a suite share, read once: data sets, their revisions and splits, code, teachers."""

    def __init__(self) -> None:
        self.dataset: Callable[..., Dataset] = cache(datasets.load)
        self.splits: Callable[[str, Dataset, int], list[Split]] = cache(protocols.splits)
        self.revision: Callable[[Dataset, tuple[str, ...]], str] = cache(lambda data, names: data.revision(names))
        self.code: Callable[[str], str] = cache(_code)
        self.contents: Callable[[Path], str] = cache(lambda path: digest(_contents(path)))
        self.teacher: Callable[[str, Path | None], str] = cache(_teacher)

    def dataset_of(self, run: Run) -> Dataset:
        return self.dataset(run.dataset, run.root, run.categories and tuple(run.categories))


def parts(run: Run, shared: Shared) -> dict[str, str]:
    """The parts of a run's fingerprint as code, data and weights are now; `run.fingerprint_parts` is not looked at.

    Raises:
        InputError: the method, a hyper-parameter, the data set or the teacher cannot be used, or the data set has no
            such split any more.
    """
    dataset = shared.dataset_of(run)
    split = next((s for s in shared.splits(run.protocol, dataset, run.seed) if s.name == run.split), None)
    if split is None:
        raise InputError(f"{run.name}: {dataset.root} has no split {run.split!r} under {run.protocol} any more.")
    images = [split.train, split.validation, *split.test.values()]
    categories = tuple(dict.fromkeys(item.category for items in images for item in items))
    of_data = {
        "data code": digest(
            [shared.code(type(dataset).__module__), shared.code(f"benchmarks.protocols.{run.protocol}")]
        ),
        "data": digest([shared.revision(dataset, categories), [[item.key for item in items] for items in images]]),
        "run": run.name,
    }
    if run.method == IMPORTED:  # no code of ours made its numbers
        return {"imported maps": imports.digest(run, split), "stated": digest(run.hyper_parameters)} | of_data
    return _method_parts(run, dataset, shared) | of_data


def _method_parts(run: Run, dataset: Dataset, shared: Shared) -> dict[str, str]:
    """The parts of a run whose numbers a method of ours makes."""
    method = methods.create(run.method, **run.hyper_parameters)
    settings = {name: value for name, value in asdict(method).items() if not isinstance(value, Path)}
    teacher = getattr(method, "teacher", None)
    return {
        "method code": shared.code(type(method).__module__),
        "hyper-parameters": digest(settings),
        "teacher": shared.teacher(teacher, _weights(run, teacher)) if teacher else "none",
        "compute": digest(run.compute),
        "execution code": digest([shared.code(module) for module in CODE]),
    } | dict(_optional_parts(run, method, dataset, shared))


def _optional_parts(run: Run, method: Method, dataset: Dataset, shared: Shared) -> Iterator[tuple[str, str]]:
    if paths := {name: value for name, value in asdict(method).items() if isinstance(value, Path)}:
        yield "folders", digest({name: shared.contents(path) for name, path in paths.items()})  # wherever they lie
    if run.evaluate_every:  # what evaluates on the test images decides an oracle's epoch, and stands in every record
        yield "evaluate_every", digest([run.evaluate_every, shared.code("benchmarks.scoring.evaluation")])
    if run.interference:  # a probe shows other categories too, so all images of the data set decide it
        revision = shared.revision(dataset, dataset.categories)
        yield "interference", digest([run.interference, revision, shared.code("benchmarks.interference")])


def changed_parts(run: Run) -> list[str]:
    """The parts of a run's fingerprint that differ from what code, data and weights say now.

    Raises:
        InputError: as `parts`.
    """
    now = parts(run, Shared())
    return [part for part in run.fingerprint_parts | now if run.fingerprint_parts.get(part) != now.get(part)]


def _weights(run: Run, teacher: str | None) -> Path | None:
    return Path(run.weights[teacher]) if teacher in run.weights else None


def _teacher(name: str, file: Path | None) -> str:
    from methods.components import teachers  # timm takes seconds to import

    return teachers.digest(name, {name: file} if file else {})


def _code(module: str) -> str:
    """Hash of the code behind a module."""
    try:
        return digest(sources(module))
    except ImportError as error:
        raise InputError(str(error)) from None


def _contents(path: Path) -> list[tuple[str, str]]:
    """Name and hash of every file in a folder that a hyper-parameter names, or of the file that it names."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    if not files:
        raise InputError(f"params.yaml: the folder {path} is absent or empty. Correct the path.")
    return [(str(f.relative_to(path)), hashlib.blake2b(f.read_bytes(), digest_size=16).hexdigest()) for f in files]
