"""What a suite plans to run: the one list of what belongs in its tables. A leaf.

`results/plan/suite.json` names the suite and its groups in order; `results/plan/GROUP.json` has the runs of a group, or
the reason why it cannot run. One file a group, because each is a dependency of that group's stages alone.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from benchmarks.schema import group_name
from methods.base import InputError
from methods.components.atomic import replacing

FOLDER = "plan"  # below results/


def digest(value: Any) -> str:
    """16 hex digits that identify a JSON value.

    >>> digest({"b": 1, "a": [2]}) == digest({"a": [2], "b": 1})
    True
    """
    return hashlib.blake2b(json.dumps(value, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


class Run(BaseModel, frozen=True, extra="forbid"):
    """One fit: a variant on one split of a data set under a protocol with one seed; all that a job needs to know.

    `fingerprint_parts` are hashes of all that decides the numbers, by a name that people understand.
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
    keep_model: bool = True  # whether the fitted method is stored beside its predictions; decides no number

    @property
    def group(self) -> str:
        return group_name(self.variant, self.dataset, self.protocol)

    @property
    def stem(self) -> str:
        """Its name within the group."""
        return f"{self.split}-seed{self.seed}"

    @property
    def name(self) -> str:
        return f"{self.group}/{self.stem}"

    @property
    def fingerprint(self) -> str:
        return digest(self.fingerprint_parts)


class Unsupported(BaseModel, frozen=True, extra="forbid"):
    """A group that cannot run, and why."""

    variant: str
    dataset: str
    protocol: str
    reason: str

    @property
    def group(self) -> str:
        return group_name(self.variant, self.dataset, self.protocol)


class Group(BaseModel, frozen=True, extra="forbid"):
    """The runs of a group, or the reason why there are none."""

    variant: str
    dataset: str
    protocol: str
    unsupported: str | None = None
    runs: list[Run] = []

    @property
    def name(self) -> str:
        return group_name(self.variant, self.dataset, self.protocol)


class Plan(BaseModel, frozen=True):
    """All groups of a suite, in its order."""

    suite: str
    groups: list[Group] = []

    @property
    def runs(self) -> list[Run]:
        return [run for group in self.groups for run in group.runs]

    @property
    def entries(self) -> list[Run | Unsupported]:
        """Runs, and of a group that cannot run the reason."""
        listed: list[Run | Unsupported] = []
        for group in self.groups:
            names = {"variant": group.variant, "dataset": group.dataset, "protocol": group.protocol}
            listed += [Unsupported(**names, reason=group.unsupported)] if group.unsupported else group.runs
        return listed


def make(suite: str, entries: Iterable[Run | Unsupported]) -> Plan:
    """Runs and unsupported groups as a plan."""
    groups: dict[str, Group] = {}
    for entry in entries:
        names = {"variant": entry.variant, "dataset": entry.dataset, "protocol": entry.protocol}
        if isinstance(entry, Unsupported):
            groups[entry.group] = Group(**names, unsupported=entry.reason)
        else:
            groups.setdefault(entry.group, Group(**names)).runs.append(entry)
    return Plan(suite=suite, groups=list(groups.values()))


def select(plan: Plan, split: str | None = None, seed: int | None = None, **group: str | None) -> Plan:
    """The part of a plan that is about this variant, data set, protocol, split and seed; None: about any.

    Raises:
        InputError: there is no such part.
    """
    wanted = {name: value for name, value in group.items() if value is not None}
    groups = [g for g in plan.groups if all(getattr(g, name) == value for name, value in wanted.items())]
    of_run = {name: value for name, value in (("split", split), ("seed", seed)) if value is not None}
    chosen = [
        g.model_copy(update={"runs": [r for r in g.runs if all(getattr(r, n) == v for n, v in of_run.items())]})
        for g in groups
    ]
    chosen = [g for g in chosen if g.runs or g.unsupported]
    if not chosen:
        words = ", ".join(f"{name} {value}" for name, value in (wanted | of_run).items())
        raise InputError(f"The suite has no run with {words}; `proctor plan` lists the runs of params.yaml.")
    return plan.model_copy(update={"groups": chosen})


def write(results: Path, plan: Plan) -> None:
    """Write `results/plan/`, whole or not at all."""
    folder = results / FOLDER
    with replacing(folder) as partial:
        partial.mkdir()
        index = {"suite": plan.suite, "groups": [group.name for group in plan.groups]}
        (partial / "suite.json").write_text(json.dumps(index, indent=1) + "\n")
        for group in plan.groups:
            (partial / f"{group.name}.json").write_text(group.model_dump_json(indent=1) + "\n")
        shutil.rmtree(folder, ignore_errors=True)


def read(results: Path) -> Plan:
    """The plan of a results folder.

    Raises:
        InputError: there is none, or a file of it is damaged; names the file.
    """
    folder = results / FOLDER
    path = folder / "suite.json"
    try:
        index = json.loads(path.read_text())
        groups = []
        for name in _names(index["groups"]):
            path = folder / f"{name}.json"
            groups.append(Group.model_validate_json(path.read_text()))
        return Plan(suite=index["suite"], groups=groups)
    except FileNotFoundError:
        raise InputError(
            f"There is no plan at {path.absolute()}: `dvc repro` or `proctor plan --write` creates it, in the "
            "project's folder."
        ) from None
    except (ValidationError, ValueError, KeyError, TypeError, RecursionError, OSError) as error:
        raise InputError(
            f"{path} is damaged ({type(error).__name__}): `proctor plan --write` writes it again."
        ) from None


def is_older_than(path: Path, results: Path) -> bool:
    """Whether a file was written after the plan of a results folder; false if one of them is absent."""
    try:
        return path.stat().st_mtime > (results / FOLDER / "suite.json").stat().st_mtime
    except FileNotFoundError:
        return False


def _names(value: Any) -> Sequence[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError("groups must be a list of names")
    return value
