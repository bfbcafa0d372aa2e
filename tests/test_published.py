"""Published numbers: every one has a source and a known name, and means agree with their parts."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml

from benchmarks import datasets
from benchmarks.metrics.conventions import CONVENTIONS
from benchmarks.metrics.registry import METRICS
from reports import published
from reports.vocabulary import MEAN, PROTOCOLS

ROOT = Path(published.__file__).parent
SUITES = ROOT.parent / "benchmarks" / "suites"
EVERY = published.read()
NUMBERS = EVERY[EVERY.status != published.ABSENT]


def test_every_number_has_a_source_and_a_status() -> None:
    assert len(NUMBERS) > 2900
    for column in ("paper", "table", "kind", "source", "unit", "convention"):
        assert (NUMBERS[column] != "").all()
    assert NUMBERS.status.str.startswith(("read", "secondary", published.ABSENT)).all()


def test_every_number_is_a_fraction_and_stands_once() -> None:
    assert pd.to_numeric(NUMBERS.value).between(0, 1).all()
    key = [*published.PLACE, "category", "subset", "backbone", "unit"]
    assert not NUMBERS.duplicated(key).any()


def test_names_are_ours_where_they_are_ours() -> None:
    suites = [yaml.safe_load(path.read_text()) for path in SUITES.glob("*.yaml")]
    variants = {name for suite in suites for name in suite["methods"]}
    assert {*EVERY.variant} - {""} <= variants
    assert {*NUMBERS.metric} <= {*METRICS} and {*NUMBERS.protocol} <= {*PROTOCOLS}
    of_ours = NUMBERS[NUMBERS.variant != ""]
    assert {*of_ours.method} == {"rd", "fd", "snl", "dskd"}
    assert {*EVERY.method[EVERY.variant != ""]} == {"rd", "fd", "snl", "snl_fd", "aand", "dskd"}
    for dataset in {*NUMBERS.dataset} - {"mvtec_ad_logical_split"}:
        known = datasets.find(dataset).official_counts
        assert {*NUMBERS.category[NUMBERS.dataset == dataset]} <= {*known, MEAN}


def test_what_no_source_gives_says_where_it_was_looked_for_and_has_no_value() -> None:
    absent = EVERY[EVERY.status == published.ABSENT]
    assert {*absent.paper} == {"AAND (arXiv 2405.02068)", "SNL (arXiv 2402.17091)"}
    assert (absent.value == "").all() and absent.source.str.startswith("looked for in").all()
    assert (NUMBERS.value != "").all()


def test_the_tables_of_dskd_are_whole() -> None:
    rows = NUMBERS[NUMBERS.paper.str.startswith("DSKD")].groupby("table").size()
    # 11 methods by 5 categories and their mean; 11 by 3 subsets; that by two metrics; 4 and 3 variants by 3; 6 by 1.
    assert rows.to_dict() == {
        "Table 1": 66, "Table 2": 33, "Table 3": 66, "Table 4": 12, "Table 5": 9, "Table 6": 6
    }  # fmt: skip


def test_the_official_conventions_are_spelt_as_the_scores_spell_them() -> None:
    spelt = {CONVENTIONS[name].describe() for name in ("rd_official", "stfpm_official")}
    assert spelt <= {*NUMBERS.convention}


def test_only_two_printed_means_disagree_with_their_parts() -> None:
    assert sorted(published.disagreements(NUMBERS)) == [
        "DSKD (arXiv 2307.03101), Table 5, dskd_contextual_contextual, spro: mean of logical and structural printed "
        "0.708, by its parts 0.715",
        "anomalib, README benchmark, seed 42, wide_resnet50_2, rd, pixel_auroc: mean printed 0.969, by its parts 0.974",
    ]


def test_a_mean_that_its_parts_contradict_is_found_and_rounding_is_forgiven() -> None:
    row = dict.fromkeys(published.COLUMNS, "x")
    rows = [row | {"category": name, "value": value} for name, value in (("a", "0.90"), ("b", "0.95"))]
    for printed, found in (("0.93", 0), ("0.92", 0), ("0.95", 1)):
        assert (
            len([*published.disagreements(pd.DataFrame([*rows, row | {"category": "mean", "value": printed}]))])
            == found
        )


@pytest.mark.parametrize(
    ("column", "text", "said"), [("value", "about 0.9", "is not a number"), ("source", None, "column")]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, column: str, text: str | None, said: str) -> None:
    row = dict.fromkeys(published.COLUMNS, "x") | {"value": "0.9"} | {column: text}
    pd.DataFrame([{k: v for k, v in row.items() if v is not None}]).to_csv(tmp_path / "mine.csv", index=False)
    with pytest.raises(ValueError, match=rf"mine\.csv.*{said}"):
        published.read(tmp_path)
