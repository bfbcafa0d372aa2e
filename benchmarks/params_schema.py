"""`params.schema.json`: by it, editors complete and check `params.yaml` and suites, whose first line names it."""

from __future__ import annotations

from typing import Any

import methods
from benchmarks import datasets, protocols
from benchmarks.metrics.conventions import CONVENTIONS
from benchmarks.params import Params
from benchmarks.schema import IMPORTED


def generate() -> dict[str, Any]:
    """The JSON schema of `params.yaml`.

    Methods, data sets and protocols are examples, which editors propose, and no enumeration: a project may have others.
    """
    schema = Params.model_json_schema()
    entries = schema["properties"]
    entries["conventions"]["items"]["enum"] = list(CONVENTIONS)
    entries["methods"]["items"]["examples"] = methods.names()
    entries["datasets"]["items"]["examples"] = datasets.available()
    entries["protocols"]["items"]["examples"] = protocols.available()
    schema["$defs"]["Variant"]["properties"]["method"]["examples"] = [*methods.names(), IMPORTED]
    return schema
