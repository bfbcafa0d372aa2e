"""Papers' tables: the layout as printed, the measured number under its published one, and why a cell is empty."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import factories
import pandas as pd
import pytest
import yaml

from reports import aggregate, published, tables, vocabulary
from reports.analysis import paper_tables, reproduction
from reports.build import build
from reports.specs import FOLDER

EVERY = published.read()
SPECIFIED = {
    path.stem: spec
    for path in FOLDER.glob("*.yaml")
    if (spec := yaml.safe_load(path.read_text())).get("from") == "papers"
}
TEACHER = "wide_resnet50_2.tv_in1k (ImageNet-1k)"
LOCO = ("breakfast_box", "juice_bottle", "pushpins", "screw_bag", "splicing_connectors")


def tidy(variant: str, dataset: str, category: str, seed: int, **other: Any) -> dict[str, Any]:
    cell = {"variant": variant, "dataset": dataset, "category": category, "seed": seed, "teacher": TEACHER}
    return factories.row(**{**cell, "value": 0.9 + seed / 500, "images": 10, "anomalous": 5, **other})


def loco(variant: str = "dskd", seeds: int = 2) -> list[dict[str, Any]]:
    """sPRO of a DSKD variant on all of LOCO."""
    about = {"metric": "spro", "convention": "saturated, FPR<=0.05, 256 px"}
    return [
        tidy(variant, "mvtec_loco", category, seed, subset=subset, **about)
        for category in LOCO for seed in range(seeds) for subset in ("logical", "structural")
    ]  # fmt: skip


def built(rows: list[dict[str, Any]], *specs: str) -> dict[str, tables.Table]:
    scores = aggregate.with_subset_mean(pd.DataFrame(rows))
    matches = reproduction.matches(EVERY, aggregate.aggregate(scores, factories.NO_PLAN), scores, [], factories.NO_PLAN)
    data = paper_tables.rows(EVERY, matches)
    return {t.title: t for name in specs for t in tables.tables(name, SPECIFIED[name], data, [], paper_tables.notes)}


def test_every_table_of_the_papers_of_our_methods_has_a_specification_that_finds_it() -> None:
    data = paper_tables.rows(EVERY, {})
    shown = pd.concat(vocabulary.select(data, spec)[0] for spec in SPECIFIED.values())
    assert not [problem for spec in SPECIFIED.values() for problem in vocabulary.select(data, spec)[1]]
    wanted = EVERY[(EVERY.variant != "") & (EVERY.kind == "paper")]
    assert {*zip(wanted.paper, wanted.table, strict=True)} <= {*zip(shown.paper, shown.table, strict=True)}
    assert {"RD++", "UniAD"} <= {*shown.method}


def test_measured_stands_under_published_in_the_order_of_the_paper() -> None:
    (table,) = built(loco(), "dskd_table_1").values()
    assert list(table.grid.columns) == [
        "breakfast_box", "screw_bag", "pushpins", "splicing_connectors", "juice_bottle", "mean"
    ]  # fmt: skip
    rows = list(table.grid.index)
    assert rows[0] == "AE" and rows[rows.index("dskd, published") + 1] == "dskd, measured"
    ours = table.grid.loc["dskd, measured"]
    assert ours["mean"].text == "90.1 ± 0.1" and "not comparable (budget)" in ours["mean"].note
    assert table.grid.loc["dskd, published", "mean"].text == "73.0"


def test_an_empty_cell_says_why() -> None:
    found = built(loco(), "dskd_table_2", "dskd_table_3", "dskd_table_4", "dskd_table_5")
    said = {
        (title.split(":")[0].split(", losses")[0], name): {cell.note for cell in table.grid.loc[name]}
        for title, table in found.items() for name in table.grid.index
    }  # fmt: skip
    assert said["DSKD, Table 2", "dskd, measured"] == {"not run; no finished run was scored"}
    assert said["DSKD, Table 3", "dskd, measured"] == {"there is no such data set here"}
    assert said["DSKD, Table 5", "dskd_pixel_pixel, measured"] == {"not in this suite"}
    assert not [title for title in found if "Table 4" in title]  # the suite has none of its variants


def test_a_suite_without_a_papers_variants_shows_none_of_its_tables() -> None:
    rows = [tidy("rd", "mvtec_ad", "screw", seed) for seed in (0, 1)]
    assert {title.split(",")[0] for title in built(rows, *SPECIFIED)} == {"RD", "ADer", "SNL", "AAND"}
    assert not built([tidy("rd", "toy", "cog", 0)], *SPECIFIED)


def test_what_no_source_gives_is_a_dash_that_says_so_beside_the_measured_number() -> None:
    (table, *_) = built([tidy("aand", "visa", "candle", seed) for seed in (0, 1)], "aand_tables").values()
    absent, measured = table.grid.loc["aand, published", "image AUROC"], table.grid.loc["aand, measured", "image AUROC"]
    assert absent.text == "\N{EN DASH}" and absent.note.startswith("absent: looked for in")
    assert measured.text == "90.1 ± 0.1" and not measured.note


def test_a_number_of_another_protocol_is_none_of_the_table() -> None:
    found = built([tidy("snl", "mvtec_ad", "screw", seed, protocol="multi_class") for seed in (0, 1)], "snl_results")
    cells = {
        title.split(" · ")[1][:9]: table.grid.loc["snl, measured", "image AUROC"] for title, table in found.items()
    }
    assert cells["multi_cla"].text == "90.1 ± 0.1"
    assert cells["one_class"].text == "\N{EN DASH}" and cells["one_class"].note == "measured under multi_class only"


def test_the_caption_says_how_the_published_numbers_came_about_and_where_they_were_read() -> None:
    (table,) = built([tidy("rd", "mvtec_ad", "screw", seed) for seed in (0, 1)], "rd_means").values()
    said = "\n".join(table.caption)
    assert "As published: teacher wide_resnet50_2.tv_in1k; selection last; epochs 200; image size in px 256;" in said
    assert "AUPRO: per_image, FPR<0.3, mask>0.5, 256 px" in said and "Read in: pages paperswithcode.com" in said
    assert "Convention: image AUROC: folder label" in said or "Convention: folder label" in said
    assert paper_tables.RULE in said
    assert list(table.grid.index) == ["rd, published", "rd, measured", "RD++"]  # papers as the specification lists them


def test_several_facets_may_share_an_axis() -> None:
    rows = [tidy("fd", "mvtec_ad", "screw", seed) for seed in (0, 1)]
    (table,) = built(rows, "fd_checkpoints").values()
    assert list(table.grid.columns)[:2] == ["image AUROC: fd, published", "image AUROC: fd, measured"]
    assert len(table.grid) == 16


def test_the_csv_gives_deviation_and_seeds_of_measured_numbers_alone(tmp_path: Path) -> None:
    (tmp_path / "scores").mkdir()
    pd.DataFrame(loco()).to_csv(tmp_path / "scores" / "dskd-mvtec_loco-one_class.csv", index=False)
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "t.yaml").write_bytes((FOLDER / "dskd_table_5.yaml").read_bytes())
    out = build(tmp_path, tmp_path / "build", tmp_path / "specs").parent
    (path,) = (out / "tables").glob("*.csv")
    with path.open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert rows["dskd, published"]["logical: seeds"] == "" and rows["dskd, measured"]["logical: seeds"] == "2"
    assert float(rows["dskd, measured"]["logical: std"]) == pytest.approx(0.0014142, abs=1e-6)
    assert rows["dskd_pixel_pixel, measured"]["logical"] == "\N{EN DASH}"
