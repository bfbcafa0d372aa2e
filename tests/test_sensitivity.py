"""Sensitivity to selection and convention: from known histories and known cells."""

from __future__ import annotations

from typing import Any

import factories
import pandas as pd
import pytest

from benchmarks.records import Record
from reports.aggregate import Cell
from reports.analysis import sensitivity
from reports.figures import draw
from reports.load import training

# By epoch: the best sum of both AUROCs is at 2, the lowest held-out anomaly at 1.
COURSE = [
    {"image_auroc": 0.70, "pixel_auroc": 0.80, "pixel_ap": 0.3, "validation": 0.1},
    {"image_auroc": 0.90, "pixel_auroc": 0.85, "pixel_ap": 0.2, "validation": 0.3},
    {"image_auroc": 0.80, "pixel_auroc": 0.90, "pixel_ap": 0.4, "validation": 0.2},
]


def record(split: str, seed: int, shift: float) -> dict[str, Any]:
    history = [
        {"epoch": epoch, "measured": {name: value + shift for name, value in measured.items()}}
        for epoch, measured in enumerate(COURSE, 1)
    ]
    return factories.record_content(split=split, seed=seed, history=history)


def quantities(records: list[dict[str, Any]], metric: str) -> dict[str, Cell]:
    rows = sensitivity.selections(
        training([Record.model_validate(r) for r in records], "measured").query("phase == ''")
    )
    rows = rows[rows.metric == metric]
    return dict(zip(rows.quantity, rows.cell, strict=True))


def test_every_metric_is_told_at_the_last_the_validated_and_the_best_epoch() -> None:
    runs = [record("a", 0, 0), record("a", 1, 0.02), record("b", 0, 0.04), record("b", 1, 0.06)]
    image = quantities(runs, "image_auroc")
    means = {name: cell.mean for name, cell in image.items()}
    assert means == pytest.approx({"last": 0.83, "validation": 0.73, "oracle (diagnostic)": 0.93, "oracle's gain": 0.1})
    assert image["last"].values == pytest.approx({0: 0.82, 1: 0.84})
    # The oracle's epoch is one for all metrics, so that it may cost another one.
    assert quantities(runs, "pixel_ap")["oracle's gain"].mean == pytest.approx(-0.2)


def test_only_epochs_that_were_evaluated_are_chosen_from() -> None:
    run = record("a", 0, 0)
    run["history"].insert(2, {"epoch": 4, "measured": {"validation": 0.0}})  # held-out images are looked at more often
    assert quantities([run], "image_auroc")["validation"].mean == pytest.approx(0.7)


def test_a_variant_that_held_no_image_out_says_why_it_has_no_validation() -> None:
    run = record("a", 0, 0)
    for epoch in run["history"]:
        del epoch["measured"]["validation"]
    found = quantities([run], "image_auroc")
    assert found["validation"].text == "\N{EN DASH}" and "no normal image was held out" in found["validation"].note
    assert found["oracle (diagnostic)"].mean == pytest.approx(0.9)


def test_without_evaluations_there_is_nothing_to_tell() -> None:
    silent = record("a", 0, 0) | {"history": [{"epoch": 1, "terms": {"loss": 1.0}}]}
    assert sensitivity.selections(training([Record.model_validate(silent)], "measured")).empty


def cells(values: dict[tuple[str, str], float]) -> pd.DataFrame:
    rows = [factories.row(variant=v, convention=c, value=value, metric="aupro") for (v, c), value in values.items()]
    return factories.cells(rows)


def test_the_ranking_is_told_under_each_convention() -> None:
    found = sensitivity.conventions(
        cells({("rd", "pooled"): 0.9, ("fd", "pooled"): 0.8, ("rd", "rescaled"): 0.91, ("fd", "rescaled"): 0.95})
    )
    said = {(row["variant"], row["convention"]): row["cell"].text for row in found.to_dict("records")}
    assert said["rd", "pooled"] == "90.0 (1)" and said["rd", "rescaled"] == "91.0 (2)"
    (axis,) = draw("conventions", found).figure.axes
    ranks = {line.get_label(): list(line.get_ydata()) for line in axis.get_lines()}
    assert ranks == {"RD": [1, 2], "FD": [2, 1]}


def test_a_metric_with_one_convention_is_not_listed() -> None:
    assert sensitivity.conventions(cells({("rd", "pooled"): 0.9, ("fd", "pooled"): 0.8})).empty
