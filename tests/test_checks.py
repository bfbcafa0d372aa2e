"""The lint: each kind of problem is found, names its cure, and nothing else is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from reports.lint import Finding
from typer.testing import CliRunner

from benchmarks import cli, results
from methods.base import InputError
from reports import build, lint, published, tables

VARIANTS, CATEGORIES, SEEDS = ("rd", "fd"), ("bolt", "cloth"), (0, 1)
NO_NUMBERS = pd.DataFrame(columns=published.COLUMNS)
TEACHER = {"name": "resnet18", "sha256": "ab" * 32, "pretraining": "ImageNet-1k"}


def row(variant: str, category: str, seed: int, **other: Any) -> dict[str, Any]:
    return {
        "variant": variant, "method": variant, "dataset": "toy", "protocol": "one_class", "category": category,
        "seed": seed, "subset": "all", "metric": "image_auroc", "convention": "folder label", "selection": "last",
        "teacher": "t", "value": 0.9, "reason": "", "fingerprint": "f",
        "record": f"results/predictions/{variant}-toy-one_class/{category}-seed{seed}/record.json",
    } | other  # fmt: skip


def record(variant: str, category: str, seed: int, **other: Any) -> dict[str, Any]:
    return {
        "variant": variant, "dataset": "toy", "protocol": "one_class", "split": category, "seed": seed,
        "folder": f"{variant}-toy-one_class/{category}-seed{seed}", "fingerprint": "f", "teacher": TEACHER,
        "fingerprint_parts": {"method code": "a"}, "hyper_parameters": {"epochs": 5, "image_size": 64},
    } | other  # fmt: skip


CELLS = [(variant, category, seed) for variant in VARIANTS for category in CATEGORIES for seed in SEEDS]
SCORES = [row(*cell) for cell in CELLS]
RECORDS = [record(*cell) for cell in CELLS]
PLAN = {
    (variant, "toy", "one_class"): {
        f"{category}-seed{seed}": {"fingerprint_parts": {"method code": "a"}}
        for category in CATEGORIES for seed in SEEDS
    }
    for variant in VARIANTS
}  # fmt: skip


def find(
    scores: list[dict[str, Any]] = SCORES,
    records: list[dict[str, Any]] = RECORDS,
    plan: Mapping[Any, Any] = PLAN,
    numbers: pd.DataFrame = NO_NUMBERS,
) -> list[Finding]:
    return [*lint.findings(pd.DataFrame(scores), records, plan, numbers)]


def with_last(parts: list[dict[str, Any]], **change: Any) -> list[dict[str, Any]]:
    return [*parts[:-1], parts[-1] | change]


def test_a_whole_even_suite_is_clean() -> None:
    assert find() == []


@pytest.mark.parametrize(
    ("found", "kind", "said"),
    [
        (find(SCORES[:-1], RECORDS[:-1]), "missing", "not finished, e.g. fd-toy-one_class/cloth-seed1"),
        (find(SCORES[:-1]), "unscored", "fd-toy-one_class/cloth-seed1 has no score"),
        (find(records=RECORDS[:-1], plan={}), "unscored", "1 scored runs have no readable record"),
        (find(with_last(SCORES, fingerprint="old")), "stale", "belong to another fit"),
        (find(records=with_last(RECORDS, fingerprint_parts={"method code": "b"})), "stale", "older than its method"),
        (find(SCORES[:-1]), "seeds", "fd has no score of cloth with seed 1"),
        (find([r for r in SCORES if r["variant"] == "rd" or r["seed"] == 0]), "seeds", "uneven (fd: 0; rd: 0, 1)"),
        (find(with_last(SCORES, value=0.51)), "collapsed", "image_auroc near chance (cloth seed 1: 0.510)"),
        (find(with_last(SCORES, value=0.45)), "collapsed", "near chance (cloth seed 1: 0.450): look at the loss"),
        (find(with_last(SCORES, value=0.1)), "collapsed", "worse than chance (cloth seed 1: 0.100): anomalies"),
        (find(with_last(SCORES, value=1.2)), "range", "of cloth, seed 1 is 1.2, outside [0, 1]: run the score"),
        (find(with_last(SCORES, value=-0.2)), "range", "-0.2, outside [0, 1]"),
        (find(SCORES[:-2], plan={}), "missing", "fd has no score of cloth, which others have: `dvc repro`"),
        (find(records=with_last(RECORDS, teacher={"name": "other"})), "mixed", "teachers differ"),
        (find(records=with_last(RECORDS, hyper_parameters={"epochs": 9, "image_size": 64})), "mixed", "budgets differ"),
        (find(with_last(SCORES, convention="x")), "mixed", "(fd: folder label and x; rd: folder label)"),
        (
            find(numbers=pd.DataFrame([dict.fromkeys(published.COLUMNS, "") | {"paper": "P", "value": "0.9"}])),
            "source", "0.9 of P",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found_and_named(found: list[Finding], kind: str, said: str) -> None:
    assert any(finding.kind == kind and said in finding.message for finding in found)
    assert {finding.kind for finding in found} <= {*lint.KINDS}


def test_what_cannot_be_measured_is_no_collapse() -> None:
    assert find(with_last(SCORES, value=float("nan"))) == []


def test_a_run_that_the_plan_has_no_use_for_needs_no_score() -> None:
    old = record("fd", "cloth", 7)
    assert find(records=[*RECORDS, old]) == []
    assert [finding.kind for finding in find(records=[*RECORDS, old], plan={})] == ["unscored"]


def test_just_above_the_limit_is_no_collapse() -> None:
    assert find(with_last(SCORES, value=lint.COLLAPSED)) == []


def some_findings() -> Iterator[Finding]:
    yield Finding("collapsed", "It fell.", {"variant": "fd", "dataset": "toy", "protocol": "one_class"})
    yield Finding("seeds", "Uneven.", {"dataset": "toy", "protocol": "one_class"})


def test_a_reason_allows_a_kind_or_a_kind_in_one_group_and_nothing_else() -> None:
    allowed, problems = lint.sift(some_findings(), {"collapsed": "known"})
    assert [finding.kind for finding, _ in allowed] == ["collapsed"] and problems == ["Uneven. [seeds]"]
    assert len(lint.sift(some_findings(), {"collapsed:rd-toy-one_class": "known"})[1]) == 2
    assert len(lint.sift(some_findings(), {"collapsed:fd-toy-one_class": "known", "seeds:toy-one_class": "x"})[1]) == 0


def test_the_reason_is_printed_under_the_tables_it_concerns() -> None:
    spec = {"title": "t", "each": ["dataset", "protocol", "metric", "subset"], "rows": "category", "columns": "variant"}
    scores = pd.DataFrame(SCORES + [row(*cell, protocol="multi_class") for cell in CELLS])
    built = tables.tables("t", spec, tables.aggregate(scores, {}), [])
    allowed, _ = lint.sift(some_findings(), {"seeds": "fd ran short of time."})
    captions = {table.place["protocol"]: lint.explain(table, allowed).caption[-1] for table in built}
    assert captions["one_class"] == "Allowed, because fd ran short of time: Uneven."
    assert "Allowed" not in captions["multi_class"]


@pytest.mark.parametrize(
    ("allow", "said"),
    [
        ({"fallen": "x"}, "`fallen` names no kind of finding; kinds are missing,"),
        ({"colapsed:fd-toy-one_class": "x"}, "did you mean 'collapsed'?"),
        ({"collapsed": " "}, "`collapsed` is allowed without a reason"),
    ],
)
def test_a_reason_that_excuses_nothing_is_refused(allow: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        lint.check(allow)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose only run collapsed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(build, "read_specs", lambda *_: [])  # no table or figure, to be quick
    group = tmp_path / "results" / "predictions" / "rd-toy-one_class" / "bolt-seed0"
    group.mkdir(parents=True)
    (group / "record.json").write_text(json.dumps({"schema": 1, "method": "rd"} | record("rd", "bolt", 0)))
    (tmp_path / "results" / "scores").mkdir()
    pd.DataFrame([row("rd", "bolt", 0, value=0.5)]).to_csv(tmp_path / "results" / "scores" / "rd.csv", index=False)
    return tmp_path


def params(allow: dict[str, str]) -> str:
    suite = {"suite": "s", "methods": ["rd"], "datasets": ["toy"], "protocols": ["one_class"], "seeds": [0]}
    return json.dumps(suite | {"pretrain": [], "conventions": ["default"], "allow": allow})


def test_strict_fails_the_command_after_the_report_is_written(project: Path) -> None:
    run = CliRunner().invoke
    assert run(cli.app, ["report"]).exit_code == 0
    (project / "reports" / "build" / "index.html").unlink()
    assert run(cli.app, ["report", "--strict"]).exit_code == 1
    assert "image_auroc near chance" in (project / "reports" / "build" / "index.html").read_text()


def test_a_reason_on_the_command_line_or_in_params_lets_it_pass(project: Path) -> None:
    run = CliRunner().invoke
    assert run(cli.app, ["report", "--strict", "--allow", "collapsed=a first try"]).exit_code == 0
    (project / "params.yaml").write_text(params({"collapsed:rd-toy-one_class": "a first try"}))
    assert run(cli.app, ["report", "--strict"]).exit_code == 0
    (project / "params.yaml").write_text(params({"colapsed": "a first try"}))
    refused = run(cli.app, ["report"]).exception
    assert isinstance(refused, InputError) and "did you mean 'collapsed'?" in str(refused)
