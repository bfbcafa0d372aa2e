"""Detection metrics: how well one score per image tells anomalous images from normal ones.

Every metric here and in `localization` follows from one thing: how many negatives score above, and how many at or
above, each positive. `Ranking` holds these counts. Ties are exact: all that share a score cross the threshold together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class UndefinedMetric(ValueError):
    """The metric has no value on these data; the message is the reason, short enough for a table's footnote."""


class Ranking(NamedTuple):
    """Positives by falling score, each with the number of negatives that come before it.

    Attributes:
        order: (P,) int, the index of each positive in the array it came from.
        scores: (P,) float, falling.
        above: (P,) int, negatives that score strictly higher.
        at_or_above: (P,) int, negatives that score at least as high.
        negatives: number of negatives.
    """

    order: NDArray[np.intp]
    scores: NDArray[np.floating]
    above: NDArray[np.intp]
    at_or_above: NDArray[np.intp]
    negatives: int

    def area(self, weights: NDArray[np.float64] | float, limit: float = 1.0) -> float:
        """Area under the curve of weight gained against false-positive rate, up to `limit` and divided by it.

        Each positive raises the curve by its weight on the straight line between the false-positive rates just before
        and just after its score, and keeps it raised from there on. Its share of the area is therefore the mean of
        max(limit - FPR, 0) over that line: the trapezoidal rule without building the curve, cut exactly at the limit.

        Args:
            weights: (P,) in the order of the ranking, or one for all.
            limit: false-positive rate in (0, 1].
        """
        if not 0 < limit <= 1:
            raise ValueError(f"the FPR limit must lie in (0, 1], not {limit}")
        start = self.above / self.negatives  # (P,)
        stop = self.at_or_above / self.negatives  # (P,)
        area = (np.maximum(limit - start, 0) + np.maximum(limit - stop, 0)) / 2  # (P,)
        cut = (start < limit) & (stop > limit)  # the limit lies inside the line: only its first part counts
        area[cut] *= (limit - start[cut]) / (stop[cut] - start[cut])
        return min(float(np.sum(area * weights)) / limit, 1.0)  # rounding can exceed 1

    def auroc(self) -> float:
        """Area under the ROC curve, in [0, 1]."""
        return self.area(1 / len(self.scores))

    def average_precision(self) -> float:
        """Sum over thresholds of precision times the recall gained there, in (0, 1]; no interpolation."""
        true_positives, last = self._thresholds()
        precision = true_positives / (true_positives + self.at_or_above[last])
        return float(np.sum(np.diff(true_positives, prepend=0) * precision)) / len(self.scores)

    def f1_max(self) -> float:
        """Largest F1 over all thresholds, in (0, 1]. A threshold at which only negatives enter is never the best."""
        true_positives, last = self._thresholds()
        return float(np.max(2 * true_positives / (true_positives + self.at_or_above[last] + len(self.scores))))

    def curve(self, weights: NDArray[np.float64] | float, points: int) -> tuple[NDArray, NDArray]:
        """The curve whose area `area` gives, from FPR 0 to 1: all its corners, or `points` points where it has more.

        The points lie denser where the false-positive rate is low, because that is the part that matters.

        Returns:
            fpr, height: (at most `points`,) float64 each, both non-decreasing.
        """
        gained = np.minimum(np.cumsum(np.broadcast_to(weights, self.scores.shape)), 1.0)  # rounding can exceed 1
        last = self._thresholds()[1]
        fpr = np.stack([self.above[last], self.at_or_above[last]], axis=1).ravel() / self.negatives
        height = np.stack([np.append(0.0, gained[last][:-1]), gained[last]], axis=1).ravel()
        fpr, height = np.concatenate([[0.0], fpr, [1.0]]), np.concatenate([[0.0], height, gained[-1:]])
        if len(fpr) > points:
            grid = np.linspace(0, 1, points - 1) ** 2
            fpr, height = np.append(0.0, grid), np.append(0.0, np.interp(grid, fpr, height))
        return fpr, height

    def _thresholds(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """At each distinct score: the number of positives at or above it, and the index of the last of them."""
        last = np.append(np.flatnonzero(self.scores[1:] != self.scores[:-1]), len(self.scores) - 1)
        return last + 1, last


def rank(positives: NDArray[np.floating], negatives: NDArray[np.floating]) -> Ranking:
    """Place positives among negatives.

    Args:
        positives: (P,) finite, in any order.
        negatives: (M,) finite, rising, of the same dtype (a mixed search would copy the longer array).
    """
    order = np.argsort(positives)  # (P,)
    rising = positives[order]  # rising, because a search for neighbours in turn stays in the cache
    at_or_above = len(negatives) - np.searchsorted(negatives, rising, side="left")
    above = len(negatives) - np.searchsorted(negatives, rising, side="right")
    return Ranking(order[::-1], rising[::-1], above[::-1], at_or_above[::-1], len(negatives))


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve, in [0, 1]; a constant score gives 0.5. Equals scikit-learn's `roc_auc_score`.

    Args:
        labels: (N,) True where the image is anomalous.
        scores: (N,) higher is more anomalous.

    Raises:
        UndefinedMetric: all images are normal, or all are anomalous.
        ValueError: a score is NaN or infinite, or the shapes differ.

    >>> auroc([False, False, True, True], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    return _rank_images(labels, scores).auroc()


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Average precision, in (0, 1], as scikit-learn's `average_precision_score`. Arguments and errors as `auroc`.

    >>> average_precision([False, True, True], [0.3, 0.1, 0.9])
    0.8333333333333333
    """
    return _rank_images(labels, scores).average_precision()


def f1_max(labels: ArrayLike, scores: ArrayLike) -> float:
    """Largest F1 over all thresholds, in (0, 1]. Arguments and errors as `auroc`.

    >>> f1_max([False, True, True], [0.3, 0.1, 0.9])
    0.8
    """
    return _rank_images(labels, scores).f1_max()


def roc_curve(labels: ArrayLike, scores: ArrayLike, points: int = 200) -> tuple[NDArray, NDArray]:
    """Points (fpr, tpr) of the ROC curve for a plot, at most `points` of them. Arguments and errors as `auroc`.

    >>> roc_curve([False, True], [0.1, 0.9])
    (array([0., 0., 0., 1.]), array([0., 0., 1., 1.]))
    """
    ranking = _rank_images(labels, scores)
    return ranking.curve(1 / len(ranking.scores), points)


def _rank_images(labels: ArrayLike, scores: ArrayLike) -> Ranking:
    labels, scores = np.asarray(labels), np.asarray(scores)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(f"labels and scores must be two lists of one length, not {labels.shape} and {scores.shape}")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must be 0 (normal) or 1 (anomalous)")
    anomalous = labels.astype(bool)
    if not np.isfinite(scores).all():
        raise ValueError(f"the score of image {np.flatnonzero(~np.isfinite(scores))[0]} is NaN or infinite")
    if not anomalous.any():
        raise UndefinedMetric("no anomalous image in the test set")
    if anomalous.all():
        raise UndefinedMetric("no normal image in the test set")
    return rank(scores[anomalous], np.sort(scores[~anomalous]))
