"""Every published number that a suite covers beside the measured one, with a verdict from one rule."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, NamedTuple

import pandas as pd
from scipy.stats import t as student

from benchmarks.metrics.registry import METRICS
from benchmarks.official_counts import official_counts
from benchmarks.plan import Plan
from benchmarks.records import Record
from benchmarks.schema import IMAGE_CONVENTION, NOT_STATED
from reports.aggregate import UNFINISHED, Cell, text_cell
from reports.analysis import comparability
from reports.published import resolution
from reports.vocabulary import BLOCK, IDENTITY, MEAN, is_image_metric, metric
from reports.vocabulary import number as written

WIDEST = 0.02  # of a fraction: a wider tolerance would call almost anything reproduced; papers differ by less
RULE = [
    "Rule: the tolerance is the half-width of the 95% prediction interval of one more seed, t s sqrt(1 + 1/n) over n "
    "seeds with sample standard deviation s, plus half a unit of the last printed digit. Within it a number is "
    "reproduced, beyond it the measured mean is above or below. One seed gives no verdict, nor does a tolerance of "
    f"more than {100 * WIDEST:g} points when the number lies within it.",
    comparability.RULE,
]
QUANTITIES = ["published", "measured", "seeds", "difference", "tolerance", "verdict"]
VERDICTS = ["reproduced", "above", "below", "not comparable", "no verdict", "not run"]
NUMBER = ["variant", "dataset", "category", "subset", "metric"]  # what a measured cell shares with a published number
COLUMNS = ["paper", "table", *BLOCK, *IDENTITY["variant"], "category", "entry", "quantity", "cell"]


class Match(NamedTuple):
    """A published number that the suite covers, and what was measured."""

    best: Mapping[Any, Any] | None  # the row of `aggregate.aggregate` that differs least from the source; None: not run
    differences: Mapping[str, str]  # in what it differs, by kind: see `comparability.differences`

    @property
    def footnote(self) -> str:
        """Every difference, with its kind."""
        return "; ".join(f"{kind}: {what}" for kind, what in self.differences.items())


def matches(
    published: pd.DataFrame,
    cells: pd.DataFrame,
    scores: pd.DataFrame,
    records: Sequence[Record],
    plan: Plan,
) -> dict[Any, Match]:
    """By the index of its row in `published`, every number that the suite covers.

    A number is covered if the suite has its variant on its data set, and its category. Among the runs that measured it
    under several protocols, conventions, selections or teachers, those count that differ least from the source.

    Args:
        published: rows as in `reports/published/README.md`.
        cells: rows of `aggregate.aggregate`.
        scores: tidy rows as in `results/README.md`.
        records: the finished runs.
        plan: the planned runs.
    """
    measured: dict[tuple[str, ...], list[Mapping[Any, Any]]] = {}
    for row in cells.to_dict("records"):
        if row["cell"].values:
            measured.setdefault(tuple(row[name] for name in NUMBER), []).append(row)
    how = comparability.setting(scores, records)
    suite = _suite(cells, plan)
    matched = {}
    for index, number in published.to_dict("index").items():
        if number["category"] in suite.get((number["variant"], number["dataset"]), ()):
            candidates = measured.get(tuple(number[name] for name in NUMBER), [])
            compared = [Match(row, comparability.differences(number, row, how)) for row in candidates]
            matched[index] = min(compared, key=lambda match: len(match.differences), default=Match(None, {}))
    return matched


def entries(published: pd.DataFrame, matches: Mapping[Any, Match]) -> pd.DataFrame:
    """One row for each covered number that was printed and quantity of `QUANTITIES`, with its `Cell`."""
    rows = []
    numbers = published.loc[[index for index in matches if published.value[index]]].to_dict("index")
    for index, number in sorted(numbers.items(), key=lambda item: _order(item[1])):
        best = matches[index].best
        place = {name: str(number[name]) for name in ("paper", "table", *BLOCK, "variant", "category")}
        place |= {name: best[name] if best else "" for name in ("selection", "teacher")}
        place |= {"convention": best["convention"]} if best else {}
        place["entry"] = _entry(number)
        for quantity, cell in zip(QUANTITIES, _quantities(number, matches[index]), strict=True):
            if best and quantity != "published":
                cell = replace(cell, records=best["cell"].records, category=best["cell"].category)
            rows.append({**place, "quantity": quantity, "cell": cell})
    return pd.DataFrame(rows, columns=COLUMNS)


def tally(entries: pd.DataFrame) -> pd.DataFrame:
    """How many numbers of each paper's table got which verdict, in the form of `entries`."""
    verdicts = entries[entries.quantity == "verdict"]
    verdicts = verdicts.assign(kind=[cell.word.split(" (")[0] for cell in verdicts.cell])
    counts = []
    for (dataset, protocol, paper, table), rows in verdicts.groupby(["dataset", "protocol", "paper", "table"]):
        place = {"dataset": dataset, "protocol": protocol, "entry": f"{paper}, {table}", "variant": "", "teacher": ""}
        for kind in VERDICTS:
            counts.append({**place, "quantity": kind, "cell": text_cell(str(int((rows.kind == kind).sum())))})
    return pd.DataFrame(counts, columns=["dataset", "protocol", "entry", "variant", "teacher", "quantity", "cell"])


def verdict(published: str, measured: Cell) -> tuple[str, float]:
    """The verdict of `RULE` on a comparable number, and its tolerance in the metric's unit; NaN with one seed."""
    count = len(measured.values)
    if count < 2:
        return "no verdict (one seed)", math.nan
    spread = float(student.ppf(0.975, count - 1)) * measured.std * math.sqrt(1 + 1 / count)
    tolerance = spread + resolution(published)
    away = measured.mean - float(published)
    if abs(away) > tolerance:
        return "above" if away > 0 else "below", tolerance
    too_wide = measured.percent and tolerance > WIDEST
    return ("no verdict (tolerance too wide)" if too_wide else "reproduced"), tolerance


def _suite(cells: pd.DataFrame, plan: Plan) -> dict[tuple[str, str], set[str]]:
    """The categories of each variant and data set, planned or scored, and the mean."""
    scored = cells.groupby(["variant", "dataset"]).category
    covered = {(str(variant), str(dataset)): {MEAN, *names} for (variant, dataset), names in scored}
    for group in plan.groups:
        of_suite = covered.setdefault((group.variant, group.dataset), {MEAN})
        for run in group.runs:
            of_suite |= {*(run.categories or official_counts(run.dataset))}
    return covered


def verdict_on(number: Mapping[Any, Any], match: Match) -> tuple[str, str, float]:
    """The verdict on a number, what it rests on where the two do not compare, and the tolerance; NaN without one."""
    if number["unit"] != "fraction":
        return "not comparable (gain)", f"a {number['unit']}", math.nan
    if not match.best:
        return "not run", UNFINISHED, math.nan
    if match.differences:
        return f"not comparable ({', '.join(match.differences)})", match.footnote, math.nan
    word, tolerance = verdict(number["value"], match.best["cell"])
    usual = ("", NOT_STATED, IMAGE_CONVENTION)
    is_other = is_image_metric(number["metric"]) and number["convention"] not in usual
    return word, f"the source takes the {number['convention']}" if is_other else "", tolerance


def printed(number: Mapping[Any, Any]) -> str:
    """The number with the digits of its source, a fraction in percent; a gain with its sign."""
    value = Decimal(number["value"]).scaleb(2 if metric(number["metric"]).is_fraction else 0)
    return f"{value:+f}" if number["unit"] != "fraction" else f"{value:f}"


def _quantities(number: Mapping[Any, Any], match: Match) -> Iterator[Cell]:
    """The cells of `QUANTITIES`."""
    value = float(number["value"])
    yield replace(text_cell(printed(number), f"{number['source']} ({number['status']})"), mean=value)
    dash = text_cell("")
    word, why, tolerance = verdict_on(number, match)
    if number["unit"] != "fraction" or not match.best:
        yield from [dash] * (len(QUANTITIES) - 2)
    else:
        cell: Cell = match.best["cell"]
        away = cell.mean - value
        yield cell
        yield text_cell(str(len(cell.values)))
        yield replace(text_cell(written(away, cell.percent, "+")), mean=away)
        width = written(tolerance, cell.percent)
        yield dash if math.isnan(tolerance) else replace(text_cell(width), mean=tolerance)
    yield text_cell(word, why)


def _entry(number: Mapping[Any, Any]) -> str:
    subset = [number["subset"]] if number["subset"] != "all" else []
    return ", ".join([number["variant"], number["category"], metric(number["metric"]).title, *subset])


def _order(number: Mapping[Any, Any]) -> tuple[Any, ...]:
    place = [*METRICS, number["metric"]].index(number["metric"])
    return (
        number["paper"],
        number["table"],
        number["variant"],
        place,
        number["category"] == MEAN,
        number["category"],
        number["subset"],
    )
