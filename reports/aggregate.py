"""Tidy scores to cells: mean and sample standard deviation over seeds. Every number is computed here once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.plan import Group, Plan
from reports.vocabulary import BLOCK, DASH, DIFFERENCE, IDENTITY, MEAN, PROTOCOLS, SUBSET_MEAN, metric, number

UNFINISHED = "no finished run was scored"
NO_REASON = "no reason was recorded"


@dataclass(frozen=True)
class Cell:
    """What a table prints in one place; `mean` and `std` are in the metric's own unit, NaN where they do not exist."""

    mean: float
    std: float
    values: dict[int, float]  # by seed
    note: str  # why the cell is empty, or which seeds or categories are missing
    records: tuple[str, ...]  # paths of the records behind it
    word: str = ""  # printed in place of a number that no seed gave, such as a verdict
    bold: bool = False  # significantly better than every other variant: see `significance.highlight`
    category: str = MEAN  # which of the categories in its records it is about
    percent: bool = True  # whether its metric is a fraction, printed in percent

    @property
    def text(self) -> str:
        """Percent with one decimal, e.g. "97.1 ± 0.3"; "97.1" with one seed; a dash if empty."""
        if self.word:
            return self.word
        if not self.values:
            return DASH
        deviation = f" ± {number(self.std, self.percent)}" if len(self.values) > 1 else ""
        return number(self.mean, self.percent) + deviation


def text_cell(word: str, note: str = "") -> Cell:
    """A cell that holds text; an empty one prints a dash."""
    return Cell(math.nan, math.nan, {}, note, (), word or DASH)


def empty_cell(note: str) -> Cell:
    """A cell without a value, and why."""
    return Cell(math.nan, math.nan, {}, note, ())


def bounds_text(name: str) -> str:
    """The values that a metric can have, e.g. "[0, 1]"."""
    low, high = metric(name).bounds
    return f"[{low:g}, {high:g}]"


def impossible(scores: pd.DataFrame) -> pd.Series:
    """For each row whether its value is one that its metric cannot have."""
    pairs = zip(scores.metric, scores.value, strict=True)
    return pd.Series([not metric(name).is_possible(value) for name, value in pairs], scores.index, dtype=bool)


def within_range(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows with impossible values left empty, and the reason why."""
    wrong = impossible(scores)
    reason = "scored as " + scores.value.astype(str) + ", which is outside " + scores.metric.map(bounds_text)
    return scores.assign(value=scores.value.mask(wrong), reason=scores.reason.mask(wrong, reason))


def with_subset_mean(scores: pd.DataFrame) -> pd.DataFrame:
    """Add the mean of `logical` and `structural` as one more subset, as MVTec LOCO's authors report it."""
    parts = scores[scores.subset.isin(["logical", "structural"])]
    key = [*BLOCK, *IDENTITY["variant"], "category", "seed"]
    key.remove("subset")
    both = []
    for _, pair in parts.groupby(key, sort=False):
        reasons = [f"{row['subset']}: {row['reason']}" for row in pair.to_dict("records") if row["reason"]]
        if len(pair) == 1:
            reasons.append(f"only {pair.subset.iloc[0]} anomalies were scored")
        mean = pair.value.mean() if len(pair) == 2 and pair.value.notna().all() else math.nan
        both.append({**pair.iloc[0], "subset": SUBSET_MEAN, "value": mean, "reason": "; ".join(reasons)})
    return pd.concat([scores, pd.DataFrame(both)], ignore_index=True) if both else scores


def with_protocol_difference(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of data sets that have both protocols, and, as one more protocol, multi-class minus one-class.

    The difference is taken of the same category and seed. Empty where no category has both.
    """
    key = [column for column in (*BLOCK, *IDENTITY["variant"], "category", "seed") if column != "protocol"]
    of_protocol = [scores[scores.protocol == name] for name in PROTOCOLS[:2]]
    both = of_protocol[0].merge(of_protocol[1], on=key, suffixes=("_one", ""))  # other columns are multi-class's
    both["value"] -= both.value_one
    both["reason"] = [
        "; ".join(f"{protocol}: {why}" for protocol, why in zip(PROTOCOLS, pair, strict=False) if why)
        for pair in zip(both.reason_one, both.reason, strict=True)
    ]
    both["protocol"] = DIFFERENCE
    both["record"] = both.record_one + "\n" + both.record  # a difference has two
    kept = scores[scores.dataset.isin(both.dataset) & scores.protocol.isin(PROTOCOLS)]
    return pd.concat([kept, both[scores.columns]], ignore_index=True) if len(both) else scores[:0]


def aggregate(scores: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Every cell of every possible table: one row per block, variant and category, and one for the categories' mean.

    The mean averages the categories within a seed first. It covers the categories that at least one variant has a value
    for; a seed without one of these has no mean, so that means of different variants stay comparable.

    Args:
        scores: tidy rows as in `results/README.md`.
        plan: the planned runs; their seeds and variants that have no scores become empty cells.

    Returns:
        The columns of `BLOCK`, `variant`, `selection`, `teacher`, `category` and `cell` (a `Cell`).
    """
    planned = {(group.variant, group.dataset, group.protocol): group for group in plan.groups}
    cells: list[dict[str, Any]] = []
    for keys, of_block in scores.groupby(BLOCK, sort=False):
        block = dict(zip(BLOCK, map(str, keys), strict=True))
        categories = sorted(of_block.category.unique())
        defined = sorted(of_block.category[of_block.value.notna()].unique())
        for names, rows in of_block.groupby(IDENTITY["variant"], sort=False):
            place = block | dict(zip(IDENTITY["variant"], map(str, names), strict=True))
            group = planned.get((place["variant"], place["dataset"], place["protocol"]))
            seeds = sorted({*rows.seed, *(run.seed for run in (group.runs if group else ()))})
            for category, cell in _of_variant(rows, categories, defined, seeds):
                cell = replace(cell, percent=metric(block["metric"]).is_fraction)
                cells.append({**place, "category": category, "cell": cell})
        for group in _unscored(plan, block, of_block):
            place = block | {"variant": group.variant, "selection": "", "teacher": ""}
            empty = empty_cell(group.unsupported or UNFINISHED)
            cells += [{**place, "category": category, "cell": empty} for category in [*categories, MEAN]]
    return pd.DataFrame(cells, columns=[*BLOCK, *IDENTITY["variant"], "category", "cell"])


def _of_variant(
    rows: pd.DataFrame, categories: list[str], defined: list[str], seeds: list[int]
) -> Iterator[tuple[str, Cell]]:
    """The cells of one variant in one block: each category, then the mean over those in `defined`."""
    values: dict[tuple[str, int], float] = {}
    reasons: dict[tuple[str, int], str] = {}
    records: dict[str, list[str]] = {}
    columns = (rows.category, rows.seed, rows.value, rows.reason, rows.record)
    for category, seed, value, reason, record in zip(*columns, strict=True):
        values[category, seed], reasons[category, seed] = value, reason or NO_REASON
        records.setdefault(category, []).append(record)
    for category in categories:
        why = {seed: reasons.get((category, seed), UNFINISHED) for seed in seeds}
        by_seed = {seed: values.get((category, seed), math.nan) for seed in seeds}
        yield category, replace(_cell(by_seed, why, records.get(category, [])), category=category)
    missing = {seed: [c for c in defined if math.isnan(values.get((c, seed), math.nan))] for seed in seeds}
    why = {
        seed: f"no value for {', '.join(names)}" if names else "no category has a value"
        for seed, names in missing.items()
    }
    means = {
        seed: float(np.mean([values[category, seed] for category in defined])) if defined and not names else math.nan
        for seed, names in missing.items()
    }
    mean = _cell(means, why, list(rows.record))
    if mean.values and len(defined) < len(categories):
        undefined = ", ".join(category for category in categories if category not in defined)
        limits = f"{undefined} left out, which has no value for any variant"
        mean = replace(mean, note="; ".join(filter(None, [limits, mean.note])))
    yield MEAN, mean


def _unscored(plan: Plan, block: Mapping[str, str], rows: pd.DataFrame) -> Iterable[Group]:
    """Groups that were planned for this data set and protocol, but have no row in the block."""
    scored = set(rows.variant)
    here = (block["dataset"], block["protocol"])
    return [group for group in plan.groups if (group.dataset, group.protocol) == here and group.variant not in scored]


def _cell(by_seed: Mapping[int, float], why: Mapping[int, str], records: Sequence[str]) -> Cell:
    values = {int(seed): float(value) for seed, value in by_seed.items() if not math.isnan(value)}
    missing = {seed: reason for seed, reason in why.items() if seed not in values}
    if len(set(missing.values())) == 1 and not values:
        note = next(iter(missing.values()))
    else:
        note = "; ".join(f"seed {seed}: {reason}" for seed, reason in missing.items())
    if values and missing:
        note = f"{len(values)} of {len(why)} seeds; {note}"
    sample = list(values.values())
    mean = float(np.mean(sample)) if sample else math.nan
    std = float(np.std(sample, ddof=1)) if len(sample) > 1 else math.nan
    return Cell(mean, std, values, note, tuple("\n".join(records).split("\n")))
