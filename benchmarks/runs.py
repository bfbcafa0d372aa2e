"""Parameters expanded to runs, and the fingerprint that says whether a stored result is current."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.params import Params


@dataclass(frozen=True, kw_only=True)
class Run:
    """One fit: a variant on one split of a data set under a protocol with one seed; all that a job needs to know.

    Its fields are JSON values. `fingerprint_parts` are hashes of all that decides the numbers, by a name for people.
    """

    variant: str
    method: str
    hyper_parameters: dict[str, Any]
    dataset: str
    root: str | None
    categories: list[str] | None
    protocol: str
    split: str
    seed: int
    weights: dict[str, str]
    compute: dict[str, Any]
    fingerprint_parts: dict[str, str]

    @property
    def group(self) -> str:
        return f"{self.variant}-{self.dataset}-{self.protocol}"

    @property
    def name(self) -> str:
        return f"{self.group}/{self.split}-seed{self.seed}"

    @property
    def fingerprint(self) -> str:
        return digest(self.fingerprint_parts)

    @property
    def random_seed(self) -> int:
        """Derived from what the run is, so that the order of runs never matters; the same for every variant."""
        return int(digest([self.dataset, self.protocol, self.split, self.seed]), 16) % 2**31


@dataclass(frozen=True)
class Unsupported:
    """A group that cannot run, and why."""

    group: str
    reason: str


def digest(value: Any) -> str:
    """16 hex digits that identify a JSON value."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def expand(params: Params) -> Iterator[Run | Unsupported]:
    """Every run of a suite, in the order of the parameters.

    Raises:
        InputError: whatever can be known before any training: an unknown method, hyper-parameter, data set or protocol,
            a data set that is missing or broken, weights that are missing or belong to another architecture.
    """
    import methods
    from benchmarks import datasets, protocols

    loaded = {d: datasets.load(d, params.roots.get(d), params.categories.get(d)) for d in params.datasets}
    for dataset in loaded.values():
        dataset.check()
    for variant in params.methods:
        declared = params.variants.get(variant)
        name = declared.method if declared else variant
        method = methods.load(name)
        shared = {k: v for k, v in params.hyper_parameters.items() if k in methods.hyper_parameters(method)}
        hyper_parameters = shared | (declared.overrides if declared else {})
        instance = methods.create(name, **hyper_parameters)
        teacher = getattr(instance, "teacher", None)
        variant_parts = {
            "method code": digest(sources(method.__module__)),
            "hyper-parameters": digest(asdict(instance)),
            "teacher": _teacher_digest(teacher, params) if teacher else "none",
            "compute": digest(params.compute.model_dump()),
        }
        for dataset_name, dataset in loaded.items():
            code = sources(type(dataset).__module__) | sources("benchmarks.protocols")
            for protocol in params.protocols:
                reason = method.unsupported(dataset_name, protocol)
                if reason is not None:
                    yield Unsupported(f"{variant}-{dataset_name}-{protocol}", reason)
                    continue
                for split in protocols.expand(protocol, dataset):
                    keys = [
                        [item.key for item in part] for part in (split.train, split.validation, *split.test.values())
                    ]
                    for seed in params.seeds:
                        yield Run(
                            variant=variant,
                            method=name,
                            hyper_parameters=hyper_parameters,
                            dataset=dataset_name,
                            root=str(params.roots[dataset_name]) if dataset_name in params.roots else None,
                            categories=params.categories.get(dataset_name),
                            protocol=protocol,
                            split=split.name,
                            seed=seed,
                            weights={teacher: str(params.weights[teacher])} if teacher in params.weights else {},
                            compute=params.compute.model_dump(),
                            fingerprint_parts={
                                **variant_parts,
                                "data": digest([dataset.revision(), keys]),
                                "data code": digest(code),
                                "run": f"{variant}-{dataset_name}-{protocol}/{split.name}-seed{seed}",
                            },
                        )


def _teacher_digest(name: str, params: Params) -> str:
    """The digest of a teacher's weights, once they have been seen to load."""
    from methods import teachers

    teachers.load(name, params.weights)
    return teachers.digest(name, params.weights)


def sources(module: str) -> dict[str, str]:
    """The code that a module of ours runs, itself and all of ours that it imports: module name -> source.

    Comments, docstrings and layout are dropped, so that editing them makes no result stale.
    """
    found: dict[str, str] = {}
    pending = [module]
    while pending:
        name = pending.pop()
        if name in found or name.partition(".")[0] not in ("methods", "benchmarks"):
            continue
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            continue
        tree = ast.parse(Path(spec.origin).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                pending += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                pending += [node.module]
                if node.module in ("methods", "benchmarks", "benchmarks.datasets"):
                    pending += [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        found[name] = ast.unparse(tree)
    return found
