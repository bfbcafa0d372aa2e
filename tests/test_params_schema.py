"""The JSON schema of `params.yaml`, which editors read."""

import json
from pathlib import Path
from typing import Any

from project import ROOT

from benchmarks import params_schema, suite_files

STORED = ROOT / "benchmarks" / "params.schema.json"


def without_examples(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: without_examples(value) for key, value in schema.items() if key != "examples"}
    return [without_examples(value) for value in schema] if isinstance(schema, list) else schema


def test_the_stored_schema_is_that_of_the_code() -> None:
    """But for the names of methods, data sets and protocols: who adds a file need not store the schema anew."""
    stored, generated = json.loads(STORED.read_text()), params_schema.generate()
    cure = "proctor schema > benchmarks/params.schema.json"
    assert without_examples(stored) == without_examples(generated), cure
    for entry in ("methods", "datasets", "protocols"):
        names = [schema["properties"][entry]["items"]["examples"] for schema in (stored, generated)]
        assert set(names[0]) <= set(names[1]), cure


def test_an_unknown_entry_is_refused_by_every_part_but_the_hyper_parameters_of_a_variant() -> None:
    schema = params_schema.generate()
    parts = {"Params": schema} | schema["$defs"]
    assert {name for name, part in parts.items() if part["additionalProperties"]} == {"Variant"}


def test_names_are_proposed() -> None:
    entries = params_schema.generate()["properties"]
    assert {"rd", "aand"} <= set(entries["methods"]["items"]["examples"])
    assert {"toy", "visa"} <= set(entries["datasets"]["items"]["examples"])
    assert "multi_class" in entries["protocols"]["items"]["examples"]
    assert "map_size" in entries["conventions"]["items"]["enum"]


def named_schema(path: Path) -> Path:
    """The schema that the first line of a parameter file names, relative to the file, for the YAML language server."""
    first = path.read_text().splitlines()[0]
    return (path.parent / first.removeprefix("# yaml-language-server: $schema=")).resolve()


def test_every_suite_and_what_is_made_of_it_name_the_schema(tmp_path: Path) -> None:
    suites = sorted(suite_files.SUITES.glob("*.yaml"))
    assert {named_schema(path) for path in [ROOT / "params.yaml", *suites]} == {STORED}
    target = tmp_path / "params.yaml"
    suite_files.select("toy", target)
    assert named_schema(target) == tmp_path / "benchmarks" / "params.schema.json"
    assert target.read_text().count("yaml-language-server") == 1
    assert target.read_text() == (ROOT / "params.yaml").read_text()
