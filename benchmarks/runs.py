"""Parameters expanded to runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import methods
from benchmarks import fingerprint, imports, interference, protocols
from benchmarks.datasets import _checks
from benchmarks.datasets.base import Dataset
from benchmarks.params import Params
from benchmarks.plan import Run, Unsupported
from benchmarks.schema import IMPORTED, group_name
from methods.base import InputError, Method, did_you_mean


class ReadyVariant(NamedTuple):
    """A variant whose method and hyper-parameters have been checked."""

    name: str
    method: str
    hyper_parameters: dict[str, Any]  # those that differ from the method's own; of imported maps what is stated
    instance: Method | None  # None: its maps are imported

    @property
    def teacher(self) -> str | None:
        return getattr(self.instance, "teacher", None)


def expand(params: Params) -> Iterator[Run | Unsupported]:
    """Every run of a suite; neighbours differ in split first, so that runs at work together share little.

    Raises:
        InputError: whatever can be known before any training: an unknown method, hyper-parameter, data set or protocol,
            a data set that is missing or broken, weights that are missing or belong to another architecture.
    """
    ready = variants(params)
    _check_protocols(params)
    shared = fingerprint.Shared()
    loaded = {name: _dataset(name, params, shared) for name in params.datasets}
    _check_teachers(ready, params)
    for variant in ready:
        for (name, dataset), protocol in product(loaded.items(), params.protocols):
            seeds = params.seeds if variant.instance else _imported_seeds(variant, name, protocol, params)
            if reason := _unsupported(variant, name, protocol, params, seeds):
                yield Unsupported(variant=variant.name, dataset=name, protocol=protocol, reason=reason)
                continue
            for seed in seeds:
                for split in shared.splits(protocol, dataset, seed):
                    place = {"dataset": name, "protocol": protocol, "split": split.name, "seed": seed}
                    fields = place | _source(name, params) | _settings(variant, params)
                    run = Run(**fields, fingerprint_parts={})
                    yield run.model_copy(update={"fingerprint_parts": fingerprint.parts(run, shared)})


def _imported_seeds(variant: ReadyVariant, dataset: str, protocol: str, params: Params) -> list[int]:
    """The seeds of the suite of which a group's maps are imported."""
    imported = imports.seeds(group_name(variant.name, dataset, protocol))
    return [seed for seed in params.seeds if seed in imported]


def _unsupported(
    variant: ReadyVariant, dataset: str, protocol: str, params: Params, seeds: Sequence[int]
) -> str | None:
    """Why a group cannot run; None if it can."""
    if variant.instance:
        return variant.instance.unsupported(dataset, protocol)
    command = imports.command(variant.name, dataset, protocol, params.seeds[0])
    return None if seeds else f"none of its maps are imported: `{command}`"


def variants(params: Params) -> list[ReadyVariant]:
    """The variants of a suite, in its order.

    Raises:
        InputError: a method or hyper-parameter is unknown, or a value is of the wrong type; each mistake is one line.
    """
    ready: list[ReadyVariant] = []
    mistakes: dict[str, list[str]] = {}  # message -> variants
    for name in params.methods:
        try:
            ready.append(_ready(name, params))
        except InputError as error:
            mistakes.setdefault(str(error), []).append(name)
    if mistakes:
        raise InputError("\n".join(f"params.yaml: {', '.join(names)}: {text}" for text, names in mistakes.items()))
    instances = [variant.instance for variant in ready if variant.instance]
    known = {parameter for instance in instances for parameter in methods.hyper_parameters(type(instance))}
    for parameter in params.hyper_parameters:
        if parameter not in known:
            hint = did_you_mean(parameter, sorted(known))
            raise InputError(f"params.yaml: no method of the suite has the hyper-parameter {parameter!r}. {hint}")
    return ready


def _ready(name: str, params: Params) -> ReadyVariant:
    """A variant with its share of the budget: each method takes the hyper-parameters that it has."""
    declared = params.variants.get(name)
    method = declared.method if declared else name
    if declared and method != name and methods.is_method(name):
        raise InputError(f"a method has this name; give the variant of {method} another one.")
    if not declared and not methods.is_method(name) and params.variants:
        hint = did_you_mean(name, [*methods.names(), *params.variants])
        raise InputError(f"there is no method or variant {name!r}. {hint}")
    if declared and method == IMPORTED:
        return ReadyVariant(name, method, imports.stated(declared.overrides), None)
    budget = {k: v for k, v in params.hyper_parameters.items() if k in methods.hyper_parameters(methods.load(method))}
    hyper_parameters = budget | (declared.overrides if declared else {})
    instance = methods.create(method, **hyper_parameters)
    if getattr(instance, "selection", "") == "oracle" and not params.evaluate_every:
        raise InputError(
            "selection 'oracle' is the best epoch on the test images, but nothing evaluates on them during training: "
            "set `evaluate_every: 5`, for example, or selection 'last'."
        )
    return ReadyVariant(name, method, hyper_parameters, instance)


def _check_protocols(params: Params) -> None:
    for protocol in params.protocols:
        if protocol not in protocols.available():
            hint = did_you_mean(protocol, protocols.available())
            raise InputError(f"params.yaml: there is no protocol {protocol!r}. {hint}")


def _check_teachers(ready: Sequence[ReadyVariant], params: Params) -> None:
    """Weights that are missing or of another architecture are refused here, not in every job."""
    from methods.components import teachers  # timm takes seconds to import

    files = params.weight_files
    for teacher in dict.fromkeys(variant.teacher for variant in ready):
        if teacher in params.pretrain and not files[teacher].exists():
            raise InputError(f"{files[teacher]} is missing: `proctor pretrain {teacher}` or `dvc repro` creates it.")
        if teacher:
            teachers.load(teacher, files)


def _dataset(name: str, params: Params, shared: fingerprint.Shared) -> Dataset:
    """A data set whose folders, names and mask sizes have been checked."""
    source = _source(name, params)
    dataset = shared.dataset(name, source["root"], source["categories"] and tuple(source["categories"]))
    _checks.check(dataset)
    if params.interference:
        interference.check(dataset)
    return dataset


def _source(dataset: str, params: Params) -> dict[str, Any]:
    """Where the images of a data set come from: fields of `Run`."""
    root = str(params.roots[dataset]) if dataset in params.roots else None
    return {"root": root, "categories": params.categories.get(dataset)}


def _settings(variant: ReadyVariant, params: Params) -> dict[str, Any]:
    """What all runs of a variant share: fields of `Run`."""
    files, teacher = params.weight_files, variant.teacher
    named = {"variant": variant.name, "method": variant.method, "hyper_parameters": variant.hyper_parameters}
    if not variant.instance:  # nothing is computed
        return named | {"weights": {}, "compute": {}, "evaluate_every": 0}
    return named | {
        "weights": {teacher: str(files[teacher])} if teacher and teacher in files else {},
        "compute": params.compute.model_dump(),
        "evaluate_every": params.evaluate_every,
        "interference": params.interference.model_dump() if params.interference else None,
        "keep_model": params.keep_models,
    }
