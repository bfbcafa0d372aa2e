"""The leaderboards that a report begins with: order, places, who leads, and what became of published numbers."""

from __future__ import annotations

from typing import Any

import factories
import pandas as pd

from reports.aggregate import text_cell
from reports.analysis import significance, standings

VALUES = {"rd": 0.9, "fd": 0.8, "snl": 0.7}


def board(rows: list[dict[str, Any]], verdicts: dict[str, int] | None = None) -> standings.Leaderboard:
    """The only leaderboard of these tidy rows, with this many published numbers of each verdict."""
    cells = significance.highlight(factories.cells(rows), {})
    words = [word for word, count in (verdicts or {}).items() for _ in range(count)]
    entries = pd.DataFrame(
        [{"dataset": "toy", "protocol": "one_class", "quantity": "verdict", "cell": text_cell(w)} for w in words],
        columns=["dataset", "protocol", "quantity", "cell"],
    )
    (found,) = standings.leaderboards(cells, significance.ranks(cells), {}, entries)
    return found


def rows(categories: int, values: dict[str, float], **facets: Any) -> list[dict[str, Any]]:
    return [
        factories.row(variant=variant, category=f"c{i}", seed=seed, value=value + 0.001 * i + 0.002 * seed, **facets)
        for variant, value in values.items()
        for i in range(categories)
        for seed in (0, 1, 2)
    ]


def test_the_best_and_the_second_mean_are_marked_and_the_first_metric_decides_the_order() -> None:
    other = rows(2, {"rd": 0.6, "fd": 0.7, "snl": 0.8}, metric="pixel_auroc", convention="native size")
    found = board(rows(2, VALUES) + other)
    assert [column.metric for column in found.columns] == ["image_auroc", "pixel_auroc"]
    places = {row.name: [score.place for score in row.scores] for row in found.standings}
    assert places == {"rd": [1, 0], "fd": [2, 2], "snl": [0, 1]} and list(places) == ["rd", "fd", "snl"]


def test_a_variant_without_a_value_comes_last_and_has_no_place() -> None:
    found = board(
        [*rows(2, {"fd": 0.8, "rd": 0.9}), factories.row(variant="aand", category="c0", value=None, reason="x")]
    )
    assert [row.name for row in found.standings] == ["rd", "fd", "aand"]
    assert found.standings[-1].scores[0].place == 0


def test_the_lead_says_by_how_much_and_that_few_categories_cannot_decide() -> None:
    assert board(rows(3, VALUES)).lead == (
        "RD leads FD by 10.0 points of image AUROC. Over 3 categories no lead can be significant: that takes six."
    )


def test_a_significant_lead_is_said_and_bold() -> None:
    found = board(rows(8, VALUES))
    assert found.lead.endswith("Its lead over every other method is significant.")
    assert [row.scores[0].cell.bold for row in found.standings] == [True, False, False]


def test_one_variant_leads_nobody() -> None:
    assert board(rows(3, {"rd": 0.9})).lead == ""


def test_only_the_first_convention_and_all_anomalies_are_shown() -> None:
    first, second = (rows(2, VALUES, metric="aupro", convention=name) for name in ("pooled", "per image"))
    found = board(first + second + rows(2, {"rd": 0.1}, subset="logical"))
    assert found.columns == [standings.Column("aupro", "pooled")]


def test_verdicts_are_counted_with_the_reasons_why_numbers_are_not_comparable() -> None:
    verdicts = board(
        rows(2, VALUES),
        {"below": 2, "reproduced": 3, "not comparable (data)": 1, "not comparable (budget, data)": 1},
    ).verdicts
    assert verdicts.total == 7
    assert list(verdicts.counts.items()) == [("reproduced", 3), ("below", 2), ("not comparable", 2)]
    assert verdicts.reasons == {"data": 2, "budget": 1}
