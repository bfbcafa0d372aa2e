"""What is checked of `params.yaml` before anything is fetched, hashed or trained, besides the form of its entries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import filter as matching
from itertools import product

from benchmarks import datasets, runs
from benchmarks.execution import executors, loggers
from benchmarks.metrics.conventions import CONVENTIONS
from benchmarks.params import Params, needed_by_dvc
from benchmarks.schema import group_name
from methods.base import InputError, did_you_mean

PRETRAINED = ("procedural",)  # teachers that `proctor pretrain` can train


def check(params: Params) -> list[str]:
    """Check names, patterns and the device.

    Returns:
        Notices, one sentence each: what is stated, but concerns nothing in the suite.

    Raises:
        InputError: an entry names what does not exist; all mistakes are listed, one a line.
    """
    ready = runs.variants(params)
    if mistakes := [*_names(params), *_groups(params), *_device(params), *_logger(params), *needed_by_dvc(params)]:
        raise InputError("\n".join(f"params.yaml: {mistake}" for mistake in mistakes))
    return list(_without_effect(params, [variant.teacher for variant in ready if variant.teacher]))


def groups(params: Params) -> list[str]:
    """The names of all groups of a suite."""
    return [group_name(*names) for names in product(params.methods, params.datasets, params.protocols)]


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
    import torch

    device = params.executor.device
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


def _without_effect(params: Params, teachers: Sequence[str]) -> Iterator[str]:
    for variant in params.variants:
        if variant not in params.methods:
            yield f"variant {variant!r} is declared, but not listed under `methods`: it is not run."
    for dataset in params.roots:
        if dataset not in datasets.available():
            yield f"`roots` names an unknown data set {dataset!r}. {did_you_mean(dataset, datasets.available())}"
    for teacher in params.weights:
        if teacher not in teachers:
            used = ", ".join(sorted(set(teachers))) or "none"
            yield f"`weights`: no variant of the suite uses the teacher {teacher!r}; used: {used}."
