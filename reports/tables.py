"""Cells to tables: a spec chooses what stands in rows, in columns, and in a table of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from benchmarks.records import Record
from benchmarks.schema import NOT_STATED
from benchmarks.wording import counted
from reports import vocabulary
from reports.aggregate import Cell, empty_cell, text_cell
from reports.specs import AGGREGATIONS, axis_facets, open_facets
from reports.vocabulary import (
    AS_GIVEN,
    DIFFERENCE,
    IDENTITY,
    MEAN,
    PROTOCOLS,
    identity,
    labels,
    metric,
    number,
    shared,
)

BOLD = (  # computed in analysis/significance.py
    "Bold: better than every other variant with p < 0.05 after Holm's correction, with three seeds or more; of a "
    "category by a paired bootstrap over its test images and the seeds (image AUROC only), of the mean by Wilcoxon's "
    "signed-rank test over categories."
)
NOT_SCORED = empty_cell("not scored")


@dataclass(frozen=True)
class Table:
    """A table, ready to be written; `grid` holds a `Cell` for each row and column label."""

    kind: str  # the spec it comes from
    name: str  # of its files
    title: str
    caption: list[str]
    place: dict[str, str]  # what holds for the whole table: dataset, protocol, ...
    grid: pd.DataFrame
    is_blank: bool = False  # whether it is a paper's, and none of its published numbers could be read
    notices: tuple[str, ...] = ()  # allowed findings that concern it, which several tables may share

    @cached_property
    def marks(self) -> dict[str, str]:
        """The footnotes in order of appearance, each with its mark: a, b, ..., z, aa, ..."""
        notes = dict.fromkeys(cell.note for _, row in self.grid.iterrows() for cell in row if cell.note)
        return {note: chr(ord("a") + place % 26) * (place // 26 + 1) for place, note in enumerate(notes)}


def tables(
    name: str,
    spec: Mapping[str, Any],
    cells: pd.DataFrame,
    records: Sequence[Record],
    notes: Callable[[pd.DataFrame], Sequence[str]] = lambda part: (),
    variants: Sequence[str] = (),
) -> list[Table]:
    """All tables that a spec describes.

    Args:
        notes: what ends the caption of a table, made of its rows of `cells`.
        variants: in the order of the suite; without it they come by name.

    Raises:
        ValueError: the spec leaves a facet open, so that several results would fall into one place.
    """
    axes = {axis: axis_facets(spec, axis) for axis in ("rows", "columns")}
    _check_facets(spec, axes, cells)
    built = []
    of_paper = "covered" in cells
    for place, part in vocabulary.each(vocabulary.select(cells, spec)[0], spec["each"]):
        if of_paper and not part.covered.any():
            continue
        part = part.assign(cell=part.cell.map(lambda cell: _styled(cell, spec)))
        part = part if of_paper else part.sort_values("variant", kind="stable")
        caption = [*describe(part, records, spec.get("aggregation", AGGREGATIONS[0])), *notes(part)]
        title, file = vocabulary.title(spec, place), vocabulary.slug(name, *place.values())
        is_blank = of_paper and not any(number["value"] for number in part.number)
        built.append(Table(name, file, title, caption, place, _grid(part, axes, of_paper, variants), is_blank))
    return built


def _check_facets(spec: Mapping[str, Any], axes: Mapping[str, Sequence[str]], cells: pd.DataFrame) -> None:
    placed = {*spec["each"], *axes["rows"], *axes["columns"]}
    if left := open_facets(spec, placed, set(map(str, cells))):
        raise ValueError(f"{left[0]} must be in `each`, `rows` or `columns`, or have one value in `where`")


def _grid(
    part: pd.DataFrame, axes: Mapping[str, Sequence[str]], of_paper: bool, variants: Sequence[str]
) -> pd.DataFrame:
    """The cells by row and column label; a paper's rows and columns come as printed."""
    long = pd.DataFrame({axis: _axis_labels(part, axes[axis]) for axis in axes} | {"cell": part.cell.tolist()})
    grid = long.pivot(index="rows", columns="columns", values="cell")
    order = [
        list(long[axis].unique())
        if of_paper or {*AS_GIVEN} & {*axes[axis]}
        else vocabulary.ordered(long[axis], variants)
        for axis in axes
    ]
    gap = text_cell("", "not printed") if of_paper else NOT_SCORED
    grid = grid.reindex(index=order[0], columns=order[1]).map(lambda cell: cell if isinstance(cell, Cell) else gap)
    return grid.rename_axis(", ".join(axes["rows"]), axis=0).rename_axis(None, axis=1)


def _axis_labels(part: pd.DataFrame, axis: Sequence[str]) -> list[str]:
    """The label of each row of `part` on an axis of one or several facets."""
    return [": ".join(names) for names in zip(*(labels(part[identity(f, part)]) for f in axis), strict=True)]


def _styled(cell: Cell, spec: Mapping[str, Any]) -> Cell:
    """The cell with the spec's `aggregation` and `highlight`."""
    if spec.get("aggregation") == "median" and cell.values and not cell.word:
        low, middle, high = (float(value) for value in pd.Series(cell.values).quantile([0, 0.5, 1]))
        ends = f" ({number(low, cell.percent)} to {number(high, cell.percent)})" if len(cell.values) > 1 else ""
        cell = replace(cell, mean=middle, std=math.nan, word=number(middle, cell.percent) + ends)
    return replace(cell, bold=cell.bold and spec.get("highlight") != "none")


def describe(part: pd.DataFrame, records: Sequence[Record], aggregation: str = "mean") -> list[str]:
    """What a comparison depends on, a sentence each: seeds, teacher, selection, budget, convention, deviations."""
    part = part[part.teacher != ""]  # without variants that have not run
    if part.empty:
        return []
    named = labels(part[IDENTITY["variant"]])
    variants = dict(zip(named, part.variant, strict=True))
    protocols = PROTOCOLS if DIFFERENCE in set(part.protocol) else set(part.protocol)
    datasets = set(part.dataset)
    of_variant = {
        label: [r for r in records if r.variant == variant and r.dataset in datasets and r.protocol in protocols]
        for label, variant in variants.items()
    }
    conventions = part["measured_convention" if "measured_convention" in part else "convention"]
    metrics = zip(labels(part[identity("metric", part)]), conventions, strict=True)
    teachers = shared(dict(zip(named, part.teacher, strict=True)))
    caption = [
        _numbers(part, aggregation),
        f"Teachers differ between variants: {teachers}." if "; " in teachers else f"Teacher: {teachers}.",
        f"Selection: {shared(dict(zip(named, part.selection, strict=True)))}.",
        f"Budget: {shared({label: _budget(runs) for label, runs in of_variant.items()})}.",
        f"Convention: {shared(dict(metrics))}.",
    ]
    if any(cell.bold for cell in part.cell):
        caption.append(BOLD)
    for label, runs in of_variant.items():
        if scores := {str(record.hyper_parameters["image_score"]) for record in runs if record.is_imported}:
            how = " or ".join(sorted(scores))
            caption.append(f"Imported: other software made the anomaly maps of {label}; image score: {how}.")
    for label, runs in of_variant.items():
        deviations = dict.fromkeys(text.rstrip(".") for record in runs for text in record.deviations)
        caption += [f"Deviations of {label}: {'; '.join(deviations)}."] if deviations else []
    return caption


def _numbers(part: pd.DataFrame, aggregation: str) -> str:
    """What the numbers of a table are."""
    seeds = sorted({seed for cell in part.cell for seed in cell.values})
    over = {"mean": "mean ± sample standard deviation", "median": "median (lowest to highest)"}[aggregation]
    spread = f"{over} over {len(seeds)} seeds" if len(seeds) > 1 else "one seed, so no standard deviation"
    listed = f" ({'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))})" if seeds else ""
    sentences = [f"{_unit(part.metric)}; {spread}{listed}."]
    if lower := [metric(name).title for name in part.metric.unique() if metric(name).direction == "lower"]:
        sentences.append(f"Lower is better: {', '.join(lower)}.")
    if MEAN in set(part.category):
        sentences.append("The mean is taken over categories within each seed, then over seeds.")
    if DIFFERENCE in set(part.protocol):
        sentences.append("The difference is multi-class minus one-class in points, taken within each seed first.")
    return " ".join(sentences)


def _unit(names: Iterable[str]) -> str:
    fractions = {metric(name).is_fraction for name in names}
    if fractions == {True, False}:
        return "Percent, where a metric lies in [0, 1]"
    return "Percent" if True in fractions else "In the metric's own unit"


def _budget(records: Sequence[Record]) -> str:
    """What was spent on training, e.g. "20 epochs, images of 256 px, bfloat16", or "no epochs, …"."""
    budgets = set()
    for record in records:
        values = record.hyper_parameters
        if record.is_imported and "epochs" not in values:
            parts = [f"epochs {NOT_STATED}"]
        else:
            epochs = values.get("epochs", len(record.history))
            parts = [counted(epochs, "epoch") if epochs else "no epochs"]
        if "image_size" in values:
            parts.append(f"images of {values['image_size']} px")
        elif record.is_imported:
            parts.append(f"image size {NOT_STATED}")
        budgets.add(", ".join([*parts, *filter(None, [record.compute.get("precision")])]))
    return " or ".join(sorted(budgets)) or "not recorded"
