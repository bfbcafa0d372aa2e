"""What keeps a measured number from being compared with a published one: six kinds of difference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import pandas as pd

from benchmarks.official_counts import official_counts
from benchmarks.records import Record
from benchmarks.schema import NOT_STATED
from reports.vocabulary import GROUP, MEAN, is_image_metric

NO_EPOCHS = "no"  # of a method that does not train by epochs
NEEDS_CONVENTION = ("aupro", "spro")  # identical maps score up to 0.2 apart under two conventions
RULE = (
    "Not comparable: the best-matching runs differ from the source in protocol, convention, selection, teacher, budget "
    "(epochs, image size) or data (official categories and numbers of images). What a source does not state does not "
    "count as different, except that a number without its epochs, of a method that has any, and AUPRO without its "
    "convention, are not comparable. Of image metrics, a source that labels images by their resized masks is noted, "
    "not called different."
)


class Setting(NamedTuple):
    """How numbers were measured, beyond what their rows say."""

    budgets: Mapping[tuple[str, ...], Mapping[str, str]]  # by variant, data set and protocol: epochs, image_size
    data: Mapping[tuple[str, ...], str]  # by these and category: what is not official about its images


def setting(scores: pd.DataFrame, records: Sequence[Record]) -> Setting:
    """Read budgets off the records, and the data off records and tidy rows."""
    return Setting(_budgets(records), _data(scores, records))


def differences(number: Mapping[Any, Any], measured: Mapping[Any, Any], how: Setting) -> dict[str, str]:
    """By kind, what was measured instead of what; empty if the two compare.

    Args:
        number: a row as in `reports/published/README.md`.
        measured: a row of `aggregate.aggregate`, of the same variant, data set, category, subset and metric.
        how: the setting of the measured ones.
    """
    run = tuple(measured[name] for name in GROUP)
    teacher = measured["teacher"].split(" (")[0]
    ours = {name: how.budgets.get(run, {}).get(name, "unknown") for name in ("epochs", "image_size")}
    unstated = NO_EPOCHS if ours["epochs"] == NO_EPOCHS else "an unstated number of"
    stated = {"epochs": number["epochs"] or unstated}
    stated |= {"image_size": number["image_size"]} if number["image_size"] else {}
    theirs = {name: number[name] or measured[name] for name in ("protocol", "selection")}
    agreement = {
        "protocol": (measured["protocol"] == theirs["protocol"], measured["protocol"], theirs["protocol"]),
        "convention": (
            _convention_agrees(number, measured),
            measured["convention"],
            number["convention"] or NOT_STATED,
        ),
        "selection": (measured["selection"] == theirs["selection"], measured["selection"], theirs["selection"]),
        "teacher": (number["backbone"] in ("", teacher, teacher.split(".")[0]), teacher, number["backbone"]),
        "budget": (stated == {name: ours[name] for name in stated}, _budget(ours, stated), _budget(stated, stated)),
    }
    differing = {kind: f"{ours} instead of {source}" for kind, (same, ours, source) in agreement.items() if not same}
    data = how.data.get((*run, number["category"]))
    return differing | ({"data": data} if data else {})


def _budget(of: Mapping[str, str], names: Iterable[str]) -> str:
    units = {"epochs": "epochs", "image_size": "px"}
    return ", ".join(f"{of[name]} {units[name]}" for name in names)


def _convention_agrees(number: Mapping[Any, Any], measured: Mapping[Any, Any]) -> bool:
    if is_image_metric(number["metric"]):
        return True
    stated = set(number["convention"].split(", ")) - {"", NOT_STATED}
    return stated <= {*measured["convention"].split(", ")} if stated else number["metric"] not in NEEDS_CONVENTION


def _budgets(records: Sequence[Record]) -> dict[tuple[str, ...], dict[str, str]]:
    """Epochs and image size as text; "20 or 200" where the runs of a group differ."""
    budgets: dict[tuple[str, ...], dict[str, set[str]]] = {}
    for record in records:
        of_group = budgets.setdefault(record.group_key, {})
        unknown = NOT_STATED if record.is_imported else "unknown"
        for name, default in (("epochs", NOT_STATED if record.is_imported else NO_EPOCHS), ("image_size", unknown)):
            of_group.setdefault(name, set()).add(str(record.hyper_parameters.get(name, default) or NO_EPOCHS))
    return {group: {name: " or ".join(sorted(values)) for name, values in of.items()} for group, of in budgets.items()}


def _data(scores: pd.DataFrame, records: Sequence[Record]) -> dict[tuple[str, ...], str]:
    """Empty text where all images are official; no entry for data sets of which no official counts are known."""
    trained: dict[tuple[str, ...], int | None] = {
        (*record.group_key, record.split): record.data.train for record in records
    }
    tested = scores[scores.subset == "all"].drop_duplicates([*GROUP, "category"])
    differing: dict[tuple[str, ...], str] = {}
    for keys, rows in tested.groupby(GROUP):
        group = tuple(map(str, keys))
        official, earlier = counts(group[1]), counts(group[1], "earlier")
        if not official:
            continue
        of_category = {
            row["category"]: min(
                (_category(group, row, trained, release) for release in (official, official | earlier)), key=bool
            )
            for row in rows.to_dict("records")
        }
        differing |= {(*group, name): text for name, text in of_category.items()}
        missing = len({*official} - {*of_category})
        short = f"{len(official) - missing} of {len(official)} categories" if missing else ""
        parts = "; ".join(of_category.values()).split("; ")
        differing[(*group, MEAN)] = "; ".join(dict.fromkeys(filter(None, [short, *parts])))
    return differing


class Counts(NamedTuple):
    """Official numbers of images of a category."""

    train: int
    normal: int
    anomalous: int


def counts(dataset: str, column: Literal["images", "earlier"] = "images") -> dict[str, Counts]:
    """The official counts by category, or those of an earlier release where it differs; empty where none are known."""
    known = {"train", "validation", "good"}
    return {
        category: Counts(of["train"], of["good"], sum(images for name, images in of.items() if name not in known))
        for category, of in official_counts(dataset, column).items()
    }


def _category(
    group: tuple[str, ...],
    row: Mapping[Any, Any],
    trained: Mapping[tuple[str, ...], int | None],
    official: Mapping[str, Counts],
) -> str:
    """In what the images of one category differ from the official ones; empty if in nothing."""
    name, is_multi = row["category"], group[2] == "multi_class"
    wanted = official.get(name, Counts(0, 0, 0))
    train = sum(of.train for of in official.values()) if is_multi else wanted.train
    trained_on = trained.get((*group, name), trained.get((*group, "all")))
    test = (int(row["images"]) - int(row["anomalous"]), int(row["anomalous"]))
    fit = _differing(["training"], ["unknown" if trained_on is None else trained_on], [train])
    fit = fit and (f"one model was trained on {fit}" if is_multi else f"{name} has {fit}")
    seen = _differing(["normal test", "anomalous test"], test, wanted[1:])
    return "; ".join(filter(None, [fit, seen and f"{name} has {seen}"]))


def _differing(kinds: Sequence[str], ours: Sequence[Any], official: Sequence[int]) -> str:
    """The counts that are not official, as text; empty if all are."""
    triples = zip(kinds, ours, official, strict=True)
    return ", ".join(f"{count} {kind} images (official {wanted})" for kind, count, wanted in triples if count != wanted)
