"""Significance: known answers, and that chance does not count as a difference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import factories
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.metrics.registry import METRICS, Metric
from reports import tables
from reports.analysis import significance
from reports.figures import critical_difference
from reports.render import latex, text

PLACE = {"dataset": "d", "protocol": "one_class", "category": "a"}


def details(variant: str, seed: int, scores: np.ndarray, **place: str) -> dict[str, Any]:
    """A cell whose first half of images is normal."""
    half = len(scores) // 2
    images = [{"key": f"{i}", "anomalous": i >= half, "score": float(score)} for i, score in enumerate(scores)]
    return PLACE | place | {"variant": variant, "seed": seed, "details": {"images": images}}


def noisy(strength: float, seed: int, count: int = 60) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.r_[np.zeros(count // 2), np.full(count // 2, strength)] + rng.normal(size=count)


def cells(gap: float, categories: int = 8, seeds: int = 3, metric: str = "image_auroc") -> pd.DataFrame:
    """Variants x and y on some categories; x is better by `gap`, more or less."""

    def value(variant: str, c: int, seed: int) -> float:
        return 0.8 + 0.01 * c + (gap * (1 + c / 10) if variant == "x" else 0) + 0.0001 * seed

    rows = [
        factories.row(
            variant=variant, dataset="d", category=f"c{c}", seed=seed, metric=metric, value=value(variant, c, seed)
        )
        for variant in ("x", "y") for c in range(categories) for seed in range(seeds)
    ]  # fmt: skip
    return factories.cells(rows)


def test_holm_agrees_with_the_procedure_by_hand() -> None:
    assert significance.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert significance.holm([0.9, 0.8]) == pytest.approx([1, 1])


def test_bootstrap_samples_centre_on_the_auroc_and_spread_as_its_theory_says() -> None:
    scores = [noisy(1, seed, 200) for seed in range(2)]
    rows = pd.DataFrame([details("x", seed, values) for seed, values in enumerate(scores)])
    drawn = significance.auroc_samples(rows)["d", "one_class", "a", "x"]
    truth = np.repeat([False, True], 100)
    assert drawn.mean() == pytest.approx(np.mean([roc_auc_score(truth, s) for s in scores]), abs=0.01)
    # Hanley and McNeil (1982): about 0.034 for one model with this AUROC; the mean of two independent ones lies below.
    assert 0.015 < drawn.std() < 0.045


def test_the_same_images_are_drawn_for_all_variants() -> None:
    rows = pd.DataFrame([details(v, seed, noisy(1, 0)) for v in ("x", "y") for seed in (0, 1)])
    samples = significance.auroc_samples(rows)
    assert np.array_equal(samples["d", "one_class", "a", "x"], samples["d", "one_class", "a", "y"])


def test_ties_count_half_and_images_are_matched_by_name() -> None:
    tied = details("x", 0, np.ones(20))
    shuffled = details("x", 1, np.arange(20.0))
    shuffled["details"]["images"].reverse()
    drawn = significance.auroc_samples(pd.DataFrame([tied, shuffled]))["d", "one_class", "a", "x"]
    assert {*drawn.round(9)} == {0.5, 1.0}  # by the seed drawn


def test_one_seed_or_one_kind_of_image_gives_no_samples() -> None:
    one_seed = details("x", 0, noisy(1, 0))
    assert not significance.auroc_samples(pd.DataFrame([one_seed]))
    for image in one_seed["details"]["images"]:
        image["anomalous"] = False
    assert not significance.auroc_samples(pd.DataFrame([one_seed, one_seed | {"seed": 1}]))


def test_what_was_predicted_on_other_images_is_not_paired() -> None:
    rows = [details(variant, seed, noisy(1, seed)) for variant in ("x", "y") for seed in (0, 1)]
    for row in rows[2:]:
        row["details"]["images"] = row["details"]["images"][:50]
    assert {key[-1] for key in significance.auroc_samples(pd.DataFrame(rows))} == {"x"}


def test_a_category_is_bold_only_where_images_and_seeds_tell_the_variants_apart() -> None:
    def bold(strength: float) -> set[tuple[str, str]]:
        rows = [details("x", seed, noisy(strength, seed), category="c0") for seed in range(3)]
        rows += [details("y", seed, noisy(0.5, seed + 10), category="c0") for seed in range(3)]
        marked = significance.highlight(cells(0.1, categories=3), significance.auroc_samples(pd.DataFrame(rows)))
        return {(row["variant"], row["category"]) for row in marked.to_dict("records") if row["cell"].bold}

    assert bold(3.0) == {("x", "c0")}
    assert bold(0.5) == set()


def test_the_mean_is_bold_only_with_enough_categories() -> None:
    def bold(gap: float, categories: int) -> set[str]:
        marked = significance.highlight(cells(gap, categories), {})
        return {row["category"] for row in marked.to_dict("records") if row["cell"].bold}

    assert bold(0.01, categories=8) == {"mean"}
    assert bold(0.01, categories=5) == set()  # the smallest two-sided p of five pairs is 1/16
    assert bold(0.0, categories=8) == set()


def test_of_a_metric_where_lower_is_better_the_lowest_mean_is_bold_and_has_rank_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(METRICS, "error", Metric("error", "image", lambda *_: 0.0, "lower", (0, float("inf"))))
    lower = cells(0.01, metric="error")  # y is better
    bold = significance.highlight(lower, {})
    assert {(row["variant"], row["cell"].text) for row in bold.to_dict("records") if row["cell"].bold} == {
        ("y", "0.8351 ± 0.0001")
    }
    ranks = significance.ranks(lower).drop_duplicates("variant").set_index("variant")
    assert ranks["rank"].to_dict() == {"x": 2, "y": 1}


def test_fewer_than_three_seeds_are_never_bold() -> None:
    for seeds in (1, 2):
        marked = significance.highlight(cells(0.1, categories=8, seeds=seeds), {})
        assert not any(cell.bold for cell in marked.cell)


def test_bold_reaches_markdown_latex_and_the_caption() -> None:
    spec = {"title": "t", "each": ["dataset", "protocol", "metric", "subset"], "rows": "category", "columns": "variant"}
    (table,) = tables.tables("t", spec, significance.highlight(cells(0.01), {}), [])
    assert "**" in text.markdown(table) and r"\textbf{" in latex.latex(table)
    assert tables.BOLD in table.caption
    (plain,) = tables.tables("t", spec, significance.highlight(cells(0.0), {}), [])
    assert tables.BOLD not in plain.caption


def test_pairs_are_compared_by_images_and_by_categories() -> None:
    rows = [details(v, s, noisy(1 + (v == "x"), s), category=f"c{c}") for v in "xy" for s in range(2) for c in range(8)]
    pairs = significance.comparisons(cells(0.05), significance.auroc_samples(pd.DataFrame(rows)))
    said = dict(zip(pairs.quantity, [cell.text for cell in pairs.cell], strict=True))
    assert {*pairs.entry} == {"x - y"} and said["difference"].startswith("+6") and said["categories"] == "8"
    assert said["p, Wilcoxon"] == "0.008"  # 2 / 2**8
    low, high = (float(part) for part in said["95% interval"].split(" to "))
    assert 0 < low < high and float(said["p, images and seeds"].strip("<")) < 0.05


def test_ranks_average_over_categories_and_know_who_cannot_be_told_apart() -> None:
    ranks = significance.ranks(cells(0.05)).drop_duplicates("variant").set_index("variant")
    assert ranks["rank"].to_dict() == {"x": 1, "y": 2}
    assert ranks.tied.to_dict() == {"x": ["x"], "y": ["y"]}
    even = significance.ranks(cells(0.0)).drop_duplicates("variant").set_index("variant")
    assert even["rank"].to_dict() == {"x": 1.5, "y": 1.5} and even.tied["x"] == ["x", "y"]
    assert significance.ranks(cells(0.05, categories=1)).empty


def test_a_bar_joins_variants_that_are_alike_and_no_others(tmp_path: Path) -> None:
    def bars(gap: float) -> int:
        (axis,) = critical_difference.draw(significance.ranks(cells(gap))).figure.axes
        return sum(line.get_linewidth() == 3 for line in axis.get_lines())

    assert bars(0.0) == 1 and bars(0.05) == 0
