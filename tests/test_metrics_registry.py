"""The registry: a new metric is a function and a row, whatever its level, direction and bounds."""

import doctest
import importlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.datasets.base import Truth
from benchmarks.metrics.conventions import CONVENTIONS, Convention
from benchmarks.metrics.detection import UndefinedMetric
from benchmarks.metrics.localization import Pixels
from benchmarks.metrics.registry import METRICS, Metric
from benchmarks.scoring import score
from benchmarks.submissions.schema import Value


def test_names_say_the_level_and_every_value_of_a_metric_today_is_a_fraction_where_higher_is_better():
    for name, metric in METRICS.items():
        assert name.startswith(f"{metric.level}_") or metric.level == "region"
        assert metric.is_fraction and metric.direction == "higher"


def mean_gap(labels: np.ndarray, scores: np.ndarray) -> float:
    """How far anomalous images score below normal ones in the mean."""
    if labels.all():
        raise UndefinedMetric("no normal image")
    return float(scores[~labels].mean() - scores[labels].mean())


def false_mass(pixels: Pixels) -> float:
    """A function of maps and truth that no ranking gives."""
    mass = [one.sum() for one in pixels.maps]
    return float(sum(mass) - sum(one.ravel()[of].sum() for one, of in split(pixels)))


def split(pixels: Pixels) -> list[tuple[np.ndarray, np.ndarray]]:
    starts, defect = pixels.truth.starts, pixels.truth.defect
    return [
        (one, defect[(defect >= a) & (defect < a + one.size)] - a) for one, a in zip(pixels.maps, starts, strict=False)
    ]


def missed_regions(pixels: Pixels, convention: Convention) -> float:
    """Regions of which nothing scores above the limit of the false-positive rate."""
    ranking, truth = pixels.ranking, pixels.truth
    found = ranking.order[ranking.at_or_above <= convention.fpr_limit * ranking.negatives]
    return float(len(truth.saturation) - len(np.unique(truth.region[np.isin(truth.member, found)])))


NEW = {
    "image_gap": Metric("gap", "image", mean_gap, "lower", (-np.inf, np.inf)),
    "pixel_false_mass": Metric("false mass", "pixel", false_mass, "lower", (0, np.inf)),
    "missed_regions": Metric("missed regions", "region", missed_regions, "lower", (0, np.inf), under=("pooled",)),
}


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, metric in NEW.items():
        monkeypatch.setitem(METRICS, name, metric)


def rows(*conventions: str, anomalous: tuple[bool, ...] = (False, True)) -> list[dict]:
    masks = [np.zeros((3, 5), bool) for _ in anomalous]
    for mask, of in zip(masks, anomalous, strict=True):
        mask[0, :2] = mask[2, 3] = of
    truths = [Truth(bool(mask.any()), mask, (), "anomalous" if mask.any() else "good") for mask in masks]
    maps = np.arange(len(masks) * 15, dtype=np.float32).reshape(-1, 3, 5)
    cell = score.CellPredictions(
        {"category": "c"}, ["k"] * len(masks), np.array([70, 4, 5][: len(masks)], np.float32), maps
    )
    return list(score.category_rows(truths, [cell], [CONVENTIONS[name] for name in conventions]))


def test_a_new_metric_lower_better_and_unbounded_is_scored_at_every_level(registered: None) -> None:
    found = {(row["metric"], row["convention"]): row["value"] for row in rows("default", "map_size", "rd_official")}
    assert found["image_gap", "folder label"] == 66
    # Defect pixels of the second image have the values 15, 16 and 28; all pixels 0 to 29.
    assert found["pixel_false_mass", "native size"] == sum(range(30)) - 15 - 16 - 28
    assert ("pixel_false_mass", "mask>0.5, 256 px") in found
    assert found["missed_regions", "pooled, FPR<=0.3, native size"] == 1
    assert ("missed_regions", "pooled, FPR<=0.3, mask>0, size of the maps") in found
    assert len([1 for metric, _ in found if metric == "missed_regions"]) == 2, "none under PRO per image"


def test_a_new_metric_that_is_undefined_has_a_row_with_its_reason(registered: None) -> None:
    (row,) = (row for row in rows("default", anomalous=(True, True)) if row["metric"] == "image_gap")
    assert (row["value"], row["reason"]) == (None, "no normal image")


def test_a_claimed_value_lies_within_the_bounds_of_its_metric(registered: None) -> None:
    about = {"category": "c", "convention": "x", "seed": 0}
    assert Value(metric="image_gap", value=-1234.5, **about).value == -1234.5
    for metric, value in (("image_auroc", 1.5), ("pixel_false_mass", -1.0), ("image_gap", float("inf"))):
        with pytest.raises(ValueError, match=r"must be in|finite"):
            Value(metric=metric, value=value, **about)


@pytest.mark.parametrize("module", ["resize", "detection", "localization", "pro"])
def test_the_example_of_every_metric_is_true(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"benchmarks.metrics.{module}"))
    assert result.attempted > 0 and result.failed == 0


def test_every_metric_has_an_example_of_its_own() -> None:
    assert all(">>>" in (metric.compute.__doc__ or "") for metric in METRICS.values())


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("registry", ["torch", "scipy", "pandas"]),
        # What measures a model on test images while it trains: a new convention or official rule concerns no run.
        ("localization", ["torch", "benchmarks.metrics.conventions", "benchmarks.metrics.pro"]),
        ("resize", ["torch", "benchmarks.metrics.conventions"]),
    ],
)
def test_importing_the_metrics_imports_little(module: str, absent: list[str]) -> None:
    code = f"import sys, benchmarks.metrics.{module}; sys.exit(str([m for m in {absent} if m in sys.modules] or ''))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.strip() == ""
