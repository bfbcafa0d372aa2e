"""Rows, records and plans as the pipeline stores them, for tests of the report: defaults, and what a test changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from benchmarks import plan as plans
from benchmarks.plan import Plan, Run, digest
from benchmarks.records import Record, sealed
from benchmarks.schema import SCHEMA, group_name
from reports.aggregate import aggregate

PARTS = {"method code": "a"}
FINGERPRINT = digest(PARTS)
NO_PLAN = Plan(suite="")
TEACHER = {"name": "tiny.procedural", "sha256": "ab" * 32, "pretraining": "procedural images"}


def row(**facets: Any) -> dict[str, Any]:
    """A tidy row of scores."""
    default = {
        "variant": "rd", "method": facets.get("variant", "rd"), "dataset": "toy", "protocol": "one_class",
        "category": "bolt", "seed": 0, "subset": "all", "metric": "image_auroc", "convention": "folder label",
        "selection": "last", "teacher": "{name} ({pretraining})".format_map(TEACHER), "value": 0.9, "reason": "",
        "images": 8, "anomalous": 4, "fingerprint": FINGERPRINT,
    }  # fmt: skip
    cell = default | facets
    split = cell["category"] if cell["protocol"] == "one_class" else "all"
    group = group_name(cell["variant"], cell["dataset"], cell["protocol"])
    return {**cell, "record": f"results/predictions/{group}/{split}-seed{cell['seed']}/record.json"} | facets


def record_content(**facets: Any) -> dict[str, Any]:
    """The content of a record.json, sealed."""
    return sealed({
        "schema": SCHEMA, "variant": "rd", "method": facets.get("variant", "rd"), "dataset": "toy",
        "protocol": "one_class", "split": "bolt", "seed": 0, "fingerprint": FINGERPRINT, "fingerprint_parts": PARTS,
        "hyper_parameters": {"epochs": 5, "image_size": 64}, "teacher": TEACHER,
    } | facets)  # fmt: skip


def record(**facets: Any) -> Record:
    return Record.model_validate(record_content(**facets))


def run(of: Record, **changes: Any) -> Run:
    """The planned run that would make a record."""
    names = {name: getattr(of, name) for name in ("variant", "method", "dataset", "protocol", "split", "seed")}
    about: dict[str, Any] = {
        "hyper_parameters": {}, "root": None, "categories": None, "weights": {}, "compute": {}, "evaluate_every": 0,
        "fingerprint_parts": of.fingerprint_parts,
    }  # fmt: skip
    return Run.model_validate(names | about | changes)


def plan(records: Iterable[Record]) -> Plan:
    """A suite that has planned these records."""
    return plans.make("test", [run(record) for record in records])


def cells(rows: Iterable[dict[str, Any]], planned: Plan = NO_PLAN) -> pd.DataFrame:
    """The aggregated cells of tidy rows."""
    return aggregate(pd.DataFrame(rows), planned)
