"""The ledger: every published number that a suite covers beside the measured one, with a verdict from one rule."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import t as student

from reports.published import resolution
from reports.tables import BLOCK, DIFFERENCE, IDENTITY, MEAN, METRICS, QUANTITIES, UNFINISHED, Cell, Plan

COUNTS = Path(__file__).parent / "image_counts.csv"  # of the official data sets
WIDEST = 0.02  # a tolerance above this would call almost anything reproduced; papers differ by less
RULE = [
    "Rule: the tolerance is the half-width of the 95% prediction interval of one more seed, t s sqrt(1 + 1/n) over n "
    "seeds with sample standard deviation s, plus half a unit of the last printed digit. Within it a number is "
    "reproduced, beyond it the measured mean is above or below. One seed gives no verdict, nor does a tolerance of "
    f"more than {100 * WIDEST:g} points when the number lies within it.",
    "Not comparable: the best-matching runs differ from the source in protocol, convention, selection, teacher, budget "
    "(epochs, image size) or data (official categories and numbers of images). What a source does not state does not "
    "count as different; but AUPRO without its convention compares with nothing. Image metrics have one convention.",
]
VERDICTS = ["reproduced", "above", "below", "not comparable", "no verdict", "not run"]
COLUMNS = ["paper", "table", *BLOCK, *IDENTITY["variant"], "category", "entry", "quantity", "cell"]


def entries(
    published: pd.DataFrame,
    cells: pd.DataFrame,
    scores: pd.DataFrame,
    records: Sequence[Mapping[str, Any]],
    plan: Plan,
) -> pd.DataFrame:
    """One row for each covered number and quantity of `tables.QUANTITIES`, with its `Cell`.

    A number is covered if the suite has its variant on its data set; runs under another protocol make it not
    comparable.

    Args:
        published: rows as in `reports/published/README.md`.
        cells: rows of `tables.aggregate`.
        scores: tidy rows as in `results/README.md`.
        records: the finished runs.
        plan: the planned runs.
    """
    suite = {group[:2] for group in plan} | {*zip(cells.variant, cells.dataset, strict=True)}
    covered = published[[pair in suite for pair in zip(published.variant, published.dataset, strict=True)]]
    measured: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in cells.to_dict("records"):
        if row["cell"].values:
            measured.setdefault(tuple(row[name] for name in NUMBER), []).append(row)
    budgets, data = _budgets(records), _data(scores, records)
    found = []
    for number in sorted(covered.to_dict("records"), key=_order):
        place = {name: str(number[name]) for name in ("paper", "table", *BLOCK, "variant", "category")}
        candidates = measured.get(tuple(number[name] for name in NUMBER), [])
        judged = [(_differences(number, row, budgets, data), row) for row in candidates]
        unlike, best = min(judged, key=lambda pair: len(pair[0]), default=({}, None))
        place |= {name: best[name] if best else "" for name in ("selection", "teacher")}
        place["entry"] = ", ".join(
            [number["variant"], number["category"], METRICS[number["metric"]]]
            + ([number["subset"]] if number["subset"] != "all" else [])
        )
        if best:
            place["convention"] = best["convention"]
        for quantity, cell in zip(QUANTITIES, _quantities(number, best, unlike), strict=True):
            found.append({**place, "quantity": quantity, "cell": cell})
    return pd.DataFrame(found, columns=COLUMNS)


NUMBER = ["variant", "dataset", "category", "subset", "metric"]  # what a measured cell shares with a published number


def tally(entries: pd.DataFrame) -> pd.DataFrame:
    """How many numbers of each paper's table got which verdict, in the form of `entries`."""
    verdicts = entries[entries.quantity == "verdict"]
    word = [cell.word.split(" (")[0] for cell in verdicts.cell]
    found = []
    for keys, counts in verdicts.assign(word=word).groupby(["dataset", "protocol", "paper", "table"]):
        place = dict(zip(("dataset", "protocol", "paper", "table"), keys, strict=True))
        place["entry"] = f"{place.pop('paper')}, {place.pop('table')}"
        for verdict in VERDICTS:
            number = str(int((counts.word == verdict).sum()))
            found.append({**place, "quantity": verdict, "teacher": "", "variant": "", "cell": _word(number)})
    return pd.DataFrame(found, columns=["dataset", "protocol", "variant", "teacher", "entry", "quantity", "cell"])


def verdict(published: str, measured: Cell) -> tuple[str, float]:
    """The verdict of `RULE` on a comparable number, and its tolerance, NaN with one seed."""
    count = len(measured.values)
    if count < 2:
        return "no verdict (one seed)", math.nan
    spread = float(student.ppf(0.975, count - 1)) * measured.std * math.sqrt(1 + 1 / count)
    tolerance = spread + resolution(published)
    away = measured.mean - float(published)
    if abs(away) > tolerance:
        return "above" if away > 0 else "below", tolerance
    return ("no verdict (tolerance too wide)" if tolerance > WIDEST else "reproduced"), tolerance


def _quantities(number: Mapping[str, Any], best: Mapping[str, Any] | None, unlike: Mapping[str, str]) -> Iterator[Cell]:
    """The cells of `QUANTITIES`."""
    value, is_gain = float(number["value"]), number["unit"] != "fraction"
    printed = f"{100 * value:+.1f}" if is_gain else f"{100 * value:.1f}"
    source = f"{number['source']} ({number['status']})"
    yield replace(_word(printed, source), mean=value)
    if not best or is_gain:
        yield from [_word("\N{EN DASH}")] * (len(QUANTITIES) - 2)
        yield _word("not comparable (gain)", f"a {number['unit']}") if is_gain else _word("not run", UNFINISHED)
        return
    cell: Cell = best["cell"]
    yield cell
    yield _word(str(len(cell.values)))
    yield replace(_word(f"{100 * (cell.mean - value):+.1f}"), mean=cell.mean - value)
    if unlike:
        says = "; ".join(f"{kind}: {what}" for kind, what in unlike.items())
        yield from (_word("\N{EN DASH}"), _word(f"not comparable ({', '.join(unlike)})", says))
        return
    word, tolerance = verdict(number["value"], cell)
    yield _word("\N{EN DASH}") if math.isnan(tolerance) else replace(_word(f"{100 * tolerance:.1f}"), mean=tolerance)
    yield _word(word)


def _word(word: str, note: str = "") -> Cell:
    return Cell(math.nan, math.nan, {}, note, (), word)


def _order(number: Mapping[str, Any]) -> tuple[Any, ...]:
    metric = [*METRICS].index(number["metric"])
    return number["paper"], number["table"], metric, number["category"] == MEAN, number["category"], number["subset"]


def _differences(
    number: Mapping[str, Any],
    measured: Mapping[str, Any],
    budgets: Mapping[tuple[str, str, str], Mapping[str, str]],
    data: Mapping[tuple[str, str, str, str], str],
) -> dict[str, str]:
    """What keeps a measured cell from being compared with a published number, by kind, in words."""
    run = (measured["variant"], measured["dataset"], measured["protocol"])
    teacher = measured["teacher"].split(" (")[0]
    stated = {part for part in number["convention"].split(", ") if part}
    of_pixels = not number["metric"].startswith("image_")
    epochs, size = (budgets.get(run, {}).get(name, "unknown") for name in ("epochs", "image_size"))
    wanted = [f"{number['epochs']} epochs"] if number["epochs"] not in ("", epochs) else []
    wanted += [f"{number['image_size']} px"] if number["image_size"] not in ("", size) else []
    found = {
        "protocol": (measured["protocol"] != number["protocol"], measured["protocol"], number["protocol"]),
        "convention": (
            of_pixels and bool(stated - {*measured["convention"].split(", ")} or not stated and of_pro(number)),
            measured["convention"],
            number["convention"] or "one that is not stated",
        ),
        "selection": (number["selection"] not in ("", measured["selection"]), measured["selection"], number["selection"]),
        "teacher": (number["backbone"] not in ("", teacher, teacher.split(".")[0]), teacher, number["backbone"]),
        "budget": (bool(wanted), f"{epochs} epochs, {size} px", ", ".join(wanted)),
    }
    unlike = {kind: f"{ours} instead of {theirs}" for kind, (differs, ours, theirs) in found.items() if differs}
    odd = data.get((*run, number["category"]), "")
    return unlike | ({"data": odd} if odd else {})


def of_pro(number: Mapping[str, Any]) -> bool:
    """Whether a metric's value hangs on its convention."""
    return number["metric"] in ("aupro", "spro")


def _budgets(records: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str], dict[str, str]]:
    """Epochs and image size by variant, data set and protocol, as text; "20 or 200" where its runs differ."""
    found: dict[tuple[str, str, str], dict[str, set[str]]] = {}
    for record in records:
        of_run = found.setdefault((record["variant"], record["dataset"], record["protocol"]), {})
        for name in ("epochs", "image_size"):
            value = record.get("hyper_parameters", {}).get(name, "unknown")
            of_run.setdefault(name, set()).add(str(value))
    return {run: {name: " or ".join(sorted(values)) for name, values in of.items()} for run, of in found.items()}


def _data(scores: pd.DataFrame, records: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str, str], str]:
    """What is not official about the images of each variant, data set, protocol and category; "" if nothing is."""
    official = pd.read_csv(COUNTS).set_index(["dataset", "category"])
    trained = {tuple(r[n] for n in (*RUN, "split")): r.get("data", {}).get("train") for r in records}
    found: dict[tuple[str, str, str, str], str] = {}
    tested = scores[scores.subset == "all"].drop_duplicates([*RUN, "category"])
    for keys, rows in tested.groupby(RUN):
        run, dataset = tuple(map(str, keys)), str(keys[1])
        if dataset not in official.index.levels[0]:
            continue
        counts = official.loc[dataset]
        odd = {}
        for row in rows.to_dict("records"):
            name = row["category"]
            known = counts.loc[name] if name in counts.index else None
            train = trained.get((*run, name), trained.get((*run, "all")))
            wanted = counts.train.sum() if run[2] == "multi_class" else known.train if known is not None else None
            ours = (train, int(row["images"]) - int(row["anomalous"]), int(row["anomalous"]))
            theirs = None if known is None else (wanted, known.good, known.anomalous)
            if ours != theirs:
                odd[name] = f"{ours} instead of {theirs} images of {name} (training, normal, anomalous)"
        missing = counts.index.difference(rows.category)
        short = [f"{len(counts) - len(missing)} of {len(counts)} categories"] if len(missing) else []
        found |= {(*run, name): odd.get(name, "") for name in rows.category}  # type: ignore[misc]
        found[(*run, MEAN)] = "; ".join([*short, *odd.values()])  # type: ignore[index]
    return found


RUN = ["variant", "dataset", "protocol"]
