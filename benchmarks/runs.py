"""Parameters expanded to runs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import methods
from benchmarks import fingerprint, interference, protocols
from benchmarks.datasets import _checks
from benchmarks.datasets.base import Dataset
from benchmarks.params import Params
from benchmarks.plan import Run, Unsupported
from methods.base import InputError, Method, did_you_mean


def expand(params: Params) -> Iterator[Run | Unsupported]:
    """Every run of a suite; neighbours differ in split first, so that runs at work together share little.

    Raises:
        InputError: whatever can be known before any training: an unknown method, hyper-parameter, data set or protocol,
            a data set that is missing or broken, weights that are missing or belong to another architecture.
    """
    shared = fingerprint.Shared()
    loaded = {name: _dataset(name, params, shared) for name in params.datasets}
    _check_budget(params)
    for variant in params.methods:
        method, fields = _variant(variant, params)
        for (name, dataset), protocol in product(loaded.items(), params.protocols):
            if reason := method.unsupported(name, protocol):
                yield Unsupported(variant=variant, dataset=name, protocol=protocol, reason=reason)
                continue
            for seed in params.seeds:
                for split in shared.splits(protocol, dataset, seed):
                    place = {"dataset": name, "protocol": protocol, "split": split.name, "seed": seed}
                    run = Run(**fields, **place, **_source(name, params), fingerprint_parts={})
                    yield run.model_copy(update={"fingerprint_parts": fingerprint.parts(run, shared)})


def _source(dataset: str, params: Params) -> dict[str, Any]:
    """Where the images of a data set come from: fields of `Run`."""
    root = str(params.roots[dataset]) if dataset in params.roots else None
    return {"root": root, "categories": params.categories.get(dataset)}


def _dataset(name: str, params: Params, shared: fingerprint.Shared) -> Dataset:
    """A data set whose folders, names and mask sizes have been checked."""
    source = _source(name, params)
    dataset = shared.dataset(name, source["root"], source["categories"] and tuple(source["categories"]))
    _checks.check(dataset)
    if params.interference:
        interference.check(dataset)
    for protocol in params.protocols:
        if protocol not in protocols.available():
            raise InputError(
                f"params.yaml: unknown protocol {protocol!r}. {did_you_mean(protocol, protocols.available())}"
            )
    return dataset


def _check_budget(params: Params) -> None:
    """A shared hyper-parameter goes to the methods that have it; one that none has is a mistake."""
    names = [params.variants[v].method if v in params.variants else v for v in params.methods]
    known = {parameter for name in names for parameter in methods.hyper_parameters(methods.load(name))}
    for parameter in params.hyper_parameters:
        if parameter not in known:
            hint = did_you_mean(parameter, sorted(known))
            raise InputError(f"params.yaml: no method of the suite has the hyper-parameter {parameter!r}. {hint}")


def _variant(variant: str, params: Params) -> tuple[type[Method], dict[str, Any]]:
    """A variant's method, and the fields of `Run` that all its runs share."""
    declared = params.variants.get(variant)
    name = declared.method if declared else variant
    method = methods.load(name)
    budget = {k: v for k, v in params.hyper_parameters.items() if k in methods.hyper_parameters(method)}
    hyper_parameters = budget | (declared.overrides if declared else {})
    instance = methods.create(name, **hyper_parameters)
    if getattr(instance, "selection", "") == "oracle" and not params.evaluate_every:
        raise InputError(
            f"params.yaml: {variant} has selection 'oracle', the best epoch on the test images, but nothing evaluates "
            "on them during training: set `evaluate_every: 5`, say, or selection 'last'."
        )
    teacher, weights = getattr(instance, "teacher", None), params.weight_files
    if teacher:
        from methods.components import teachers  # timm takes seconds to import

        teachers.load(teacher, weights)  # weights of another architecture are refused here, not in every job
    return method, {
        "variant": variant,
        "method": name,
        "hyper_parameters": hyper_parameters,
        "weights": {teacher: str(weights[teacher])} if teacher in weights else {},
        "compute": params.compute.model_dump(),
        "evaluate_every": params.evaluate_every,
        "interference": params.interference.model_dump() if params.interference else None,
    }
