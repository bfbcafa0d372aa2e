"""Parameters expanded to runs, and the fingerprint that says whether a stored result is current."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.params import Compute, Interference, Params, Variant
from methods.base import InputError, Method


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
    evaluate_every: int
    fingerprint_parts: dict[str, str]
    interference: dict[str, Any] | None = None  # settings of the probes; None: none are made

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

    variant: str
    dataset: str
    protocol: str
    reason: str

    @property
    def group(self) -> str:
        return f"{self.variant}-{self.dataset}-{self.protocol}"


def digest(value: Any) -> str:
    """16 hex digits that identify a JSON value."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def expand(params: Params, only: str | None = None) -> Iterator[Run | Unsupported]:
    """Every run of a suite; neighbours differ in split first, so that runs at work together share little.

    Args:
        only: the name of one run; nothing else is looked at.

    Raises:
        InputError: whatever can be known before any training: an unknown method, hyper-parameter, data set or protocol,
            a data set that is missing or broken, weights that are missing or belong to another architecture.
    """
    from benchmarks import datasets, interference, protocols
    from benchmarks.datasets import _checks

    loaded = {d: datasets.load(d, params.roots.get(d), params.categories.get(d)) for d in params.datasets}
    for dataset in () if only else loaded.values():
        _checks.check(dataset)
        if params.interference:
            interference.check(dataset)
    # Reading a revision looks at every file; runs share them.
    revision = cache(lambda name, categories: loaded[name].revision(categories))
    _check_budget(params)
    for variant in params.methods:
        method, of_variant, variant_parts = _variant(variant, params)
        for name, dataset in loaded.items():
            shared = {"data code": digest(sources(type(dataset).__module__) | sources(protocols.__name__))}
            settings = params.interference.model_dump() if params.interference else None
            if settings:  # a probe shows other categories too, so all images of the data set decide it
                of_probes = [settings, revision(name, dataset.categories), sources(interference.__name__)]
                shared["interference"] = digest(of_probes)
            for protocol in params.protocols:
                if reason := method.unsupported(name, protocol):
                    yield Unsupported(variant, name, protocol, reason)
                    continue
                splits = protocols.expand(protocol, dataset)
                for seed, split in product(params.seeds, splits):
                    name_of_run = f"{variant}-{name}-{protocol}/{split.name}-seed{seed}"
                    if only not in (None, name_of_run):
                        continue
                    keys = [[i.key for i in part] for part in (split.train, split.validation, *split.test.values())]
                    yield Run(
                        **of_variant,
                        dataset=name,
                        root=str(params.roots[name]) if name in params.roots else None,
                        categories=params.categories.get(name),
                        protocol=protocol,
                        split=split.name,
                        seed=seed,
                        interference=settings,
                        fingerprint_parts=variant_parts
                        | shared
                        | {
                            "data": digest([revision(name, tuple(split.test)), keys]),
                            "run": name_of_run,
                        },
                    )


def changed_parts(run: Run) -> list[str]:
    """The parts of a run's fingerprint that differ from what code, data and weights say now.

    Raises:
        InputError: as `expand`.
    """
    params = Params(
        suite="",
        methods=[run.variant],
        variants={run.variant: Variant(method=run.method, **run.hyper_parameters)},
        datasets=[run.dataset],
        roots={run.dataset: Path(run.root)} if run.root else {},
        categories={run.dataset: run.categories} if run.categories else {},
        protocols=[run.protocol],
        seeds=[run.seed],
        weights={name: Path(path) for name, path in run.weights.items()},
        pretrain=[],
        conventions=["default"],
        allow={},
        compute=Compute(**run.compute),
        evaluate_every=run.evaluate_every,
        interference=Interference(**run.interference) if run.interference else None,
    )
    now = next((entry for entry in expand(params, run.name) if isinstance(entry, Run)), None)
    parts = now.fingerprint_parts if now else {}
    return [part for part, value in run.fingerprint_parts.items() if parts.get(part) != value]


def _check_budget(params: Params) -> None:
    """A shared hyper-parameter goes to the methods that have it; one that none has is a mistake."""
    import methods

    names = [params.variants[v].method if v in params.variants else v for v in params.methods]
    known = {parameter for name in names for parameter in methods.hyper_parameters(methods.load(name))}
    for parameter in params.hyper_parameters:
        if parameter not in known:
            near = get_close_matches(parameter, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}."
            raise InputError(f"params.yaml: no method of the suite has the hyper-parameter {parameter!r}; {hint}")


def _variant(variant: str, params: Params) -> tuple[type[Method], dict[str, Any], dict[str, str]]:
    """A variant's method, and what all its runs share: fields of `Run`, and parts of the fingerprint."""
    import methods

    declared = params.variants.get(variant)
    name = declared.method if declared else variant
    method = methods.load(name)
    budget = {k: v for k, v in params.hyper_parameters.items() if k in methods.hyper_parameters(method)}
    hyper_parameters = budget | (declared.overrides if declared else {})
    instance = methods.create(name, **hyper_parameters)
    if getattr(instance, "selection", "") == "oracle" and not params.evaluate_every:
        raise InputError(
            f"params.yaml: {variant} has selection 'oracle', the best epoch on the test images, but nothing looks at "
            "them during training: set `evaluate_every: 5`, say, or selection 'last'."
        )
    teacher, weights = getattr(instance, "teacher", None), params.weight_files
    teacher_part = "none"
    if teacher:
        from methods import teachers  # brings timm, which takes seconds to import

        teachers.load(teacher, weights)  # weights of another architecture are refused here, not in every job
        teacher_part = teachers.digest(teacher, weights)
    compute = params.compute.model_dump()
    fields = {
        "variant": variant,
        "method": name,
        "hyper_parameters": hyper_parameters,
        "weights": {teacher: str(weights[teacher])} if teacher in weights else {},
        "compute": compute,
        "evaluate_every": params.evaluate_every,
    }
    parts = {
        "method code": digest(sources(method.__module__)),
        "hyper-parameters": digest(asdict(instance)),
        "teacher": teacher_part,
        "compute": digest(compute),
    }
    if folders := [value for value in asdict(instance).values() if isinstance(value, Path)]:
        parts["folders"] = digest([_contents(folder) for folder in folders])
    if params.evaluate_every:
        # What measures the test images decides the epoch of an oracle, and stands in every record.
        parts["evaluate_every"] = digest([params.evaluate_every, sources("benchmarks.trajectory")])
    return method, fields, parts


def _contents(folder: Path) -> list[tuple[str, str]]:
    """Name and hash of every file in a folder that a hyper-parameter names."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise InputError(f"params.yaml: the folder {folder} is absent or empty. Correct the path.")
    return [(str(p.relative_to(folder)), hashlib.blake2b(p.read_bytes(), digest_size=16).hexdigest()) for p in files]


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
        found[name], imported = _parsed(Path(spec.origin).read_text())
        pending += imported
    return found


@cache
def _parsed(source: str) -> tuple[str, list[str]]:
    """A module's source less comments, docstrings and layout, and the names that it may import modules by."""
    tree = ast.parse(source)
    imported: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported += [node.module]
            if node.module in ("methods", "benchmarks", "benchmarks.datasets"):
                imported += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree), imported
