"""Reproduction: which published numbers it covers, what it calls comparable, and the rule of its verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import factories
import numpy as np
import pandas as pd
import pytest

from benchmarks.records import Record
from reports import published, specs
from reports.aggregate import Cell
from reports.analysis import reproduction
from reports.build import build

TEACHER = "wide_resnet50_2.tv_in1k (ImageNet-1k)"
NUMBER = dict.fromkeys(published.COLUMNS, "") | {
    "paper": "P", "table": "1", "method": "rd", "variant": "rd", "backbone": "wide_resnet50_2", "dataset": "mvtec_ad",
    "protocol": "one_class", "category": "screw", "subset": "all", "metric": "image_auroc", "selection": "last",
    "epochs": "200", "image_size": "256", "value": "0.970", "unit": "fraction", "status": "read", "source": "S",
}  # fmt: skip


def rows(values: list[float], **other: Any) -> list[dict[str, Any]]:
    """A tidy row for each seed of RD on screw, whose images are the official ones."""
    about = {"dataset": "mvtec_ad", "category": "screw", "teacher": TEACHER, "images": 160, "anomalous": 119}
    return [factories.row(**{**about, "seed": seed, "value": value, **other}) for seed, value in enumerate(values)]


def record(epochs: int = 200, train: int = 320, **other: Any) -> Record:
    about = {"hyper_parameters": {"epochs": epochs, "image_size": 256}, "data": {"train": train}}
    return factories.record(**{"dataset": "mvtec_ad", "split": "screw", **about, **other})


def entries(number: dict[str, str], measured: list[dict[str, Any]], *records: Record) -> pd.DataFrame:
    scores = pd.DataFrame(measured)
    cells = factories.cells(measured)
    return listed(pd.DataFrame([NUMBER | number]), cells, scores, records or [record()], factories.NO_PLAN)


def listed(numbers: pd.DataFrame, *results: Any) -> pd.DataFrame:
    return reproduction.entries(numbers, reproduction.matches(numbers, *results))


def verdict_of(number: dict[str, str], measured: list[dict[str, Any]], *records: Record) -> Cell:
    found = entries(number, measured, *records)
    (cell,) = found.cell[found.quantity == "verdict"]
    return cell


@pytest.mark.parametrize(("train", "is_official"), [(360, True), (354, True), (355, False)])
def test_the_images_of_an_earlier_release_are_official_too(train: int, is_official: bool) -> None:
    place = {"dataset": "mvtec_loco", "category": "splicing_connectors"}
    number = place | {"backbone": "", "epochs": "200", "image_size": "256"}
    run = record(train=train, dataset="mvtec_loco", split="splicing_connectors")
    cell = verdict_of(number, rows([0.97, 0.9701], **place, images=312, anomalous=193), run)
    assert ("data" in cell.note) != is_official


def test_a_published_number_within_the_prediction_interval_of_one_more_seed_is_reproduced() -> None:
    values = [0.968, 0.970, 0.973]
    half = 4.302653 * np.std(values, ddof=1) * np.sqrt(4 / 3) + 0.0005
    cell = Cell(float(np.mean(values)), float(np.std(values, ddof=1)), dict(enumerate(values)), "", ())
    inside, outside = np.mean(values) + half - 0.0006, np.mean(values) + half + 0.0006
    assert reproduction.verdict(f"{inside:.3f}", cell) == ("reproduced", pytest.approx(half, abs=1e-6))
    assert reproduction.verdict(f"{outside:.3f}", cell)[0] == "below"
    assert reproduction.verdict(f"{2 * np.mean(values) - outside:.3f}", cell)[0] == "above"


def test_one_seed_gives_no_verdict_however_close() -> None:
    assert verdict_of({}, rows([0.970])).word == "no verdict (one seed)"


def test_a_tolerance_that_would_call_anything_reproduced_gives_no_verdict() -> None:
    assert verdict_of({}, rows([0.96, 0.98])).word == "no verdict (tolerance too wide)"
    assert verdict_of({}, rows([0.20, 0.21])).word == "below"


def test_rounding_alone_never_makes_a_difference() -> None:
    assert verdict_of({"value": "0.97"}, rows([0.9651, 0.9651])).word == "reproduced"


@pytest.mark.parametrize(
    ("number", "measured", "run", "kind"),
    [
        ({"protocol": "multi_class"}, {}, record(), "protocol"),
        ({"metric": "aupro", "convention": "a"}, {"metric": "aupro", "convention": "b"}, record(), "convention"),
        ({"metric": "aupro"}, {"metric": "aupro", "convention": "pooled"}, record(), "convention"),
        ({"selection": "oracle"}, {}, record(), "selection"),
        ({"backbone": "resnet18"}, {}, record(), "teacher"),
        ({"backbone": "wide_resnet50_2.racm_in1k"}, {}, record(), "teacher"),
        ({}, {}, record(epochs=20), "budget"),
        ({"epochs": ""}, {}, record(), "budget"),
        ({"image_size": "224"}, {}, record(), "budget"),
        ({}, {"anomalous": 100}, record(), "data"),
        ({}, {}, record(train=300), "data"),
        ({"category": "mean"}, {}, record(), "data"),
    ],
)  # fmt: skip
def test_what_differs_is_named(number: dict[str, str], measured: dict[str, Any], run: Record, kind: str) -> None:
    cell = verdict_of(number, rows([0.97, 0.971], **measured), run)
    assert cell.word == f"not comparable ({kind})" and cell.note.startswith(f"{kind}: ")


def test_what_a_source_does_not_state_does_not_count_as_different() -> None:
    unstated = {"selection": "", "backbone": "", "image_size": "", "convention": "not stated", "metric": "pixel_auroc"}
    measured = rows([0.970, 0.9702], metric="pixel_auroc", convention="mask>0, 256 px", selection="validation")
    assert verdict_of(unstated, measured).word == "reproduced"


def test_a_method_without_epochs_compares_with_a_number_without_epochs_and_with_no_other() -> None:
    without = record(hyper_parameters={"image_size": 256})
    assert verdict_of({"epochs": ""}, rows([0.970, 0.9702]), without).word == "reproduced"
    assert verdict_of({}, rows([0.970, 0.9702]), without).note == (
        "budget: no epochs, 256 px instead of 200 epochs, 256 px"
    )


def test_the_words_of_a_difference_name_what_the_source_states_and_no_more() -> None:
    unstated = {"epochs": "", "image_size": ""}
    assert verdict_of(unstated, rows([0.97, 0.971])).note == (
        "budget: 200 epochs instead of an unstated number of epochs"
    )
    assert verdict_of({"category": "mean"}, rows([0.97, 0.971])).note == "data: 1 of 15 categories"
    few = verdict_of({}, rows([0.97, 0.971], anomalous=100, images=120), record(train=300)).note
    assert few == (
        "data: screw has 300 training images (official 320); "
        "screw has 20 normal test images (official 41), 100 anomalous test images (official 119)"
    )


def test_one_model_of_all_categories_is_said_to_learn_from_all_their_images() -> None:
    many = record(train=700, protocol="multi_class", split="all")
    cell = verdict_of({"protocol": "multi_class"}, rows([0.97, 0.971], protocol="multi_class"), many)
    assert cell.note == "data: one model was trained on 700 training images (official 3629)"


def test_image_labels_that_a_source_takes_from_masks_are_told() -> None:
    cell = verdict_of({"convention": "label of the resized mask"}, rows([0.970, 0.9701]))
    assert cell.word == "reproduced" and cell.note == "the source takes the label of the resized mask"


def test_a_number_that_no_source_gives_is_not_listed_and_is_no_error() -> None:
    assert entries({"value": "", "status": "absent"}, rows([0.97, 0.971])).empty


def test_a_published_number_keeps_its_digits() -> None:
    printed = {"0.600": "60.0", "0.97": "97", "1.0": "100", "0.990292": "99.0292"}
    assert {value: reproduction.printed(NUMBER | {"value": value}) for value in printed} == printed
    assert reproduction.printed(NUMBER | {"value": "0.039", "unit": "gain over another"}) == "+3.9"


def test_of_several_conventions_the_one_of_the_source_is_compared() -> None:
    named = {"metric": "aupro", "convention": "per_image, FPR<0.3"}
    both = rows([0.5, 0.5], metric="aupro", convention="pooled, FPR<=0.3, 256 px")
    both += rows([0.97, 0.97], metric="aupro", convention="per_image, FPR<0.3, 256 px")
    assert verdict_of(named, both).word == "reproduced"


def test_a_gain_is_printed_and_compared_with_nothing() -> None:
    found = entries({"value": "0.039", "unit": "gain over the best rival"}, rows([0.97, 0.97]))
    words = dict(zip(found.quantity, [cell.text for cell in found.cell], strict=True))
    assert words["published"] == "+3.9" and words["measured"] == "\N{EN DASH}"
    assert words["verdict"] == "not comparable (gain)"


def test_only_what_the_suite_covers_is_listed_and_what_it_plans_is_not_run() -> None:
    numbers = pd.DataFrame([NUMBER, NUMBER | {"category": "pill"}, NUMBER | {"variant": "dskd"}])
    cells = factories.cells(rows([0.97, 0.97]))
    scores = pd.DataFrame(rows([0.97, 0.97]))
    assert {*listed(numbers, cells, scores, [record()], factories.NO_PLAN).category} == {"screw"}
    plan = factories.plan([record(split="pill")])
    found = listed(numbers, cells, scores, [record()], plan)
    assert {*found.category} == {"screw", "pill"} and {*found.variant} == {"rd"}
    (pill,) = found.cell[(found.category == "pill") & (found.quantity == "verdict")]
    assert pill.word == "not run"


def test_the_report_prints_the_comparison_its_rule_and_the_tally(tmp_path: Path) -> None:
    (tmp_path / "scores").mkdir()
    pd.DataFrame(rows([0.989, 0.9892])).to_csv(tmp_path / "scores" / "rd-mvtec_ad-one_class.csv", index=False)
    (tmp_path / "specs").mkdir()
    for name in ("reproduction", "verdicts"):
        (tmp_path / "specs" / f"{name}.yaml").write_text((specs.FOLDER / f"{name}.yaml").read_text())
    out = build(tmp_path, tmp_path / "build", tmp_path / "specs").parent
    (written,) = (out / "tables").glob("reproduction-*TUK*.md")
    assert " 98.9 [a] |" in written.read_text() and "not comparable (budget, data)" in written.read_text()
    assert reproduction.RULE[0] in written.read_text()
    (table,) = (out / "tables").glob("reproduction-*TUK*.csv")
    line = pd.read_csv(table).set_index("entry").loc["rd, screw, image AUROC"]
    assert line["published"] == "0.989" or float(line["published"]) == 0.989
    assert float(line["measured"]) == pytest.approx(0.9891) and int(line["seeds"]) == 2
    tally = pd.read_csv(out / "tables" / "verdicts-mvtec_ad-one_class.csv").set_index("entry")
    assert tally.loc["TUK (rerun of RD), last epoch (200), seed 111", "not comparable"] == 2
