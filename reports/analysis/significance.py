"""Which differences between variants are significant: over test images and seeds, and over categories.

Two questions, two tests. *On this category, is one variant better?* Test images and seeds are drawn again with
replacement, the same images for all variants (a paired bootstrap, of image AUROC: only images have stored scores).
*Is one variant better on categories in general?* Wilcoxon's signed-rank test over the categories' means (Demsar,
Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 2006), with Holm's correction for the number of
variants that are compared. With fewer than six categories it can never be significant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from reports.aggregate import Cell, text_cell
from reports.vocabulary import BLOCK, IDENTITY, MEAN, labels, metric, number, sign

LEVEL = 0.05
RESAMPLES = 1000
SEEDS = 3  # at least, for bold: with two, the bootstrap finds a difference twice as often as it should
CATEGORIES = 6  # at least, for p < LEVEL: Wilcoxon's smallest p over five is 0.0625
RULE = [
    f"Intervals hold 95% of {RESAMPLES} bootstrap resamples: of a difference, of test images and seeds, the same "
    "images for both variants; of a rank, of categories. p of images and seeds is of the same bootstrap, two-sided; "
    "Wilcoxon's signed-rank test pairs the categories' means over seeds; Holm's correction is over all pairs of "
    "variants. Rank 1 is the best.",
]
Samples = dict[tuple[str, ...], NDArray[np.float64]]  # by data set, protocol, category, variant: (RESAMPLES,)
COLUMNS = [*BLOCK, *IDENTITY["variant"], "category", "entry", "quantity", "cell"]


def holm(p: Sequence[float]) -> NDArray[np.float64]:
    """Holm's step-down adjustment: each p value as it must be below the level to be significant among all."""
    values = np.asarray(p, float)
    order = np.argsort(values)
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    return adjusted.clip(max=1)


def auroc_samples(details: pd.DataFrame) -> Samples:
    """Bootstrap samples of the image AUROC, averaged over resampled seeds.

    Args:
        details: rows as `load.read_details` gives them.

    Returns:
        By data set, protocol, category and variant: (RESAMPLES,) fractions; sample i of all variants of a category
        is drawn from the same images. What has one seed, or fewer than two normal or anomalous images, is left out.
    """
    samples: Samples = {}
    for place, rows in details.groupby(["dataset", "protocol", "category"]):
        images = [pd.DataFrame(row["images"]).set_index("key") for row in rows.details]
        anomalous = images[0].anomalous.astype(bool)
        names = pd.MultiIndex.from_frame(rows[["variant", "seed"]])
        scores = pd.concat([part.score for part in images], axis=1, keys=names).reindex(anomalous.index)
        scores = scores.dropna(axis=1)  # what was predicted on other images cannot be paired
        normal, abnormal = scores[~anomalous], scores[anomalous]
        if min(len(normal), len(abnormal)) < 2:
            continue
        rng = np.random.default_rng(0)
        of_normal, of_abnormal = _weights(rng, len(normal)), _weights(rng, len(abnormal))
        for variant in sorted(set(scores.columns.get_level_values(0))):
            pairs = zip(abnormal[variant].to_numpy().T, normal[variant].to_numpy().T, strict=True)
            # The AUROC is the share of (anomalous, normal) pairs in the right order; weights resample both sides.
            wins = [(a[:, None] > n) + 0.5 * (a[:, None] == n) for a, n in pairs]  # each (anomalous, normal)
            drawn = np.stack([((of_abnormal @ win) * of_normal).sum(1) for win in wins], 1)  # (RESAMPLES, seeds)
            if drawn.shape[1] > 1:
                samples[(*map(str, place), variant)] = (_weights(rng, drawn.shape[1]) * drawn).sum(1)
    return samples


def _weights(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """How often each of `count` things is drawn, as a share: (RESAMPLES, count).

    One fewer is drawn than there are, so that the variance of the mean is right also for two or three seeds
    (Rao and Wu, Resampling Inference with Complex Survey Data, JASA 1988).
    """
    return rng.multinomial(count - 1, np.full(count, 1 / count), RESAMPLES) / (count - 1)


def bootstrap_p(difference: NDArray[np.float64]) -> float:
    """Two-sided p value of bootstrap samples of a difference: how often its sign is reversed, or it is 0."""
    below, above = (difference <= 0).sum(), (difference >= 0).sum()
    return float(min(1, 2 * (min(below, above) + 1) / (len(difference) + 1)))


def wilcoxon(one: pd.Series, other: pd.Series) -> float:
    """Two-sided p over paired values of at least one category; 1 where none differs."""
    return 1.0 if one.equals(other) else float(stats.wilcoxon(one.to_numpy(), other.to_numpy()).pvalue)


def over_categories(block: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of one block: a row per category that all its variants have, a column per variant."""
    means = block.assign(name=labels(block[IDENTITY["variant"]]), mean=[cell.mean for cell in block.cell])
    means = means[(means.category != MEAN) & means.variant.isin(means.variant[means["mean"].notna()])]
    return means.pivot(index="category", columns="name", values="mean").dropna()


def highlight(cells: pd.DataFrame, samples: Samples) -> pd.DataFrame:
    """The rows of `aggregate.aggregate`, with those cells bold that `tables.BOLD` describes."""
    bold = set()
    for keys, block in cells.groupby(BLOCK, sort=False):
        place = dict(zip(BLOCK, map(str, keys), strict=True))
        block = block.assign(name=labels(block[IDENTITY["variant"]]), mean=[cell.mean for cell in block.cell])
        means = over_categories(block)
        for category, rows in block.groupby("category", sort=False):
            rows = rows[[len(cell.values) >= SEEDS for cell in rows.cell]]
            rows = rows.sort_values("mean", ascending=sign(place["metric"]) < 0)
            if category == MEAN:
                p = [wilcoxon(means[rows.name.iloc[0]], means[other]) for other in rows.name[1:]] if len(means) else []
            else:
                pairs = [
                    _paired(samples, place, [str(category)], rows.variant.iloc[0], other) for other in rows.variant[1:]
                ]
                p = [bootstrap_p(pair) for pair in pairs if len(pair)]
            if 0 < len(p) == len(rows) - 1 and holm(p).max() < LEVEL:
                bold.add(rows.index[0])
    return cells.assign(cell=[replace(cell, bold=index in bold) for index, cell in cells.cell.items()])


def comparisons(cells: pd.DataFrame, samples: Samples) -> pd.DataFrame:
    """Every pair of variants of a block: the difference of their means, its interval, and p by both tests."""
    rows: list[dict[str, Any]] = []
    for keys, block in cells.groupby(BLOCK, sort=False):
        place = dict(zip(BLOCK, map(str, keys), strict=True)) | {"variant": "", "selection": "", "teacher": ""}
        means = over_categories(block)
        pairs = list(combinations(sorted(means.columns), 2)) if len(means) else []
        variant = dict(zip(labels(block[IDENTITY["variant"]]), block.variant, strict=True))
        records = _records(block)
        percent = metric(place["metric"]).is_fraction
        p = [wilcoxon(means[one], means[other]) for one, other in pairs]
        for (one, other), alone, adjusted in zip(pairs, p, holm(p), strict=True):
            away = float((means[one] - means[other]).mean())
            drawn = _paired(samples, place, list(map(str, means.index)), variant[one], variant[other])
            low, high = _interval(drawn)
            cell = {
                "difference": replace(text_cell(number(away, percent, "+")), mean=away),
                "95% interval": text_cell(
                    f"{number(low, percent, '+')} to {number(high, percent, '+')}" if len(drawn) else ""
                ),
                "p, images and seeds": _p(bootstrap_p(drawn)) if len(drawn) else text_cell(""),
                "categories": text_cell(str(len(means))),
                "p, Wilcoxon": _p(alone),
                "p, Wilcoxon and Holm": _p(adjusted),
            }
            behind = records[one] + records[other]
            rows += [{**place, "category": MEAN, "entry": f"{one} - {other}", "quantity": quantity,
                       "cell": replace(value, records=behind)} for quantity, value in cell.items()]  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


class Lead(NamedTuple):
    """How far one variant is ahead of another one, in the mean over the categories that both have."""

    away: float
    low: float  # of the 95% interval over test images and seeds; NaN where there is none
    high: float
    categories: int


def lead(block: pd.DataFrame, samples: Samples, one: str, other: str) -> Lead:
    """The difference of two variants of one block, named by their labels."""
    means = over_categories(block)
    place = dict(zip(BLOCK, block[BLOCK].iloc[0], strict=True))
    variant = dict(zip(labels(block[IDENTITY["variant"]]), block.variant, strict=True))
    drawn = _paired(samples, place, list(map(str, means.index)), variant[one], variant[other])
    return Lead(float((means[one] - means[other]).mean()), *_interval(drawn), len(means))


def _interval(drawn: NDArray[np.float64]) -> tuple[float, float]:
    """What holds 95% of the samples; NaN without any."""
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (np.nan, np.nan)
    return float(low), float(high)


def _paired(samples: Samples, place: dict[str, str], categories: list[str], *pair: str) -> NDArray[np.float64]:
    """Bootstrap samples of the difference of two variants' means over categories; empty where one has none."""
    if (place["metric"], place["subset"]) != ("image_auroc", "all"):
        return np.empty(0)
    keys = [[(place["dataset"], place["protocol"], category, variant) for category in categories] for variant in pair]
    if not all(key in samples for of_variant in keys for key in of_variant):
        return np.empty(0)
    one, other = (np.mean([samples[key] for key in of_variant], 0) for of_variant in keys)
    return np.asarray(one - other)


def _records(block: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """The records behind each variant's mean, by its label."""
    named = zip(labels(block[IDENTITY["variant"]]), block.category, block.cell, strict=True)
    return {name: cell.records for name, category, cell in named if category == MEAN}


def _p(value: float) -> Cell:
    return replace(text_cell(f"{value:.3f}" if value >= 0.001 else "<0.001"), mean=value)


def ranks(cells: pd.DataFrame) -> pd.DataFrame:
    """Mean rank of each variant over categories, with its interval; `tied` names those not significantly different.

    Significant is a difference whose p after Wilcoxon and Holm is below `LEVEL`. A block with fewer than two variants,
    or fewer than two categories that all variants have, has no ranks.
    """
    rows: list[dict[str, Any]] = []
    for keys, block in cells.groupby(BLOCK, sort=False):
        means = over_categories(block)
        if min(means.shape) < 2:
            continue
        place = dict(zip(BLOCK, map(str, keys), strict=True)) | {"selection": "", "teacher": "", "category": MEAN}
        rank = stats.rankdata(-sign(place["metric"]) * means.to_numpy(), axis=1)  # (categories, variants)
        interval = stats.bootstrap((rank,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=0)
        low, high = np.asarray(interval.confidence_interval)  # each (variants,)
        pairs = list(combinations(means.columns, 2))
        p = holm([wilcoxon(means[one], means[other]) for one, other in pairs])
        records = _records(block)
        apart = {frozenset(pair) for pair, value in zip(pairs, p, strict=True) if value < LEVEL}
        for at in np.argsort(rank.mean(0), kind="stable"):
            name = str(means.columns[at])
            tied = sorted(other for other in means.columns if frozenset((name, other)) not in apart)
            about = {"rank": rank.mean(0)[at], "low": low[at], "high": high[at], "tied": tied}
            cell = {
                "mean rank": replace(text_cell(f"{rank.mean(0)[at]:.2f}"), mean=float(rank.mean(0)[at])),
                "95% interval": text_cell(f"{low[at]:.2f} to {high[at]:.2f}"),
                "categories": text_cell(str(len(means))),
            }
            rows += [{**place, **about, "variant": name, "entry": name, "quantity": quantity,
                       "cell": replace(value, records=records[name])} for quantity, value in cell.items()]  # fmt: skip
    return pd.DataFrame(rows, columns=[*COLUMNS, "rank", "low", "high", "tied"])
