"""The ledger: every published number that a suite covers beside the measured one, with a verdict from one rule."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, NamedTuple

import pandas as pd
from scipy.stats import t as student

from reports import comparable
from reports.published import resolution
from reports.tables import BLOCK, IDENTITY, IMAGE_CONVENTION, MEAN, METRICS, UNFINISHED, Cell, Plan, spoken

WIDEST = 0.02  # a tolerance above this would call almost anything reproduced; papers differ by less
RULE = [
    "Rule: the tolerance is the half-width of the 95% prediction interval of one more seed, t s sqrt(1 + 1/n) over n "
    "seeds with sample standard deviation s, plus half a unit of the last printed digit. Within it a number is "
    "reproduced, beyond it the measured mean is above or below. One seed gives no verdict, nor does a tolerance of "
    f"more than {100 * WIDEST:g} points when the number lies within it.",
    comparable.RULE,
]
QUANTITIES = ["published", "measured", "seeds", "difference", "tolerance", "verdict"]
VERDICTS = ["reproduced", "above", "below", "not comparable", "no verdict", "not run"]
NUMBER = ["variant", "dataset", "category", "subset", "metric"]  # what a measured cell shares with a published number
COLUMNS = ["paper", "table", *BLOCK, *IDENTITY["variant"], "category", "entry", "quantity", "cell"]


class Match(NamedTuple):
    """A published number that the suite covers, and what was measured."""

    best: Mapping[Any, Any] | None  # the row of `tables.aggregate` that differs least from the source; None: not run
    unlike: Mapping[str, str]  # in what it differs, by kind: see `comparable.differences`

    @property
    def differs(self) -> str:
        """For a footnote: every difference in words."""
        return "; ".join(f"{kind}: {what}" for kind, what in self.unlike.items())


def matches(
    published: pd.DataFrame,
    cells: pd.DataFrame,
    scores: pd.DataFrame,
    records: Sequence[Mapping[str, Any]],
    plan: Plan,
) -> dict[Any, Match]:
    """By the index of its row in `published`, every number that the suite covers.

    A number is covered if the suite has its variant on its data set, and its category. Among the runs that measured it
    under several protocols, conventions, selections or teachers, those count that differ least from the source.

    Args:
        published: rows as in `reports/published/README.md`.
        cells: rows of `tables.aggregate`.
        scores: tidy rows as in `results/README.md`.
        records: the finished runs.
        plan: the planned runs.
    """
    measured: dict[tuple[str, ...], list[Mapping[Any, Any]]] = {}
    for row in cells.to_dict("records"):
        if row["cell"].values:
            measured.setdefault(tuple(row[name] for name in NUMBER), []).append(row)
    how = comparable.setting(scores, records)
    suite = _suite(cells, plan)
    found = {}
    for index, number in published.to_dict("index").items():
        if number["category"] in suite.get((number["variant"], number["dataset"]), ()):
            candidates = measured.get(tuple(number[name] for name in NUMBER), [])
            judged = [Match(row, comparable.differences(number, row, how)) for row in candidates]
            found[index] = min(judged, key=lambda match: len(match.unlike), default=Match(None, {}))
    return found


def entries(published: pd.DataFrame, matches: Mapping[Any, Match]) -> pd.DataFrame:
    """One row for each covered number that was printed and quantity of `QUANTITIES`, with its `Cell`."""
    found = []
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
            found.append({**place, "quantity": quantity, "cell": cell})
    return pd.DataFrame(found, columns=COLUMNS)


def tally(entries: pd.DataFrame) -> pd.DataFrame:
    """How many numbers of each paper's table got which verdict, in the form of `entries`."""
    verdicts = entries[entries.quantity == "verdict"]
    verdicts = verdicts.assign(kind=[cell.word.split(" (")[0] for cell in verdicts.cell])
    found = []
    for (dataset, protocol, paper, table), rows in verdicts.groupby(["dataset", "protocol", "paper", "table"]):
        place = {"dataset": dataset, "protocol": protocol, "entry": f"{paper}, {table}", "variant": "", "teacher": ""}
        for kind in VERDICTS:
            found.append({**place, "quantity": kind, "cell": spoken(str(int((rows.kind == kind).sum())))})
    return pd.DataFrame(found, columns=["dataset", "protocol", "entry", "variant", "teacher", "quantity", "cell"])


def verdict(published: str, measured: Cell) -> tuple[str, float]:
    """The verdict of `RULE` on a comparable number, and its tolerance, a fraction; NaN with one seed."""
    count = len(measured.values)
    if count < 2:
        return "no verdict (one seed)", math.nan
    spread = float(student.ppf(0.975, count - 1)) * measured.std * math.sqrt(1 + 1 / count)
    tolerance = spread + resolution(published)
    away = measured.mean - float(published)
    if abs(away) > tolerance:
        return "above" if away > 0 else "below", tolerance
    return ("no verdict (tolerance too wide)" if tolerance > WIDEST else "reproduced"), tolerance


def _suite(cells: pd.DataFrame, plan: Plan) -> dict[tuple[str, str], set[str]]:
    """The categories of each variant and data set, planned or scored, and the mean."""
    official = pd.read_csv(comparable.COUNTS).groupby("dataset").category.agg(set)
    scored = cells.groupby(["variant", "dataset"]).category
    found = {(str(variant), str(dataset)): {MEAN, *names} for (variant, dataset), names in scored}
    for (variant, dataset, _), runs in plan.items():
        of_suite = found.setdefault((variant, dataset), {MEAN})
        for run in runs.values():
            if isinstance(run, Mapping):  # and no reason why there is none
                of_suite |= {*(run.get("categories") or official.get(dataset, ()))}
    return found


def judge(number: Mapping[Any, Any], match: Match) -> tuple[str, str, float]:
    """The verdict on a number, what it rests on where the two do not compare, and the tolerance; NaN without one."""
    if number["unit"] != "fraction":
        return "not comparable (gain)", f"a {number['unit']}", math.nan
    if not match.best:
        return "not run", UNFINISHED, math.nan
    if match.unlike:
        return f"not comparable ({', '.join(match.unlike)})", match.differs, math.nan
    word, tolerance = verdict(number["value"], match.best["cell"])
    is_other = number["metric"].startswith("image_") and number["convention"] not in ("", IMAGE_CONVENTION)
    return word, f"the source takes the {number['convention']}" if is_other else "", tolerance


def printed(number: Mapping[Any, Any]) -> str:
    """The number in percent, with the digits of its source; a gain with its sign."""
    value = Decimal(number["value"]).scaleb(2)
    return f"{value:+f}" if number["unit"] != "fraction" else f"{value:f}"


def _quantities(number: Mapping[Any, Any], match: Match) -> Iterator[Cell]:
    """The cells of `QUANTITIES`."""
    value = float(number["value"])
    yield replace(spoken(printed(number), f"{number['source']} ({number['status']})"), mean=value)
    dash = spoken("")
    word, why, tolerance = judge(number, match)
    if number["unit"] != "fraction" or not match.best:
        yield from [dash] * (len(QUANTITIES) - 2)
    else:
        cell: Cell = match.best["cell"]
        away = cell.mean - value
        yield cell
        yield spoken(str(len(cell.values)))
        yield replace(spoken(f"{100 * away:+.1f}"), mean=away)
        yield dash if math.isnan(tolerance) else replace(spoken(f"{100 * tolerance:.1f}"), mean=tolerance)
    yield spoken(word, why)


def _entry(number: Mapping[Any, Any]) -> str:
    subset = [number["subset"]] if number["subset"] != "all" else []
    return ", ".join([number["variant"], number["category"], METRICS.get(number["metric"], number["metric"]), *subset])


def _order(number: Mapping[Any, Any]) -> tuple[Any, ...]:
    metric = [*METRICS, number["metric"]].index(number["metric"])
    return (
        number["paper"],
        number["table"],
        number["variant"],
        metric,
        number["category"] == MEAN,
        number["category"],
        number["subset"],
    )
