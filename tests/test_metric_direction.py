"""A metric of which lower values are better, without an upper bound: ranks, text, checks and figures."""

from __future__ import annotations

import math

import factories
import pandas as pd
import pytest

from benchmarks.metrics.registry import METRICS, Metric
from reports import aggregate, figures, tables
from reports.analysis import checks, reproduction, sensitivity
from reports.published import COLUMNS
from reports.render import text

SPEC = {"title": "{metric}", "each": ["dataset", "protocol", "subset"], "rows": "category", "columns": ["variant"]}


@pytest.fixture(autouse=True)
def error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers the metric `error`."""
    monkeypatch.setitem(METRICS, "error", Metric("error", "image", lambda *_: 0.0, "lower", (0, math.inf)))


def cells(protocols: tuple[str, ...] = ("one_class",), conventions: tuple[str, ...] = ("a",)) -> pd.DataFrame:
    """fd has the error 12.5, rd has 2.5 or 3.5 by the seed; ten times as much under multi-class."""
    rows = [
        factories.row(variant=v, protocol=p, category=c, seed=seed, metric="error", convention=how,
                      value=(value + seed) * (10 if p == "multi_class" else 1))
        for v, value in (("rd", 2.5), ("fd", 12.0)) for p in protocols for c in ("bolt", "tray") for seed in (0, 1)
        for how in conventions
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_values_are_printed_in_their_own_unit_and_the_caption_states_the_direction() -> None:
    spec = SPEC | {"where": {"metric": ["error"]}}
    (table,) = tables.tables("t", spec, aggregate.aggregate(cells(), factories.NO_PLAN), [])
    markdown = text.markdown(table)
    assert "3 ± 0.7071" in markdown and "12.5 ± 0.7071" in markdown
    assert "In the metric's own unit; mean" in markdown and "Lower is better: error." in markdown


def test_a_value_above_one_is_possible_and_a_negative_one_is_a_finding() -> None:
    assert not list(checks.out_of_range(cells()))
    (finding,) = checks.out_of_range(pd.DataFrame([factories.row(metric="error", value=-1.0)]))
    assert "error of bolt, seed 0 is -1.0, outside [0, inf]" in finding.message


def test_the_lowest_mean_has_rank_one_under_each_convention() -> None:
    ranked = sensitivity.conventions(aggregate.aggregate(cells(conventions=("a", "b")), factories.NO_PLAN))
    assert {(row["variant"], row["rank"]) for row in ranked.to_dict("records")} == {("rd", 1), ("fd", 2)}


def test_a_published_number_is_compared_in_the_metrics_unit() -> None:
    number = dict.fromkeys(COLUMNS, "") | {
        "paper": "P", "variant": "rd", "dataset": "toy", "protocol": "one_class", "category": "bolt", "subset": "all",
        "metric": "error", "value": "3.1", "unit": "fraction", "epochs": "5",
    }  # fmt: skip
    numbers, measured = pd.DataFrame([number]), aggregate.aggregate(cells(), factories.NO_PLAN)
    matches = reproduction.matches(numbers, measured, cells(), [factories.record()], factories.NO_PLAN)
    entries = reproduction.entries(numbers, matches)
    printed = dict(zip(entries.quantity, [cell.text for cell in entries.cell], strict=True))
    assert printed["published"] == "3.1" and printed["difference"] == "-0.1" and printed["verdict"] == "reproduced"


@pytest.mark.parametrize("name", ["bars", "seeds", "heat_map"])
def test_figures_draw_it_in_its_own_unit(name: str) -> None:
    rows = aggregate.aggregate(cells(), factories.NO_PLAN)
    rows = rows if name == "heat_map" else rows.query("category == 'mean'")
    figure = figures.draw(name, rows).figure
    axis = figure.axes[0]
    if name == "bars":
        assert sorted(bar.get_height() for bar in axis.patches) == [3.0, 12.5]
    elif name == "seeds":
        assert {2.5, 3.5} <= {float(x) for line in axis.get_lines() for x in line.get_xdata()}
    else:
        assert {label.get_text() for label in axis.texts} == {"3", "12.5"}


def test_the_category_that_loses_most_is_at_the_top_of_the_protocol_gap() -> None:
    both = cells(("one_class", "multi_class"))
    both.loc[(both.category == "tray") & (both.protocol == "multi_class"), "value"] = 500.0
    rows = aggregate.aggregate(aggregate.with_protocol_difference(both), factories.NO_PLAN)
    axis = figures.draw("protocol_gap", rows).figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["tray", "bolt", "mean"]


def test_the_best_epoch_is_the_lowest() -> None:
    course = pd.DataFrame([
        {"variant": "rd", "split": "bolt", "seed": 0, "epoch": epoch, "name": "error", "value": value}
        for epoch, value in ((1, 5.0), (2, 3.0), (3, 4.0))
    ])  # fmt: skip
    (axis,) = figures.draw("trajectory", course).figure.axes
    (label,) = [entry.get_text() for entry in axis.get_legend().get_texts()]
    assert label == "RD: last 4.0, best 3.0"
