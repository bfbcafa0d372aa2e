"""Everything in params.yaml and on disk that would stop or spoil a suite, found before any training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from rich.markup import escape
from rich.table import Table

import methods
from benchmarks import datasets, imports, runs
from benchmarks.datasets._contents import Contents, read_all
from benchmarks.datasets._problems import Problem, Severity, grouped
from benchmarks.datasets.base import Dataset
from benchmarks.metrics.conventions import CONVENTIONS
from benchmarks.params import Params, needed_by_dvc
from benchmarks.schema import IMPORTED
from benchmarks.wording import printable
from methods.base import InputError, Method, did_you_mean

SHOWN = 4  # different sizes or modes in a cell of the table


@dataclass(frozen=True)
class Finding:
    """Something wrong. An error stops the suite; a warning makes a wrong result likely."""

    severity: Severity
    what: str  # the data set, teacher or entry of params.yaml
    message: str  # names the first file of its kind, the value and the cure
    count: int = 1  # how many alike, of which the message names the first

    @property
    def line(self) -> str:
        more = f" (and {self.count - 1} more)" if self.count > 1 else ""
        return f"{self.severity} {self.what}: {self.message}{more}"


class Report(NamedTuple):
    """What `examine` finds; errors first."""

    findings: list[Finding]
    contents: list[Contents]  # what each category contributes

    @property
    def errors(self) -> int:
        return sum(finding.severity == "error" for finding in self.findings)

    def as_json(self) -> dict[str, list[dict[str, Any]]]:
        return {
            "findings": [asdict(finding) for finding in self.findings],
            "categories": [row._asdict() for row in self.contents],
        }


def check(params: Params) -> list[Finding]:
    """What is wrong with data sets, teachers and entries of params.yaml, errors first; see `examine`."""
    return examine(params).findings


def examine(params: Params) -> Report:
    """Read every image and mask of a suite, look for its teachers, and expand it as `proctor plan` does.

    Nothing is generated or downloaded but the weights of teachers that the plan loads from the hub.
    """
    findings: list[Finding] = []
    contents: list[Contents] = []
    sound: list[str] = []
    for name in dict.fromkeys(params.datasets):
        dataset = _load(name, params, findings)
        if not dataset:
            continue
        problems, rows = read_all(dataset)
        of_dataset = [_finding(name, problem) for problem in grouped(problems)]
        findings += of_dataset
        contents += rows
        if not any(finding.severity == "error" for finding in of_dataset):
            sound.append(name)
    findings += _conventions(params)
    findings += [Finding("error", "params.yaml", message) for message in needed_by_dvc(params)]
    of_methods = list(_methods(params))
    findings += of_methods
    if not of_methods:  # else the plan would stop at the same
        findings += _plan(params.model_copy(update={"datasets": sound}))
    order = ("error", "warning", "notice")
    return Report(sorted(findings, key=lambda finding: order.index(finding.severity)), contents)


def table(contents: Sequence[Contents]) -> Table:
    """What each category contributes, for the terminal."""
    shown = Table("data set", "category", "images", "sizes", "modes", "masks", "defective")
    for row in contents:
        modes = _counted(row.modes) + (f", values to {row.brightest}" if row.brightest else "")
        images = ", ".join(f"{n} {split}" for split, n in row.images.items())
        share = "" if row.defect_share is None else f"{row.defect_share:.1%} of pixels"
        cells = (row.dataset, row.category, images, _counted(row.sizes), modes, _counted(row.masks), share)
        shown.add_row(*(escape(printable(cell)) for cell in cells))
    return shown


def _counted(counts: dict[str, int]) -> str:
    """`{"24x20": 3}` as "24x20 (3)"; just "24x20" where there is nothing else."""
    if len(counts) == 1:
        return next(iter(counts))
    listed = ", ".join(f"{what} ({n})" for what, n in list(counts.items())[:SHOWN])
    return listed + (f" and {len(counts) - SHOWN} more" if len(counts) > SHOWN else "")


def _finding(what: str, problem: Problem) -> Finding:
    return Finding(problem.severity, what, problem.message, problem.count)


def _load(name: str, params: Params, findings: list[Finding]) -> Dataset | None:
    """The data set, or None and a finding that says why it cannot be opened."""
    root = params.roots.get(name)
    try:
        if datasets.is_to_be_fetched(name, root) and datasets.find(name).fetchable:
            message = f"not at {datasets.default_root(name)} yet; `dvc repro` or `proctor fetch {name}` gets it."
            findings.append(Finding("notice", name, message))
            return None
        return datasets.load(name, root, params.categories.get(name))
    except InputError as error:
        findings.append(Finding("error", name, str(error)))
        return None


def _conventions(params: Params) -> Iterator[Finding]:
    for name in params.conventions:
        if name not in CONVENTIONS:
            message = f"there is no convention {name!r}. {did_you_mean(name, CONVENTIONS)}"
            yield Finding("error", "conventions", message)


def _methods(params: Params) -> Iterator[Finding]:
    """Variants that cannot be created, and teachers that are not there."""
    names: dict[str, str] = {}  # teacher -> the first variant that asks for it
    for variant in params.methods:
        declared = params.variants.get(variant)
        try:
            if declared and declared.method == IMPORTED:
                imports.stated(declared.overrides)
            elif teacher := getattr(_create(variant, params), "teacher", None):
                names.setdefault(teacher, variant)
        except InputError as error:
            yield Finding("error", variant, str(error))
    for teacher in dict.fromkeys([*names, *params.weight_files]):
        yield from _teacher(teacher, params)


def _create(variant: str, params: Params) -> Method:
    declared = params.variants.get(variant)
    name = declared.method if declared else variant
    known = methods.hyper_parameters(methods.load(name))
    budget = {key: value for key, value in params.hyper_parameters.items() if key in known}
    return methods.create(name, **budget | (declared.overrides if declared else {}))


def _teacher(name: str, params: Params) -> Iterator[Finding]:
    from methods.components import teachers  # timm takes seconds to import

    file = params.weight_files.get(name)
    if name in params.pretrain and file and not file.is_file():
        message = f"not trained yet; run `dvc repro` or `proctor pretrain {name}`, after which the plan can be checked."
        yield Finding("notice", name, message)
        return
    try:
        teachers.check_hub(name, params.weight_files)
        if file:
            teachers.load(name, params.weight_files)
    except InputError as error:
        yield Finding("error", name, str(error))


def _plan(params: Params) -> Iterator[Finding]:
    """What `proctor plan` refuses, or cannot run, once data sets and teachers are there."""
    try:
        unsupported = [entry for entry in runs.expand(params) if isinstance(entry, runs.Unsupported)]
    except InputError as error:
        yield Finding("error", "plan", str(error))
        return
    for entry in unsupported:
        yield Finding("notice", entry.group, f"will not run: {entry.reason}")
