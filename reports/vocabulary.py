"""The words of a report: facets of a result, their labels, their order, and how numbers are written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from benchmarks import schema
from benchmarks.metrics.registry import METRICS, Metric
from benchmarks.records import Record
from benchmarks.schema import IMAGE_CONVENTION, SELECTIONS
from methods.base import did_you_mean

GROUP = [*schema.GROUP]
MEAN = "mean"  # the row that averages the categories
SUBSET_MEAN = "mean of logical and structural"
DIFFERENCE = "difference"
PROTOCOLS = ["one_class", "multi_class", DIFFERENCE]  # in the order of columns
# What a facet consists of: two conventions of a metric, or two selections of a variant, never share a column.
IDENTITY = {"metric": ["metric", "convention"], "variant": ["variant", "selection", "teacher"]}
BLOCK = ["dataset", "protocol", "subset", "metric", "convention"]  # what variants are compared within
FACETS = (
    "dataset", "protocol", "subset", "metric", "variant", "category", "paper", "table", "method", "entry", "quantity"
)  # fmt: skip
WHERE = (*FACETS, "convention", "selection", "teacher")  # what a spec can filter by
# What an entry, a row of the reproduction table, includes; and a method, a row of a paper's table.
OF_FACET = {"entry": {"subset", "metric", "variant", "category"}, "method": {"variant", "paper", "table"}}
AS_GIVEN = ("entry", "quantity", "method")  # facets whose names come in an order of their own
KNOWN: dict[str, Iterable[str]] = {  # valid names, even where no result has them
    "metric": METRICS,
    "protocol": PROTOCOLS,
    "subset": ["all", "logical", "structural", SUBSET_MEAN],
    "selection": SELECTIONS,
    "category": [MEAN],
}
DASH = "\N{EN DASH}"
PRINTED = {  # names of files, as papers write them
    "rd": "RD", "fd": "FD", "snl": "SNL", "snl_fd": "SNL-FD", "aand": "AAND", "dskd": "DSKD", "padim": "PaDiM",
    "mvtec_ad": "MVTec AD",
    "mvtec_ad_2": "MVTec AD 2", "visa": "VisA", "mvtec_loco": "MVTec LOCO", "mvtec_3d_rgb": "MVTec 3D-AD (RGB)",
    "one_class": "one-class", "multi_class": "multi-class",
}  # fmt: skip


def metric(name: str) -> Metric:
    """The metric of this name; one that is not registered counts as a fraction, and is shown by its name."""
    return METRICS.get(name) or Metric(name, "image" if name.startswith("image_") else "pixel", compute=_not_registered)


def _not_registered(*_: object) -> float:
    raise NotImplementedError("only registered metrics are computed")


def is_image_metric(name: str) -> bool:
    return metric(name).level == "image"


def sign(name: str) -> int:
    """1 where higher values of the metric are better, -1 where lower ones are."""
    return 1 if metric(name).direction == "higher" else -1


def number(value: float, percent: bool = True, form: str = "") -> str:
    """A value as tables print it: percent with one decimal, or four significant digits.

    >>> number(0.9712), number(-0.02, form="+"), number(12.34567, percent=False)
    ('97.1', '-2.0', '12.35')
    """
    return f"{100 * value:{form}.1f}" if percent else f"{value:{form}.4g}"


def as_printed(text: str) -> str:
    """A label or title with its names as papers write them.

    >>> as_printed("rd - fd · mvtec_ad · one_class"), as_printed("rd_pixel")
    ('RD - FD · MVTec AD · one-class', 'rd_pixel')
    """
    return re.sub(r"\w+", lambda word: PRINTED.get(word[0], word[0]), text)


def sentence(text: str) -> str:
    """The text with a full stop, unless it ends a sentence already.

    >>> sentence("unknown 'a'. Did you mean 'b'?"), sentence("a.csv is missing")
    ("unknown 'a'. Did you mean 'b'?", 'a.csv is missing.')
    """
    return text if text.endswith((".", "?")) else f"{text}."


def run_name(record: Record) -> str:
    """GROUP/SPLIT-seedK: its folder below `predictions`."""
    return f"{record.group}/{record.stem}"


def run_of(path: str) -> str:
    """The name of a run from the path of its record."""
    return "/".join(path.split("/")[-3:-1])


def identity(facet: str, data: pd.DataFrame) -> list[str]:
    """The columns of `data` that must agree for two rows to share a name of the facet."""
    return [column for column in IDENTITY.get(facet, [facet]) if column in data]


def select(data: pd.DataFrame, spec: Mapping[str, Any]) -> tuple[pd.DataFrame, list[str]]:
    """The rows that a spec's `where` asks for, and one sentence for each name that no row has."""
    problems = []
    for facet, names in spec.get("where", {}).items():
        if facet not in data:
            possible = [name for name in WHERE if name in data]
            problems.append(f"`where` has an unknown facet '{facet}'. {did_you_mean(facet, possible)}")
            continue
        known = [*dict.fromkeys([*sorted(data[facet].unique()), *KNOWN.get(facet, ())])]
        problems += [f"unknown {facet} '{name}'. {did_you_mean(name, known)}" for name in names if name not in known]
        data = data[data[facet].isin(names)]
        if facet == "paper":  # papers come in the order of the spec
            data = data.iloc[data[facet].map(names.index).astype(int).argsort(kind="stable")]
    return data, problems


def each(data: pd.DataFrame, facets: Sequence[str]) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """One frame for each value of the facets, with that value by facet name. Metrics come in the order of `METRICS`."""
    keys = [column for facet in facets for column in identity(facet, data)]
    order = {name: rank for rank, name in enumerate(METRICS)}
    if "metric" in data:
        data = data.sort_values(
            "metric", key=lambda names: names.map(lambda n: order.get(n, len(order))), kind="stable"
        )
    for values, part in data.groupby(keys, sort=False):
        yield dict(zip(keys, map(str, values), strict=True)), part


def title(spec: Mapping[str, Any], place: Mapping[str, str]) -> str:
    """A spec's title with the names of this table or figure filled in."""
    words = {**place, "metric": metric(place["metric"]).title if "metric" in place else ""}
    if place.get("convention", IMAGE_CONVENTION) != IMAGE_CONVENTION:
        words["metric"] += f" ({place['convention']})"
    if words.get("subset") == "all":
        words["subset"] = "all anomalies"
    return str(spec["title"]).format(**words)


def slug(*words: str) -> str:
    """The words as a file name and anchor."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", "-".join(words)).strip("-")


def labels(keys: pd.DataFrame) -> list[str]:
    """A short label for each row of `keys`: its first column, and of the others what is needed to tell rows apart."""
    rows = list(keys.itertuples(index=False, name=None))
    alike: dict[str, list[tuple[Any, ...]]] = {}  # the distinct keys by their first column
    for key in dict.fromkeys(rows):
        alike.setdefault(key[0], []).append(key)
    label_of = {}
    for first, of_first in alike.items():
        differs = [len(set(values)) > 1 for values in zip(*of_first, strict=True)]
        label = metric(first).title if keys.columns[0] == "metric" else first
        for key in of_first:
            extra = [
                str(value) for value, needed in zip(key[1:], differs[1:], strict=True) if needed or value == "oracle"
            ]
            label_of[key] = f"{label} ({', '.join(extra)})" if extra else label
    return [label_of[key] for key in rows]


def ordered(names: Iterable[str], variants: Sequence[str] = ()) -> list[str]:
    """Labels as a table lists them: metrics, protocols and `variants` in their order, others by name, the mean last.

    >>> ordered(["mean", "fd: AUPRO", "bolt", "rd: AUPRO (pooled)", "rd: image AUROC"], variants=["rd", "fd"])
    ['rd: image AUROC', 'rd: AUPRO (pooled)', 'fd: AUPRO', 'bolt', 'mean']
    """
    order = [*(metric.title for metric in METRICS.values()), *PROTOCOLS, *variants]
    rank = {name: place for place, name in enumerate(order)}

    def place(name: str) -> tuple[bool, list[tuple[int, str]]]:
        parts = name.split(": ")
        return name == MEAN, [(rank.get(re.sub(r" \(.*", "", part), len(rank)), part) for part in parts]

    return sorted(set(names), key=place)


def shared(by_label: Mapping[str, str]) -> str:
    """A value that all labels share, or the value of each."""
    values = set(by_label.values())
    return values.pop() if len(values) == 1 else "; ".join(f"{label}: {value}" for label, value in by_label.items())
