"""Results as nobody wants them: each gets a clear message, and the rest of the report is still built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import factories
import pytest
from test_reports import SHORT, details, record, tidy, write_json, write_scores

from benchmarks import plan as plans
from reports import build, load, specs

METRICS = ("image_auroc", "pixel_auroc", "aupro")


def write_run(results: Path, cells: list[tuple[str, int]], **change: Any) -> list[dict[str, Any]]:
    """Records and details of RD on `cells` (category, seed); returns the tidy rows."""
    for category, seed in cells:
        place = f"rd-toy-one_class/{category}-seed{seed}"
        write_json(results / "predictions" / place / "record.json", record("rd", "one_class", category, seed, **change))
        write_json(results / "details" / f"{place}.json", details("rd", "one_class", category, seed))
    return [tidy("rd", "one_class", category, seed, metric) for category, seed in cells for metric in METRICS]


@pytest.fixture(scope="module")
def of_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The specifications of tables; figures take most of the time."""
    folder = tmp_path_factory.mktemp("specs")
    for path in specs.FOLDER.glob("*.yaml"):
        if "figure:" not in path.read_text():
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def problems(results: Path, folder: Path) -> list[str]:
    found: list[str] = []
    assert build.build(results, results / "build", folder, problems=found).exists()
    return found


def tables_of(results: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((results / "build" / "tables").glob("*.md"))}


def test_no_records(tmp_path: Path, of_tables: Path) -> None:
    assert problems(tmp_path, of_tables) == [
        f"There are no finished runs in {tmp_path.name}/predictions. Run `dvc repro` first.",
        f"There are no scores in {tmp_path.name}/scores, so there are no tables. Run `dvc repro` first.",
    ]
    assert not tables_of(tmp_path)


def test_one_seed_and_one_category_are_shown_for_what_they_are(tmp_path: Path, of_tables: Path) -> None:
    write_scores(tmp_path, write_run(tmp_path, [("bolt", 0)]))
    assert problems(tmp_path, of_tables) == []
    text = tables_of(tmp_path)["per_category-toy-one_class-image_auroc-folder-label-all.md"]
    assert "one seed, so no standard deviation (seed 0)" in text and "±" not in text and "**90" not in text
    assert not [name for name in tables_of(tmp_path) if name.startswith(("ranks", "comparisons"))]


def test_a_category_without_anomalies_is_an_empty_cell_with_its_reason(tmp_path: Path, of_tables: Path) -> None:
    rows = write_run(tmp_path, [("bolt", 0), ("cloth", 0), ("bolt", 1), ("cloth", 1)])
    none = {"value": float("nan"), "reason": "no anomalous image", "anomalous": 0}
    write_scores(tmp_path, [row | none if row["category"] == "cloth" else row for row in rows])
    for path in (tmp_path / "details").glob("*/cloth-*.json"):
        found = json.loads(path.read_text())
        normal = [image for image in found["images"] if not image["anomalous"]]
        path.write_text(json.dumps(found | {"images": normal, "curves": {}}))
    assert problems(tmp_path, of_tables) == []
    text = tables_of(tmp_path)["per_category-toy-one_class-image_auroc-folder-label-all.md"]
    assert "no anomalous image" in text and "cloth left out, which has no value for any variant" in text
    assert "90.5 ± 0.7" in text


def test_a_record_of_another_schema_costs_its_own_link_alone(tmp_path: Path, of_tables: Path) -> None:
    rows = write_run(tmp_path, [("bolt", 0)]) + write_run(tmp_path, [("cloth", 0)], schema=7)
    write_scores(tmp_path, rows)
    name = "predictions/rd-toy-one_class/cloth-seed0/record.json"
    first, second = problems(tmp_path, of_tables)
    assert first.startswith(f"{name} was left out: it is not a record of schema 2 (schema: ")
    assert first.endswith(". Run it again with `proctor run`.")
    assert "1 scored run without a readable record" in second and "Restore the records with `dvc checkout`" in second
    text = tables_of(tmp_path)["per_category-toy-one_class-image_auroc-folder-label-all.md"]
    assert "| bolt" in text and "| cloth" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"where": {"metric": ["image_aurok"]}}, "unknown metric 'image_aurok'. Did you mean 'image_auroc'?"),
        ({"where": {"variant": ["rdd"]}}, "unknown variant 'rdd'. Did you mean 'rd'?"),
        ({"where": {"convention": ["folder labels"]}}, "Did you mean 'folder label'?"),
        ({"where": {"selection": ["lasst"]}}, "unknown selection 'lasst'. Did you mean 'last'?"),
        ({"where": {"metrik": ["aupro"]}}, "unknown `where` 'metrik'. Did you mean 'metric'?"),
        ({"where": {"metric": "aupro"}}, "`where` gives metric 'aupro'; it takes a list: [aupro]"),
        ({"columns": ["metric", "varian"]}, "unknown `rows` or `columns` 'varian'. Did you mean 'variant'?"),
        ({"aggregation": "medain"}, "unknown `aggregation` 'medain'. Did you mean 'median'?"),
        ({"highlight": "best"}, "unknown `highlight` 'best'. Known: significant, none."),
        ({"agregation": "mean"}, "unknown entry 'agregation'. Did you mean 'aggregation'?"),
        ({"from": "cell"}, "unknown `from` 'cell'. Did you mean 'cells'?"),
    ],
)  # fmt: skip
def test_a_spec_that_names_the_unknown_is_told_what_it_may_be_and_costs_no_other(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    write_scores(tmp_path, write_run(tmp_path, [("bolt", 0)]))
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "good.yaml").write_text(json.dumps(SHORT))
    (tmp_path / "specs" / "odd.yaml").write_text(json.dumps(SHORT | change))
    (problem,) = problems(tmp_path, tmp_path / "specs")
    assert problem.startswith("specs/odd.yaml") and said in problem
    assert len([name for name in tables_of(tmp_path) if name.startswith("good-")]) == 3


def test_a_value_that_no_metric_can_have_is_an_empty_cell_and_costs_no_other(tmp_path: Path, of_tables: Path) -> None:
    rows = write_run(tmp_path, [("bolt", 0), ("cloth", 0)])
    write_scores(tmp_path, [*rows[:-1], rows[-1] | {"value": 1.5}])
    (problem,) = problems(tmp_path, of_tables)
    assert "aupro of cloth, seed 0 is 1.5, outside [0, 1]: run `dvc repro`" in problem
    text = tables_of(tmp_path)["per_category-toy-one_class-aupro-folder-label-all.md"]
    assert "scored as 1.5, which is outside [0, 1]" in text and "90.0" in text


def test_what_another_suite_left_behind_is_no_part_of_the_report(tmp_path: Path, of_tables: Path) -> None:
    write_scores(tmp_path, [*write_run(tmp_path, [("bolt", 0)]), tidy("fd", metric="image_auroc")])
    plans.write(tmp_path, factories.plan([factories.record()]))
    assert problems(tmp_path, of_tables) == []
    assert all("fd" not in text for text in tables_of(tmp_path).values())


def test_a_broken_file_of_published_numbers_costs_the_ledger_alone(
    tmp_path: Path, of_tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ValueError("published/mine.csv: column source is missing; see README.md there")

    monkeypatch.setattr(load.published, "read", broken)
    write_scores(tmp_path, write_run(tmp_path, [("bolt", 0)]))
    assert problems(tmp_path, of_tables) == [
        "Published numbers are left out: published/mine.csv: column source is missing; see README.md there."
    ]
    assert tables_of(tmp_path)


def test_seeds_that_are_no_longer_planned_leave_every_mean(tmp_path: Path, of_tables: Path) -> None:
    write_scores(tmp_path, write_run(tmp_path, [("bolt", 0), ("bolt", 1)]))
    plans.write(tmp_path, factories.plan([factories.record()]))
    assert problems(tmp_path, of_tables) == []
    text = tables_of(tmp_path)["per_category-toy-one_class-image_auroc-folder-label-all.md"]
    assert "one seed, so no standard deviation (seed 0)" in text and "90.0" in text and "90.5" not in text


def test_an_outdated_run_is_a_finding_and_enters_no_table(tmp_path: Path, of_tables: Path) -> None:
    write_scores(tmp_path, write_run(tmp_path, [("bolt", 0), ("bolt", 1)]))
    now = [factories.run(factories.record(seed=seed), fingerprint_parts={"method code": code})
           for seed, code in enumerate("ab")]  # fmt: skip
    plans.write(tmp_path, plans.make("s", now))
    (problem,) = problems(tmp_path, of_tables)
    assert "bolt-seed1 was made with another method code" in problem and problem.endswith("[stale]")
    text = tables_of(tmp_path)["per_category-toy-one_class-image_auroc-folder-label-all.md"]
    assert "1 of 2 seeds; seed 1: no finished run was scored" in text and "90.5" not in text


def test_a_damaged_plan_is_named_and_everything_stored_is_reported(tmp_path: Path, of_tables: Path) -> None:
    write_scores(tmp_path, write_run(tmp_path, [("bolt", 0)]))
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "suite.json").write_text("{")
    (problem,) = problems(tmp_path, of_tables)
    assert "suite.json is damaged" in problem and "All results that are stored enter the report" in problem
    assert tables_of(tmp_path)
