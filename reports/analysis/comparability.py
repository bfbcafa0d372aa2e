"""What keeps a measured number from being compared with a published one: six kinds of difference, each in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from reports.tables import GROUP, MEAN

COUNTS = Path(__file__).parent / "image_counts.csv"  # of the official data sets: training, normal and anomalous images
NEEDS_CONVENTION = ("aupro", "spro")  # identical maps score up to 0.2 apart under two conventions
RULE = (
    "Not comparable: the best-matching runs differ from the source in protocol, convention, selection, teacher, budget "
    "(epochs, image size) or data (official categories and numbers of images). What a source does not state does not "
    "count as different, except that a number without its epochs, and AUPRO without its convention, compare with "
    "nothing. Of image metrics, a source that labels images by their resized masks is told of, not called different."
)


class Setting(NamedTuple):
    """How numbers were measured, beyond what their rows say."""

    budgets: Mapping[tuple[str, ...], Mapping[str, str]]  # by variant, data set and protocol: epochs, image_size
    data: Mapping[tuple[str, ...], str]  # by these and category: what is not official about its images


def setting(scores: pd.DataFrame, records: Sequence[Mapping[str, Any]]) -> Setting:
    """Read budgets off the records, and the data off records and tidy rows."""
    return Setting(_budgets(records), _data(scores, records))


def differences(number: Mapping[Any, Any], measured: Mapping[Any, Any], how: Setting) -> dict[str, str]:
    """By kind, what was measured instead of what; empty if the two compare.

    Args:
        number: a row as in `reports/published/README.md`.
        measured: a row of `tables.aggregate`, of the same variant, data set, category, subset and metric.
        how: the setting of the measured ones.
    """
    run = tuple(measured[name] for name in GROUP)
    teacher = measured["teacher"].split(" (")[0]
    ours = {name: how.budgets.get(run, {}).get(name, "unknown") for name in ("epochs", "image_size")}
    stated = {"epochs": number["epochs"] or "an unstated number of"}
    stated |= {"image_size": number["image_size"]} if number["image_size"] else {}
    theirs = {name: number[name] or measured[name] for name in ("protocol", "selection")}
    found = {
        "protocol": (measured["protocol"] == theirs["protocol"], measured["protocol"], theirs["protocol"]),
        "convention": (
            _convention_agrees(number, measured),
            measured["convention"],
            number["convention"] or "unstated",
        ),
        "selection": (measured["selection"] == theirs["selection"], measured["selection"], theirs["selection"]),
        "teacher": (number["backbone"] in ("", teacher, teacher.split(".")[0]), teacher, number["backbone"]),
        "budget": (stated == {name: ours[name] for name in stated}, _budget(ours, stated), _budget(stated, stated)),
    }
    unlike = {kind: f"{measures} instead of {wanted}" for kind, (same, measures, wanted) in found.items() if not same}
    odd = how.data.get((*run, number["category"]))
    return unlike | ({"data": odd} if odd else {})


def _budget(of: Mapping[str, str], names: Iterable[str]) -> str:
    units = {"epochs": "epochs", "image_size": "px"}
    return ", ".join(f"{of[name]} {units[name]}" for name in names)


def _convention_agrees(number: Mapping[Any, Any], measured: Mapping[Any, Any]) -> bool:
    if number["metric"].startswith("image_"):
        return True
    stated = set(filter(None, number["convention"].split(", ")))
    return stated <= {*measured["convention"].split(", ")} if stated else number["metric"] not in NEEDS_CONVENTION


def _budgets(records: Sequence[Mapping[str, Any]]) -> dict[tuple[str, ...], dict[str, str]]:
    """Epochs and image size as text; "20 or 200" where the runs of a group differ."""
    found: dict[tuple[str, ...], dict[str, set[str]]] = {}
    for record in records:
        of_group = found.setdefault(tuple(record[name] for name in GROUP), {})
        for name in ("epochs", "image_size"):
            of_group.setdefault(name, set()).add(str(record.get("hyper_parameters", {}).get(name, "unknown")))
    return {group: {name: " or ".join(sorted(values)) for name, values in of.items()} for group, of in found.items()}


def _data(scores: pd.DataFrame, records: Sequence[Mapping[str, Any]]) -> dict[tuple[str, ...], str]:
    """Empty text where all images are official; no entry for data sets of which no official counts are known."""
    counts = pd.read_csv(COUNTS)
    trained = {tuple(r[n] for n in (*GROUP, "split")): r.get("data", {}).get("train", "unknown") for r in records}
    tested = scores[(scores.subset == "all") & scores.dataset.isin(counts.dataset)]
    tested = tested.drop_duplicates([*GROUP, "category"])
    found: dict[tuple[str, ...], str] = {}
    for keys, rows in tested.groupby(GROUP):
        group = tuple(map(str, keys))
        official = {
            str(row["category"]): (row["train"], row["good"], row["anomalous"])
            for row in counts[counts.dataset == group[1]].to_dict("records")
        }
        of_all = sum(train for train, *_ in official.values())
        odd = {}
        for row in rows.to_dict("records"):
            name = row["category"]
            train, *test = official.get(name, (0, 0, 0))
            wanted = (of_all if group[2] == "multi_class" else train, *test)
            fitted = trained.get((*group, name), trained.get((*group, "all"), "unknown"))
            test_counts = (int(row["images"]) - int(row["anomalous"]), int(row["anomalous"]))
            fit = _unlike(["training"], [fitted], wanted[:1])
            fit = fit and (f"one model learnt from {fit}" if group[2] == "multi_class" else f"{name} has {fit}")
            seen = _unlike(["normal test", "anomalous test"], test_counts, wanted[1:])
            odd[name] = "; ".join(filter(None, [fit, seen and f"{name} has {seen}"]))
        found |= {(*group, name): said for name, said in odd.items()}
        lacking = len({*official} - {*odd})
        short = f"{len(official) - lacking} of {len(official)} categories" if lacking else ""
        found[(*group, MEAN)] = "; ".join(dict.fromkeys(filter(None, [short, *"; ".join(odd.values()).split("; ")])))
    return found


def _unlike(kinds: Sequence[str], ours: Sequence[Any], official: Sequence[int]) -> str:
    """In words, the counts that are not official; empty if all are."""
    triples = zip(kinds, ours, official, strict=True)
    return ", ".join(f"{count} {kind} images (official {wanted})" for kind, count, wanted in triples if count != wanted)
