"""Detection metrics: against scikit-learn, by property, and where they are undefined."""

import numpy as np
import pytest
import reference_metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.metrics.detection import UndefinedMetric, auroc, average_precision, f1_max, roc_curve

METRICS = (auroc, average_precision, f1_max)
pairs = st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=30)
both_classes = pairs.filter(lambda pairs: len({label for label, _ in pairs}) == 2)


@given(both_classes)
def test_values_equal_scikit_learn_with_many_ties(pairs):
    labels, scores = zip(*pairs, strict=True)
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert f1_max(labels, scores) == pytest.approx(reference.f1_max(labels, scores), abs=1e-12)


def test_values_equal_scikit_learn_on_distinct_float32_scores():
    random = np.random.default_rng(0)
    labels, scores = random.random(500) < 0.3, random.standard_normal(500).astype(np.float32)
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


@given(both_classes, st.randoms())
def test_a_strictly_rising_transform_and_a_new_order_change_nothing(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    for metric in METRICS:
        before = metric(*zip(*pairs, strict=True))
        assert 0 <= before <= 1
        assert metric([label for label, _ in shuffled], [np.exp(7 * score) for _, score in shuffled]) == before


def test_a_perfect_ranking_scores_one_and_a_reversed_one_has_auroc_zero():
    labels, scores = [0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4]
    assert [metric(labels, scores) for metric in METRICS] == [1, 1, 1]
    assert auroc(labels, scores[::-1]) == 0


def test_a_constant_score_has_auroc_half_and_the_share_of_anomalies_as_precision():
    assert auroc([0, 1, 1, 0, 0], [2.0] * 5) == 0.5
    assert average_precision([0, 1, 1, 0, 0], [2.0] * 5) == pytest.approx(0.4)
    assert f1_max([0, 1, 1, 0, 0], [2.0] * 5) == pytest.approx(2 * 0.4 / 1.4)


@pytest.mark.parametrize("metric", METRICS)
def test_one_class_alone_is_undefined_with_a_reason(metric):
    with pytest.raises(UndefinedMetric, match="no anomalous image"):
        metric([0, 0], [1.0, 2.0])
    with pytest.raises(UndefinedMetric, match="no normal image"):
        metric([1, 1], [1.0, 2.0])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_refused_and_its_image_named(metric, bad):
    with pytest.raises(ValueError, match="image 1") as error:
        metric([0, 1, 1], [0.0, bad, 1.0])
    assert not isinstance(error.value, UndefinedMetric)


def test_labels_that_do_not_fit_the_scores_are_refused():
    with pytest.raises(ValueError, match="one length"):
        auroc([0, 1, 1], [0.0, 1.0])
    with pytest.raises(ValueError, match="labels must be 0"):
        auroc([0, 2], [0.0, 1.0])


@settings(max_examples=30)
@given(both_classes)
def test_the_area_under_the_roc_points_is_the_auroc(pairs):
    labels, scores = zip(*pairs, strict=True)
    fpr, tpr = roc_curve(labels, scores)
    assert np.trapezoid(tpr, fpr) == pytest.approx(auroc(labels, scores), abs=1e-12)


def test_a_long_roc_curve_is_thinned_to_the_points_asked_for():
    random = np.random.default_rng(0)
    labels = random.random(2000) < 0.4
    scores = random.standard_normal(2000) + labels
    fpr, tpr = roc_curve(labels, scores, points=50)
    assert len(fpr) == len(tpr) == 50
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == pytest.approx((0, 0, 1, 1))
    assert (np.diff(fpr) >= 0).all() and (np.diff(tpr) >= 0).all()
    assert np.trapezoid(tpr, fpr) == pytest.approx(auroc(labels, scores), abs=0.005)
