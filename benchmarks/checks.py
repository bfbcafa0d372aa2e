"""What is checked of `params.yaml` before anything is fetched, hashed or trained, besides the form of its entries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import filter as matching
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from pkgutil import iter_modules

import methods
from benchmarks import imports, signatures
from benchmarks.execution import executors, loggers
from benchmarks.metrics.conventions import CONVENTIONS
from benchmarks.params import PATH, Params, Variant, needed_by_dvc
from benchmarks.schema import IMPORTED, group_name
from methods.base import InputError, did_you_mean

PRETRAINED = ("procedural",)  # teachers that `proctor pretrain` can train
SHARED = ("base", "components", "distillation")  # no plug-ins, though they lie among them


def check(params: Params) -> list[str]:
    """Check names, patterns and the device.

    Returns:
        Notices, one sentence each: what is stated, but concerns nothing in the suite.

    Raises:
        InputError: an entry names what does not exist; all mistakes are listed, one a line. The values of
            hyper-parameters are looked at when all names are right, since importing the methods takes seconds.
    """
    check_names(params, PATH)
    from benchmarks import runs

    ready = runs.variants(params)
    _refuse([*_device(params), *_logger(params)], PATH)
    teachers = [variant.teacher for variant in ready if variant.teacher]
    return [*_without_effect(params, teachers), *_seeds_without_maps(params)]


def check_names(params: Params, source: str | Path) -> None:
    """Check the names and patterns in a file, without importing what they name.

    Raises:
        InputError: an entry names what does not exist, or dvc.yaml needs one that is missing; one mistake a line.
    """
    _refuse([*_files(params), *_names(params), *_groups(params), *needed_by_dvc(params)], source)
    _refuse(_hyper_parameters(params), source)


def _refuse(mistakes: Iterable[str], source: str | Path) -> None:
    if listed := list(mistakes):
        raise InputError("\n".join(f"{source}: {mistake}" for mistake in listed))


def groups(params: Params) -> list[str]:
    """The names of all groups of a suite."""
    return [group_name(*names) for names in product(params.methods, params.datasets, params.protocols)]


def _files(params: Params) -> Iterator[str]:
    """Methods, data sets and protocols without a file."""
    for variant in params.methods:
        declared, known = params.variants.get(variant), _plug_ins(methods.__path__)
        if declared and declared.method not in (*known, IMPORTED):
            yield f"{variant}: there is no method {declared.method!r}. {did_you_mean(declared.method, known)}"
        elif not declared and variant == IMPORTED:
            yield f"imported maps need a variant with a name: `variants: {{theirs: {{method: {IMPORTED}}}}}`."
        elif not declared and variant not in known:
            hint = did_you_mean(variant, [*known, *params.variants])
            yield f"there is no method or variant {variant!r}. {hint} To add a method, create methods/{variant}.py."
    for kind, package, names in (
        ("data set", "datasets", params.datasets),
        ("protocol", "protocols", params.protocols),
    ):
        known = _plug_ins_of(package)
        yield from (f"there is no {kind} {name!r}. {did_you_mean(name, known)}" for name in names if name not in known)


def _plug_ins_of(package: str) -> list[str]:
    """Of a package in `benchmarks`, which is not imported: torch takes seconds."""
    spec = find_spec(f"benchmarks.{package}")
    return _plug_ins((spec and spec.submodule_search_locations) or [])


def _plug_ins(folders: Iterable[str]) -> list[str]:
    """The modules in these folders but those that plug-ins share."""
    names = (module.name for module in iter_modules(folders))
    return sorted(name for name in names if name not in SHARED and not name.startswith("_"))


def _names(params: Params) -> Iterator[str]:
    for convention in params.conventions:
        if convention not in CONVENTIONS:
            yield f"there is no convention {convention!r}. {did_you_mean(convention, CONVENTIONS)}"
    if params.executor.name not in executors.names():
        hint = did_you_mean(params.executor.name, executors.names())
        yield f"`executor`: there is no executor {params.executor.name!r}. {hint}"
    for teacher in params.pretrain:
        if teacher not in PRETRAINED:
            yield f"`pretrain`: there is no recipe for a teacher {teacher!r}. {did_you_mean(teacher, PRETRAINED)}"
    for dataset in params.categories:
        if dataset not in params.datasets:
            hint = did_you_mean(dataset, params.datasets)
            yield f"`categories` names {dataset!r}, which is not among `datasets`. {hint}"


def _hyper_parameters(params: Params) -> Iterator[str]:
    """Names that no method has, as far as their files tell."""
    variants = {name: params.variants.get(name) or Variant(method=name) for name in params.methods}
    known = {variant.method: signatures.hyper_parameters(variant.method) for variant in variants.values()}
    for name, variant in variants.items():
        names = known[variant.method]
        for parameter in variant.overrides:
            if names is not None and parameter not in names:
                hint = did_you_mean(parameter, sorted(names))
                yield f"{name}: Method {variant.method!r} has no hyper-parameter {parameter!r}. {hint}"
    together = set().union(*filter(None, known.values()))
    for parameter in params.hyper_parameters:
        if None not in known.values() and parameter not in together:
            hint = did_you_mean(parameter, sorted(together))
            yield f"no method of the suite has the hyper-parameter {parameter!r}. {hint}"


def _groups(params: Params) -> Iterator[str]:
    names = groups(params)
    shared = [f"{dataset}-{protocol}" for dataset, protocol in product(params.datasets, params.protocols)]
    for pattern in params.executor.resources:
        if not matching(names, pattern):
            yield f"`executor.resources`: no group matches {pattern!r}. {_near(pattern, names)}"
    for entry in params.allow:
        _, colon, group = entry.partition(":")
        # Some findings are about all variants of a data set under a protocol, or of a data set.
        if colon and group not in (*names, *shared, *params.datasets):
            yield f"`allow.{entry}`: there is no group {group!r}. {_near(group, names)}"


def _near(group: str, names: Sequence[str]) -> str:
    """A hint that stays short however many groups there are."""
    return did_you_mean(group, names, f"Groups are VARIANT-DATASET-PROTOCOL, such as {names[0]!r}.")


def _device(params: Params) -> Iterator[str]:
    device = params.executor.device
    if device in ("auto", "cpu"):
        return
    import torch

    missing = (device == "cuda" and not torch.cuda.is_available()) or (
        device == "mps" and not torch.backends.mps.is_available()
    )
    if missing and params.executor.name != "slurm":
        yield f"`executor.device` is {device!r}, but torch finds no such device here. `auto` takes what there is."


def _logger(params: Params) -> Iterator[str]:
    name = params.executor.logger
    if name and not params.executor.slurm_python:  # which may have other packages
        try:
            loggers.find(name)
        except InputError as error:
            yield str(error)


def _seeds_without_maps(params: Params) -> Iterator[str]:
    """Of groups whose maps are imported with some seeds of the suite; a group without any is unsupported."""
    imported = [name for name in params.methods if name in params.variants and params.variants[name].method == IMPORTED]
    for names in product(imported, params.datasets, params.protocols):
        seeds = imports.seeds(group_name(*names))
        missing = [seed for seed in params.seeds if seed not in seeds]
        if seeds and missing:
            listed = ", ".join(map(str, missing))
            command = imports.command(*names, missing[0])
            yield f"{group_name(*names)} has no imported maps of seed {listed}: `{command}`."


def _without_effect(params: Params, teachers: Sequence[str]) -> Iterator[str]:
    for variant in params.variants:
        if variant not in params.methods:
            yield f"variant {variant!r} is declared, but not listed under `methods`: it is not run."
    known = _plug_ins_of("datasets")
    for dataset in params.roots:
        if dataset not in known:
            yield f"`roots` names an unknown data set {dataset!r}. {did_you_mean(dataset, known)}"
    for teacher in params.weights:
        if teacher not in teachers:
            used = ", ".join(sorted(set(teachers))) or "none"
            yield f"`weights`: no variant of the suite uses the teacher {teacher!r}; used: {used}."
