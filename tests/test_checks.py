"""The checks: each kind of problem is found, names its cure, and nothing else is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import factories
import pandas as pd
import pytest
from typer.testing import CliRunner

from benchmarks import cli, results
from benchmarks.plan import Plan
from benchmarks.records import Record
from methods.base import InputError
from reports import published, specs, tables
from reports.aggregate import aggregate
from reports.analysis import checks
from reports.analysis.checks import Finding

VARIANTS, CATEGORIES, SEEDS = ("rd", "fd"), ("bolt", "cloth"), (0, 1)
NO_NUMBERS = pd.DataFrame(columns=published.COLUMNS)


def row(variant: str, category: str, seed: int, **other: Any) -> dict[str, Any]:
    return factories.row(variant=variant, category=category, seed=seed, **other)


def record(variant: str, category: str, seed: int, **other: Any) -> Record:
    return factories.record(variant=variant, split=category, seed=seed, **other)


CELLS = [(variant, category, seed) for variant in VARIANTS for category in CATEGORIES for seed in SEEDS]
SCORES = [row(*cell) for cell in CELLS]
RECORDS = [record(*cell) for cell in CELLS]
PLAN = factories.plan(RECORDS)


def find(
    scores: list[dict[str, Any]] = SCORES,
    records: list[Record] = RECORDS,
    plan: Plan = PLAN,
    numbers: pd.DataFrame = NO_NUMBERS,
) -> list[Finding]:
    return [*checks.findings(pd.DataFrame(scores), records, plan, numbers)]


def last_record(**change: Any) -> list[Record]:
    return [*RECORDS[:-1], record(*CELLS[-1], **change)]


def with_last(parts: list[dict[str, Any]], **change: Any) -> list[dict[str, Any]]:
    return [*parts[:-1], parts[-1] | change]


def test_a_whole_even_suite_is_clean() -> None:
    assert find() == []


@pytest.mark.parametrize(
    ("found", "kind", "said"),
    [
        (find(SCORES[:-1], RECORDS[:-1]), "missing", "1 of 4 planned runs not finished, e.g. fd-toy-one_class/cloth"),
        (find(SCORES[:-1]), "unscored", "fd-toy-one_class/cloth-seed1 has no score"),
        (find(records=RECORDS[:-1], plan=factories.NO_PLAN), "unscored", "1 scored run without a readable record"),
        (find(with_last(SCORES, fingerprint="old")), "stale", "belong to another fit"),
        (find(records=last_record(fingerprint_parts={"method code": "b"})), "stale", "made with another method"),
        (find(SCORES[:-1]), "seeds", "fd has no score of cloth with seed 1"),
        (find([r for r in SCORES if (r["variant"], r["seed"]) != ("fd", 1)]), "seeds", "differ (fd: 0; rd: 0, 1)"),
        (find(with_last(SCORES, value=0.51)), "collapsed", "image_auroc near chance (cloth seed 1: 0.510)"),
        (find(with_last(SCORES, value=0.45)), "collapsed", "near chance (cloth seed 1: 0.450): look at the loss"),
        (find(with_last(SCORES, value=0.1)), "collapsed", "worse than chance (cloth seed 1: 0.100): anomalies"),
        (find(with_last(SCORES, value=1.2)), "range", "of cloth, seed 1 is 1.2, outside [0, 1]: run `dvc repro`"),
        (find(with_last(SCORES, value=-0.2)), "range", "-0.2, outside [0, 1]"),
        (find(SCORES[:-2], plan=factories.NO_PLAN), "missing", "fd has no score of cloth, which others have"),
        (find(records=last_record(teacher={"name": "other", "pretraining": "p"})), "mixed", "teachers differ"),
        (
            find(records=last_record(hyper_parameters={"epochs": 9, "image_size": 64})),
            "mixed", "epochs differ (fd: 5 and 9; rd: 5)",
        ),
        (
            find(records=last_record(hyper_parameters={"epochs": 5, "image_size": 32})),
            "mixed", "image sizes differ (fd: 32 px and 64 px; rd: 64 px)",
        ),
        (find(with_last(SCORES, convention="x")), "mixed", "(fd: folder label and x; rd: folder label)"),
        (
            find(numbers=pd.DataFrame([dict.fromkeys(published.COLUMNS, "") | {"paper": "P", "value": "0.9"}])),
            "source", "0.9 of P",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found_and_named(found: list[Finding], kind: str, said: str) -> None:
    assert any(finding.kind == kind and said in finding.message for finding in found)
    assert {finding.kind for finding in found} <= {*checks.KINDS}


def test_what_cannot_be_measured_is_no_collapse() -> None:
    assert find(with_last(SCORES, value=float("nan"))) == []


def test_a_method_without_epochs_has_no_other_budget_but_may_have_another_image_size() -> None:
    def of_fd(**values: int) -> list[Record]:
        cells = [cell for cell in CELLS if cell[0] == "fd"]
        return [*(r for r in RECORDS if r.variant == "rd"), *(record(*cell, hyper_parameters=values) for cell in cells)]

    assert find(records=of_fd(image_size=64)) == []
    (finding,) = find(records=of_fd(image_size=32))
    assert "image sizes differ (fd: 32 px; rd: 64 px)" in finding.message


def test_just_above_the_limit_is_no_collapse() -> None:
    assert find(with_last(SCORES, value=checks.NEAR_CHANCE)) == []


def some_findings() -> Iterator[Finding]:
    yield Finding("collapsed", "It fell.", {"variant": "fd", "dataset": "toy", "protocol": "one_class"})
    yield Finding("seeds", "Uneven.", {"dataset": "toy", "protocol": "one_class"})


def test_a_reason_allows_a_kind_or_a_kind_in_one_group_and_nothing_else() -> None:
    allowed, problems = checks.apply_allow(some_findings(), {"collapsed": "known"})
    assert [finding.kind for finding, _ in allowed] == ["collapsed"] and problems == ["Uneven. [seeds]"]
    assert len(checks.apply_allow(some_findings(), {"collapsed:rd-toy-one_class": "known"})[1]) == 2
    assert (
        len(checks.apply_allow(some_findings(), {"collapsed:fd-toy-one_class": "known", "seeds:toy-one_class": "x"})[1])
        == 0
    )


def test_the_reason_is_printed_under_the_tables_it_concerns() -> None:
    spec = {"title": "t", "each": ["dataset", "protocol", "metric", "subset"], "rows": "category", "columns": "variant"}
    scores = pd.DataFrame(SCORES + [row(*cell, protocol="multi_class") for cell in CELLS])
    built = tables.tables("t", spec, aggregate(scores, factories.NO_PLAN), [])
    allowed, _ = checks.apply_allow(some_findings(), {"seeds": "fd ran short of time."})
    notices = {table.place["protocol"]: checks.with_notices(table, [], allowed).notices for table in built}
    assert set(notices["one_class"]) == {"Allowed, because fd ran short of time: Uneven."}
    assert notices["multi_class"] == ()


@pytest.mark.parametrize(
    ("allow", "said"),
    [
        ({"fallen": "x"}, "`fallen` has an unknown kind of finding. Known: missing,"),
        ({"colapsed:fd-toy-one_class": "x"}, "Did you mean 'collapsed'?"),
        ({"collapsed:fd-toy-onclass": "x"}, "a group that is not planned. Did you mean 'fd-toy-one_class'?"),
        ({"collapsed": " "}, "`collapsed` is allowed without a reason"),
    ],
)
def test_a_reason_that_excuses_nothing_is_refused(allow: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        checks.check_allow(allow, PLAN)


def test_a_reason_may_name_a_group_a_protocol_of_a_data_set_or_a_data_set() -> None:
    checks.check_allow({f"mixed:{place}": "x" for place in ("fd-toy-one_class", "toy-one_class", "toy")}, PLAN)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose only run collapsed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(specs, "read_specs", lambda *_: [])  # no table or figure, to be quick
    group = tmp_path / "results" / "predictions" / "rd-toy-one_class" / "bolt-seed0"
    group.mkdir(parents=True)
    (group / "record.json").write_text(json.dumps(factories.record_content(variant="rd", split="bolt", seed=0)))
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
    assert isinstance(refused, InputError) and "Did you mean 'collapsed'?" in str(refused)


def environment(torch: str, device: str = "x86_64 CPU, 2 cores") -> dict[str, Any]:
    return {"provenance": {"versions": {"torch": torch, "timm": "1.0.1", "numpy": "2.0"}, "device": device}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (environment("3.0.0"), "versions of torch differ (fd: 2.1 and 3.0; rd: 2.1)"),
        (environment("2.1.0", "NVIDIA H100 80GB HBM3"), "devices differ (fd: CPU and CUDA; rd: CPU)"),
    ],
)
def test_runs_of_different_major_versions_or_kinds_of_device_are_a_finding(change: Any, message: str) -> None:
    same = [record(*cell, **environment("2.1.0")) for cell in CELLS[:-1]]
    (finding,) = find(records=[*same, record(*CELLS[-1], **change)])
    assert finding.kind == "mixed" and message in finding.message


def test_minor_versions_that_differ_are_a_notice_under_the_tables_that_mix_them() -> None:
    records = [record(*cell, **environment("2.1.0" if cell[0] == "rd" else "2.2.5")) for cell in CELLS]
    assert find(records=records) == []
    spec = {"title": "t", "each": ["dataset", "protocol", "metric", "subset"], "rows": "category", "columns": "variant"}
    for scores, notices in ((SCORES, 1), ([r for r in SCORES if r["variant"] == "rd"], 0)):
        (table,) = tables.tables("t", spec, factories.cells(scores), records)
        caption = " ".join(checks.with_notices(table, records, []).caption)
        assert caption.count("Runs were made in different environments: torch (fd: 2.2; rd: 2.1).") == notices


def test_a_run_that_collapsed_is_listed_once_however_many_conventions_it_is_scored_by() -> None:
    low = [row("rd", "bolt", 0, metric="pixel_auroc", value=0.5, convention=name) for name in ("a", "b")]
    (finding,) = [finding for finding in find(SCORES + low) if finding.kind == "collapsed"]
    assert finding.message.count("bolt seed 0") == 1
