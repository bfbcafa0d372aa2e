"""The ledger: every published number that a suite covers beside the measured one, with a verdict from one rule."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from scipy.stats import t as student

from reports import comparable
from reports.published import resolution
from reports.tables import BLOCK, IDENTITY, MEAN, METRICS, UNFINISHED, Cell, Plan, spoken

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


def entries(
    published: pd.DataFrame,
    cells: pd.DataFrame,
    scores: pd.DataFrame,
    records: Sequence[Mapping[str, Any]],
    plan: Plan,
) -> pd.DataFrame:
    """One row for each covered number and quantity of `QUANTITIES`, with its `Cell`.

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
    found = []
    for number in sorted(published.to_dict("records"), key=_order):
        if number["category"] not in suite.get((number["variant"], number["dataset"]), ()):
            continue
        candidates = measured.get(tuple(number[name] for name in NUMBER), [])
        judged = [(comparable.differences(number, row, how), row) for row in candidates]
        unlike, best = min(judged, key=lambda pair: len(pair[0]), default=({}, None))
        place = {name: str(number[name]) for name in ("paper", "table", *BLOCK, "variant", "category")}
        place |= {name: best[name] if best else "" for name in ("selection", "teacher")}
        place |= {"convention": best["convention"]} if best else {}
        place["entry"] = _entry(number)
        for quantity, cell in zip(QUANTITIES, _quantities(number, best, unlike), strict=True):
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


def _quantities(number: Mapping[Any, Any], best: Mapping[Any, Any] | None, unlike: Mapping[str, str]) -> Iterator[Cell]:
    """The cells of `QUANTITIES`."""
    value, is_gain = float(number["value"]), number["unit"] != "fraction"
    source = f"{number['source']} ({number['status']})"
    yield replace(spoken(f"{100 * value:+.1f}" if is_gain else f"{100 * value:.1f}", source), mean=value)
    dash = spoken("")
    if is_gain or not best:
        yield from [dash] * (len(QUANTITIES) - 2)
        yield spoken("not comparable (gain)", f"a {number['unit']}") if is_gain else spoken("not run", UNFINISHED)
        return
    cell: Cell = best["cell"]
    away = cell.mean - value
    yield cell
    yield spoken(str(len(cell.values)))
    yield replace(spoken(f"{100 * away:+.1f}"), mean=away)
    if unlike:
        says = "; ".join(f"{kind}: {what}" for kind, what in unlike.items())
        yield from (dash, spoken(f"not comparable ({', '.join(unlike)})", says))
        return
    word, tolerance = verdict(number["value"], cell)
    yield dash if math.isnan(tolerance) else replace(spoken(f"{100 * tolerance:.1f}"), mean=tolerance)
    yield spoken(word)


def _entry(number: Mapping[Any, Any]) -> str:
    subset = [number["subset"]] if number["subset"] != "all" else []
    return ", ".join([number["variant"], number["category"], METRICS.get(number["metric"], number["metric"]), *subset])


def _order(number: Mapping[Any, Any]) -> tuple[Any, ...]:
    metric = [*METRICS, number["metric"]].index(number["metric"])
    return number["paper"], number["table"], metric, number["category"] == MEAN, number["category"], number["subset"]
