"""The report: numbers, footnotes, files and the page, from results as results/README.md describes them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import factories
import numpy as np
import pandas as pd
import pytest

from benchmarks import plan as plans
from benchmarks import sources as code
from benchmarks.records import Record, sealed
from reports import aggregate, drawing, figures, specs, vocabulary
from reports.build import build, read, sources
from reports.figures import draw
from reports.load import training

SHORT = {
    "title": "{metric} {dataset} {protocol} {subset}",
    "each": ["dataset", "protocol", "metric", "subset"],
    "rows": "category",
    "columns": "variant",
}
CATEGORIES = ("bolt", "cloth", "tray")
TEACHER = "tiny.procedural (procedural images)"


def value_of(variant: str, category: str, seed: int, metric: str) -> float:
    return (
        0.9
        + 0.02 * (*CATEGORIES, category).index(category)
        + 0.01 * seed
        - 0.05 * (variant == "fd")
        - 0.1 * metric.startswith("pixel")
    )


def tidy(
    variant: str = "rd",
    protocol: str = "one_class",
    category: str = "bolt",
    seed: int = 0,
    metric: str = "aupro",
    **other: Any,
) -> dict[str, Any]:
    value = value_of(variant, category, seed, metric)
    cell = {"variant": variant, "protocol": protocol, "category": category, "seed": seed, "metric": metric}
    return factories.row(**{**cell, "value": value, **other})


def record(
    variant: str = "rd", protocol: str = "one_class", split: str = "bolt", seed: int = 0, **other: Any
) -> dict[str, Any]:
    about = {
        "variant": variant, "protocol": protocol, "split": split, "seed": seed, "selection": "last",
        "hyper_parameters": {"epochs": 5, "learning_rate": 0.005}, "paper": "Deng & Li, CVPR 2022",
        "source": "none found", "deviations": ["a <small> student"],
        "data": {"revision": "r", "train": 8, "validation": 0},
        "categories": {name: {"keys": []} for name in (CATEGORIES if split == "all" else (split,))},
        "history": [
            {"epoch": e, "seconds": 1.0, "terms": {"loss": 1 / (e + 1)}, "measured": measured(e)} for e in range(1, 6)
        ],
        "provenance": {
            "git_commit": "c" * 40, "git_dirty": False, "device": "cpu", "versions": {"torch": "2.1"},
            "test_images_per_second": 50.0,
        },
    }  # fmt: skip
    return factories.record_content(**{**about, **other})


def measured(epoch: int) -> dict[str, float]:
    return {"image_auroc": [0.7, 0.9, 0.8][epoch // 2 - 1]} if epoch in (2, 4) else {}


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    is_record = path.name == "record.json" and isinstance(content, dict)
    path.write_text(json.dumps(sealed(content) if is_record else content))


def write_scores(results: Path, rows: list[dict[str, Any]]) -> None:
    (results / "scores").mkdir(parents=True, exist_ok=True)
    for (variant, protocol), part in pd.DataFrame(rows).groupby(["variant", "protocol"]):
        part.to_csv(results / "scores" / f"{variant}-toy-{protocol}.csv", index=False)


def details(variant: str, protocol: str, category: str, seed: int) -> dict[str, Any]:
    images = [
        {
            "key": f"{category}/test/{'dent' if i % 2 else 'good'}/{i:03}",
            "defect": "dent" if i % 2 else "good",
            "anomalous": bool(i % 2),
            "score": i % 2 + i / 10 + seed / 100,
        }
        for i in range(8)
    ]
    curves = {"roc": {"fpr": [0, 0.25, 1], "tpr": [0, 1, 1]}, "pro": {"fpr": [0, 0.1, 0.3], "pro": [0, 0.6, 0.9]}}
    curves["spro"] = {"fpr": [0, 0.05, 1], "spro": [0, 0.8, 1]}
    place = {
        "variant": variant,
        "method": variant,
        "dataset": "toy",
        "protocol": protocol,
        "category": category,
        "seed": seed,
    }
    of_run = f"{variant}-toy-{protocol}/{category if protocol == 'one_class' else 'all'}-seed{seed}"
    return {**place, "record": f"results/predictions/{of_run}/record.json", "images": images, "curves": curves}


def write_results(results: Path) -> Path:
    """Two variants, two protocols, two seeds, three categories; fd lacks tray, seed 1, under one_class."""
    rng = np.random.default_rng(0)
    cells = [
        (v, p, c, s) for v in ("rd", "fd") for p in ("one_class", "multi_class") for c in CATEGORIES for s in (0, 1)
    ]
    cells.remove(("fd", "one_class", "tray", 1))
    write_scores(results, [tidy(*cell, metric) for cell in cells for metric in ("image_auroc", "pixel_auroc", "aupro")])
    for variant, protocol, category, seed in cells:
        split = category if protocol == "one_class" else "all"
        group = f"{variant}-toy-{protocol}"
        write_json(
            results / "predictions" / group / f"{split}-seed{seed}" / "record.json",
            record(variant, protocol, split, seed),
        )
        stem = results / "details" / group / f"{category}-seed{seed}"
        write_json(stem.with_suffix(".json"), details(variant, protocol, category, seed))
        keys = [f"{category}/test/{'dent' if i % 2 else 'good'}/{i:03}" for i in range(4)]
        images = rng.integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
        truth = np.zeros((4, 32, 32), bool)
        truth[1::2, 8:16, 8:16] = True
        maps = rng.random((8, 32, 32), dtype=np.float32)
        maps[:4] += truth
        np.save(results / "predictions" / group / f"{split}-seed{seed}" / f"{category}.maps.npy", maps)
        np.savez(stem.with_suffix(".npz"), keys=keys, images=images, truth=truth, maps=maps[:4])
        np.savez(stem.with_suffix(".extremes.npz"), keys=keys[2:], images=images[2:], truth=truth[2:])
    return results


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return build(write_results(folder / "results"), folder / "build").parent


def only_tables(folder: Path, rows: list[dict[str, Any]], spec: str = "") -> Path:
    """A report of scores and one spec, without figures."""
    write_scores(folder / "results", rows)
    (folder / "specs").mkdir()
    (folder / "specs" / "t.yaml").write_text(spec or json.dumps(SHORT))
    return build(folder / "results", folder / "build", folder / "specs").parent


def problems(report: Path) -> str:
    section = re.search(r'<section class="problems".*?</section>', (report / "index.html").read_text(), re.DOTALL)
    return section.group(0) if section else ""


def cells_of(rows: list[dict[str, Any]]) -> dict[tuple[str, str], aggregate.Cell]:
    cells = aggregate.aggregate(aggregate.with_subset_mean(pd.DataFrame(rows)), factories.NO_PLAN)
    return {(row["subset"], row["category"]): row["cell"] for row in cells.to_dict("records")}


def test_the_mean_averages_categories_within_a_seed_and_its_spread_is_that_of_the_seeds() -> None:
    values = {("a", 0): 0.2, ("a", 1): 0.4, ("b", 0): 0.6, ("b", 1): 1.0}
    mean = cells_of([tidy(category=c, seed=seed, value=v) for (c, seed), v in values.items()])["all", "mean"]
    assert mean.mean == pytest.approx(0.55)
    assert mean.std == pytest.approx(np.std([0.4, 0.7], ddof=1))
    assert mean.text == "55.0 ± 21.2"


def test_one_seed_has_no_standard_deviation() -> None:
    cell = cells_of([tidy(value=0.5)])["all", "bolt"]
    assert cell.text == "50.0" and np.isnan(cell.std)


def test_a_seed_that_lacks_a_category_has_no_mean_and_says_so() -> None:
    rows = [tidy(), tidy(seed=1), tidy(category="tray")]
    cells = cells_of(rows)
    assert list(cells["all", "mean"].values) == [0]
    assert cells["all", "mean"].note == "1 of 2 seeds; seed 1: no value for tray"
    assert cells["all", "tray"].note == "1 of 2 seeds; seed 1: no finished run was scored"


def test_a_category_that_nobody_can_score_leaves_the_mean_and_is_named() -> None:
    rows = [tidy(value=0.5), tidy(category="tray", value=np.nan, reason="no anomalous image")]
    cells = cells_of(rows)
    assert cells["all", "tray"].text == "\N{EN DASH}" and cells["all", "tray"].note == "no anomalous image"
    assert cells["all", "mean"].mean == 0.5 and "tray left out" in cells["all", "mean"].note


def test_logical_and_structural_anomalies_get_their_own_tables_and_one_for_their_mean(tmp_path: Path) -> None:
    rows = [tidy(subset=subset, value=value) for subset, value in (("all", 0.5), ("logical", 0.2), ("structural", 0.6))]
    cells = cells_of(rows)
    assert cells["mean of logical and structural", "bolt"].mean == pytest.approx(0.4)
    assert len(list((only_tables(tmp_path, rows) / "tables").glob("*.csv"))) == 4


def test_a_seed_that_is_planned_but_not_scored_is_missed() -> None:
    cells = factories.cells([tidy()], factories.plan([factories.record(), factories.record(seed=1)]))
    assert cells.cell[0].note == "1 of 2 seeds; seed 1: no finished run was scored"


def test_a_planned_variant_without_scores_has_a_column_that_says_why() -> None:
    elsewhere = factories.record(variant="aand", protocol="multi_class", split="all")
    runs = [factories.run(of) for of in (factories.record(), factories.record(variant="fd"), elsewhere)]
    unsupported = plans.Unsupported(variant="snl", dataset="toy", protocol="one_class", reason="it needs depth")
    cells = factories.cells([tidy()], plans.make("s", [*runs, unsupported]))
    notes = {row["variant"]: row["cell"].note for row in cells.to_dict("records") if row["category"] == "mean"}
    assert notes == {"rd": "", "snl": "it needs depth", "fd": "no finished run was scored"}


def test_conventions_never_share_a_table_and_selections_never_share_a_column(tmp_path: Path) -> None:
    rows = [
        tidy(convention=convention, selection=selection)
        for convention in ("pooled", "per image")
        for selection in ("last", "oracle")
    ]
    written = sorted((only_tables(tmp_path, rows) / "tables").glob("*.csv"))
    assert len(written) == 2
    header = written[0].read_text().splitlines()[0]
    assert "rd (last)" in header and "rd (oracle)" in header


def test_the_csv_gives_mean_deviation_and_seeds_as_fractions(report: Path) -> None:
    with (report / "tables" / "per_category-toy-one_class-image_auroc-folder-label-all.csv").open() as file:
        rows = {row["category"]: row for row in csv.DictReader(file)}
    assert list(rows) == [*CATEGORIES, "mean"]
    assert float(rows["bolt"]["rd"]) == pytest.approx(0.905)
    assert float(rows["bolt"]["rd: std"]) == pytest.approx(np.std([0.90, 0.91], ddof=1), abs=1e-6)
    assert rows["tray"]["fd: seeds"] == "1" and rows["tray"]["fd: std"] == ""


def test_markdown_prints_percent_footnotes_and_what_the_numbers_depend_on(report: Path) -> None:
    text = (report / "tables" / "per_category-toy-one_class-image_auroc-folder-label-all.md").read_text()
    assert "90.5 ± 0.7" in text
    assert re.search(r"\[a\] 1 of 2 seeds; seed 1: no finished run was scored", text)
    for said in (
        TEACHER,
        "Budget: 5 epochs",
        "Selection: last",
        "Convention: folder label",
        "2 seeds (seeds 0, 1)",
        "a <small> student",
    ):
        assert said in text


def test_latex_escapes_what_latex_would_read(tmp_path: Path) -> None:
    out = only_tables(tmp_path, [tidy(category="50%_a&b", seed=s, convention="FPR<=0.3") for s in (0, 1)])
    text = next((out / "tables").glob("*.tex")).read_text()
    assert r"50\%\_a\&b" in text and r"$\pm$" in text and r"\toprule" in text and "FPR$<$=0.3" in text
    assert not re.search(r"(?<!\\)[%#]", text)


def test_teachers_that_differ_are_named(tmp_path: Path) -> None:
    rows = [tidy(), tidy("fd", teacher="resnet18 (ImageNet-1k)")]
    text = next((only_tables(tmp_path, rows) / "tables").glob("*.md")).read_text()
    assert f"Teachers differ between variants: fd: resnet18 (ImageNet-1k); rd: {TEACHER}." in text


def test_training_is_told_by_epoch_and_term_and_the_best_epoch_on_the_test_images_only_beside_the_last() -> None:
    stage = {"history": [{"epoch": 1, "terms": {"focal": 2.0}, "measured": {"pixel_ap": 0.1}}]}
    rows = training([Record.model_validate(record("rd", "one_class", "cog", 0, amplification=stage))], "terms")
    assert rows[rows.phase == ""].value.tolist() == [1 / (epoch + 1) for epoch in range(1, 6)]
    assert rows[rows.phase == "amplification"][["epoch", "name", "value"]].values.tolist() == [[1, "focal", 2.0]]
    course = training([Record.model_validate(record("rd", "one_class", "cog", 0))], "measured")
    assert course[["epoch", "value"]].values.tolist() == [[2, 0.7], [4, 0.9]]
    (axis,) = draw("trajectory", course.assign(value=[0.9, 0.7])).figure.axes
    (label,) = [text.get_text() for text in axis.get_legend().get_texts()]
    assert label == "RD: last 70.0, best 90.0"


def test_every_figure_exists_as_svg_and_pdf(report: Path) -> None:
    names = {path.name.split("-")[0] for path in (report / "figures").glob("*.svg")}
    of_cells = {"bars", "heat_map", "protocol_gap", "critical_difference", "seeds", "costs"}
    assert names == of_cells | {"histograms", "roc", "pro", "spro", "qualitative", "losses", "trajectory"}
    assert all(path.with_suffix(".pdf").exists() for path in (report / "figures").glob("*.svg"))


def test_the_page_shows_what_was_built_and_each_problem_once(report: Path) -> None:
    text = (report / "index.html").read_text()
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', text) and "@import" not in text
    assert all((report / path).exists() for path in re.findall(r'href="((?:tables|figures)/[^"]+)"', text))
    assert "<img " not in text and len(list((report / "figures").glob("*.svg"))) > 10
    assert "a &lt;small&gt; student" in text and "ImageNet" not in text
    said = problems(report)
    assert said.count("<li>") == 1 and "fd has no score of tray with seed 1" in said


def test_a_second_build_writes_the_same_bytes(report: Path, tmp_path: Path) -> None:
    results = report.parent / "results"
    folder = tmp_path / "specs"
    folder.mkdir()
    for name in ("summary", "heat_map"):
        (folder / f"{name}.yaml").write_bytes((specs.FOLDER / f"{name}.yaml").read_bytes())
    first, second = (build(results, tmp_path / name, folder).parent for name in "ab")
    files = [path.relative_to(first) for path in first.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in files)


def test_a_figure_is_drawn_again_only_if_its_rows_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, folder = write_results(tmp_path / "results"), tmp_path / "specs"
    folder.mkdir()
    for name in ("bars", "summary"):
        (folder / f"{name}.yaml").write_bytes((specs.FOLDER / f"{name}.yaml").read_bytes())
    drawn: list[str] = []
    monkeypatch.setattr(figures, "draw", lambda name, data: drawn.append(name) or draw(name, data))
    pages = [build(results, tmp_path / "build", folder, cache=tmp_path / "cache") for _ in range(2)]
    assert drawn == ["bars"] and (pages[0].parent / "figures" / "bars-toy.pdf").exists()
    spec = (folder / "summary.yaml").read_text().replace("title: ", "title: A new title, ", 1)
    (folder / "summary.yaml").write_text(spec.replace('A new title, "', '"A new title, '))
    assert "A new title" in build(results, tmp_path / "build", folder, cache=tmp_path / "cache").read_text()
    assert drawn == ["bars"]
    write_scores(results, [tidy("rd", p, c, s, "image_auroc", value=0.5) for p in ("one_class", "multi_class")
                           for c in CATEGORIES for s in (0, 1)])  # fmt: skip
    build(results, tmp_path / "build", folder, cache=tmp_path / "cache")
    assert drawn == ["bars", "bars"]


def test_figures_are_drawn_where_their_cache_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    folder = tmp_path / "specs"
    folder.mkdir()
    (folder / "bars.yaml").write_bytes((specs.FOLDER / "bars.yaml").read_bytes())
    page = build(write_results(tmp_path / "results"), tmp_path / "build", folder, cache=tmp_path / "cache")
    assert (page.parent / "figures" / "bars-toy.svg").exists()
    assert "bars" not in problems(page.parent)


def test_a_figure_is_drawn_again_if_code_that_it_imports_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pd.DataFrame({"value": [1.0]})
    before = drawing.digest(drawing.Job("bars", rows))
    titles = "benchmarks.metrics.registry"  # a figure prints them
    assert titles in code.sources("reports.figures.bars")
    edited = {**code.sources("reports.figures.bars"), titles: "edited"}
    monkeypatch.setattr(drawing, "sources", lambda module: edited if module == "reports.figures.bars" else {})
    drawing._code.cache_clear()
    assert drawing.digest(drawing.Job("bars", rows)) != before
    drawing._code.cache_clear()


def test_no_results_still_give_a_page_that_says_so(tmp_path: Path) -> None:
    said = problems(build(tmp_path, tmp_path / "build").parent)
    assert "There are no scores" in said and "There are no finished runs" in said


def test_a_record_of_another_schema_is_left_out_and_named(tmp_path: Path) -> None:
    name = "rd-toy-one_class/bolt-seed0/record.json"
    write_json(tmp_path / "results" / "predictions" / name, record(schema=7))
    said = problems(only_tables(tmp_path, [tidy()]))
    assert f"predictions/{name} was left out: it is not a record of schema 2" in said and "have no link" in said


def test_scores_of_another_fit_are_reported(tmp_path: Path) -> None:
    write_json(tmp_path / "results" / "predictions" / "rd-toy-one_class/bolt-seed0/record.json", record())
    said = problems(only_tables(tmp_path, [tidy(fingerprint="old")]))
    assert "belong to another fit" in said


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"metric": ["image_aurok"]}, "unknown metric &#39;image_aurok&#39;"),
        ({"variant": ["rdd"]}, "unknown variant &#39;rdd&#39;. Did you mean &#39;rd&#39;?"),
        ({"colour": ["red"]}, "unknown `where` &#39;colour&#39;"),
    ],
)
def test_an_unknown_name_in_a_spec_is_reported(tmp_path: Path, where: dict[str, list[str]], said: str) -> None:
    spec = json.dumps(SHORT | {"where": where})
    assert said in problems(only_tables(tmp_path, [tidy()], spec))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"title": "t", "each": ["dataset", "metric", "subset"]}, "protocol must be in `each`"),
        ({"rows": "colour"}, "unknown `rows` or `columns` &#39;colour&#39;"),
        ({"figure": "bars", "from": "cells"}, "unknown entry &#39;columns&#39;"),
        ({"note": "x"}, "unknown entry &#39;note&#39;"),
    ],
)
def test_a_spec_that_cannot_be_read_is_reported(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    spec = json.dumps(SHORT | change)
    assert said in problems(only_tables(tmp_path, [tidy()], spec))


def test_an_unknown_figure_is_reported(tmp_path: Path) -> None:
    spec = json.dumps({"title": "t", "each": ["dataset"], "figure": "Path", "from": "cells"})
    said = problems(only_tables(tmp_path, [tidy()], spec))
    assert "unknown `figure` &#39;Path&#39;. Known: bars" in said


def test_a_broken_scores_file_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "results" / "scores").mkdir(parents=True)
    (tmp_path / "results" / "scores" / "broken.csv").write_text("variant,value\nrd,0.5\n")
    out = only_tables(tmp_path, [tidy()])
    assert "scores/broken.csv was left out: column method" in problems(out)
    assert list((out / "tables").glob("*.csv"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": "{metrc}"}, "`title` has {metrc}, which is not in `each`"),
        ({"title": "t", "each": ["dataset", "metric", "subset"]}, "protocol must be in `each`, `rows` or `columns`"),
        ({"where": {"metric": ["image_aurok"]}}, "unknown metric 'image_aurok'. Did you mean 'image_auroc'?"),
        ({"where": {"paper": ["RD"]}}, "'cells' has no facet 'paper'"),
        ({"from": "verdicts", "rows": "entry", "columns": "quantity"}, "'verdicts' has no facet"),
        ({"order": "first"}, "`order` must be a whole number, not 'first'"),
    ],
)
def test_a_mistake_in_a_spec_is_named_without_any_result(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (tmp_path / "wrong.yaml").write_text(json.dumps(SHORT | change))
    (problem,) = specs.check_all(tmp_path)
    assert message in problem


def test_every_source_has_the_facets_that_specs_are_checked_against(report: Path) -> None:
    data, _ = read(report.parent / "results", [])
    rows = sources(data)
    assert rows.keys() == specs.SOURCES.keys()
    for name, facets in specs.SOURCES.items():
        assert {*facets} == {column for column in rows[name]() if column in vocabulary.WHERE}, name


def test_every_shipped_spec_is_valid_and_one_that_is_not_is_named_without_building(tmp_path: Path) -> None:
    assert specs.check_all() == []
    (tmp_path / "wrong.yaml").write_text(json.dumps(SHORT | {"from": "cell"}))
    (tmp_path / "pie.yaml").write_text(
        json.dumps({"title": "t", "each": ["dataset"], "figure": "roq", "from": "cells"})
    )
    assert [problem.partition(" was left out: ")[2] for problem in specs.check_all(tmp_path)] == [
        "unknown `figure` 'roq'. Did you mean 'roc'?", "unknown `from` 'cell'. Did you mean 'cells'?",
    ]  # fmt: skip
