"""Tidy scores to tables: mean ± sample standard deviation over seeds, as Markdown and CSV; LaTeX is in latex.py.

`aggregate` computes every number once; a spec chooses what stands in rows, in columns, and in a table of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import pandas as pd

GROUP = ["variant", "dataset", "protocol"]  # what a stage of the pipeline runs
MEAN = "mean"  # the row that averages the categories
SUBSET_MEAN = "mean of logical and structural"
METRICS = {  # how they are written and in which order; a metric that is not here is shown by its name, after these
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1_max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1_max": "pixel F1-max",
    "aupro": "AUPRO",
    "spro": "sPRO",
}
IMAGE_CONVENTION = "folder label"  # there is but one for image metrics, so it need not be said
# What a facet really is: two conventions of a metric, or two selections of a variant, never share a column.
IDENTITY = {"metric": ["metric", "convention"], "variant": ["variant", "selection", "teacher"]}
DIFFERENCE = "difference"
PROTOCOLS = ["one_class", "multi_class", DIFFERENCE]  # in the order of columns
FACETS = (
    "dataset", "protocol", "subset", "metric", "variant", "category", "paper", "table", "method", "entry", "quantity"
)  # fmt: skip
# What an entry, the row of a ledger, says itself; and a method, the row of a paper's table.
OF_FACET = {"entry": {"subset", "metric", "variant", "category"}, "method": {"variant", "paper", "table"}}
AS_GIVEN = ("entry", "quantity", "method")  # facets whose names come in an order of their own
AGGREGATIONS = ("mean", "median")  # over seeds
HIGHLIGHTS = ("significant", "none")  # what is bold
BLOCK = ["dataset", "protocol", "subset", "metric", "convention"]
BOLD = (  # how, says statistics.py
    "Bold: better than every other variant with p < 0.05 after Holm's correction, with three seeds or more; of a "
    "category by a paired bootstrap over its test images and the seeds (image AUROC only), of the mean by Wilcoxon's "
    "signed-rank test over categories."
)
UNFINISHED = "no finished run was scored"
KNOWN: dict[str, Iterable[str]] = {  # names that are no mistake, though no result may have them
    "metric": METRICS,
    "protocol": PROTOCOLS,
    "subset": ["all", "logical", "structural", SUBSET_MEAN],
    "selection": ["last", "validation", "oracle"],
    "category": [MEAN],
}
# (variant, dataset, protocol) -> its runs by SPLIT-seedK, or "unsupported" -> reason
Plan = Mapping[tuple[str, str, str], Mapping[str, Any]]


@dataclass(frozen=True)
class Cell:
    """What a table prints in one place; `mean` and `std` are fractions, NaN where they do not exist."""

    mean: float
    std: float
    values: dict[int, float]  # by seed
    note: str  # why the cell is empty, or which seeds or categories it lacks
    records: tuple[str, ...]  # paths of the records behind it
    word: str = ""  # printed in place of a number that no seed gave, such as a verdict
    bold: bool = False  # significantly better than every other variant: see `statistics.mark`
    category: str = MEAN  # which of the categories in its records it is about

    @property
    def text(self) -> str:
        """Percent with one decimal, e.g. "97.1 ± 0.3"; "97.1" with one seed; a dash if empty."""
        if self.word:
            return self.word
        if not self.values:
            return "\N{EN DASH}"
        return f"{100 * self.mean:.1f}" + (f" ± {100 * self.std:.1f}" if len(self.values) > 1 else "")


@dataclass(frozen=True)
class Table:
    """A table, ready to be written; `grid` holds a `Cell` for each row and column label."""

    kind: str  # the spec it comes from
    name: str  # of its files
    title: str
    caption: list[str]
    place: dict[str, str]  # what holds for the whole table: dataset, protocol, ...
    grid: pd.DataFrame

    @cached_property
    def marks(self) -> dict[str, str]:
        """The footnotes in order of appearance, each with its mark: a, b, ..., z, aa, ..."""
        notes = dict.fromkeys(cell.note for _, row in self.grid.iterrows() for cell in row if cell.note)
        return {note: chr(ord("a") + place % 26) * (place // 26 + 1) for place, note in enumerate(notes)}


def spoken(word: str, note: str = "") -> Cell:
    """A cell of words; an empty one prints a dash."""
    return Cell(math.nan, math.nan, {}, note, (), word or "\N{EN DASH}")


ABSENT = Cell(math.nan, math.nan, {}, "not scored", ())


def within_range(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows with what is no fraction left empty, and the reason why."""
    wrong = (scores.value < 0) | (scores.value > 1)
    reason = "scored as " + scores.value.astype(str) + ", which is outside [0, 1]"
    return scores.assign(value=scores.value.mask(wrong), reason=scores.reason.mask(wrong, reason))


def with_subset_mean(scores: pd.DataFrame) -> pd.DataFrame:
    """Add the mean of `logical` and `structural` as one more subset, as MVTec LOCO's authors report it."""
    parts = scores[scores.subset.isin(["logical", "structural"])]
    key = [*BLOCK, "variant", "selection", "teacher", "category", "seed"]
    key.remove("subset")
    both = []
    for _, pair in parts.groupby(key, sort=False):
        reasons = [f"{row['subset']}: {row['reason']}" for row in pair.to_dict("records") if row["reason"]]
        if len(pair) == 1:
            reasons.append(f"only {pair.subset.iloc[0]} anomalies were scored")
        mean = pair.value.mean() if len(pair) == 2 and pair.value.notna().all() else math.nan
        both.append({**pair.iloc[0], "subset": SUBSET_MEAN, "value": mean, "reason": "; ".join(reasons)})
    return pd.concat([scores, pd.DataFrame(both)], ignore_index=True) if both else scores


def one_against_multi_class(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of data sets that have both protocols, and, as one more protocol, their difference.

    The difference is multi-class minus one-class, of the same cell and seed; below 0 where learning all categories at
    once does harm. Empty where no cell has both.
    """
    key = [column for column in (*BLOCK, *IDENTITY["variant"], "category", "seed") if column != "protocol"]
    of_protocol = [scores[scores.protocol == name] for name in PROTOCOLS[:2]]
    both = of_protocol[0].merge(of_protocol[1], on=key, suffixes=("_one", ""))  # what is kept is of multi_class
    both["value"] -= both.value_one
    both["reason"] = [
        "; ".join(f"{protocol}: {why}" for protocol, why in zip(PROTOCOLS, pair, strict=False) if why)
        for pair in zip(both.reason_one, both.reason, strict=True)
    ]
    both["protocol"] = DIFFERENCE
    both["record"] = both.record_one + "\n" + both.record  # a difference rests on two
    kept = scores[scores.dataset.isin(both.dataset) & scores.protocol.isin(PROTOCOLS)]
    return pd.concat([kept, both[scores.columns]], ignore_index=True) if len(both) else scores[:0]


def aggregate(scores: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Every cell of every possible table: one row per block, variant and category, and one for the categories' mean.

    The mean averages the categories within a seed first. It covers the categories that at least one variant has a value
    for; a seed that lacks one of these has no mean, so that means of different variants stay comparable.

    Args:
        scores: tidy rows as in `results/README.md`.
        plan: planned runs, to name the seeds that are still missing.

    Returns:
        The columns of `BLOCK`, `variant`, `selection`, `teacher`, `category` and `cell` (a `Cell`).
    """
    found = []
    for keys, of_block in scores.groupby(BLOCK, sort=False):
        block = dict(zip(BLOCK, map(str, keys), strict=True))
        categories = sorted(of_block.category.unique())
        defined = sorted(of_block.category[of_block.value.notna()].unique())
        undefined = [category for category in categories if category not in defined]
        for names, rows in of_block.groupby(IDENTITY["variant"], sort=False):
            place = block | dict(zip(IDENTITY["variant"], map(str, names), strict=True))
            planned = plan.get((place["variant"], place["dataset"], place["protocol"]), {})
            seeds = sorted({*rows.seed, *(int(run.rsplit("-seed", 1)[1]) for run in planned if "-seed" in run)})
            grid = rows.pivot(index="category", columns="seed", values="value").reindex(index=categories, columns=seeds)
            reason = {
                (row["category"], row["seed"]): row["reason"] or "no reason was recorded"
                for row in rows.to_dict("records")
            }
            for category in categories:
                why = {seed: reason.get((category, seed), UNFINISHED) for seed in seeds}
                cell = replace(
                    _cell(grid.loc[category], why, rows.record[rows.category == category]), category=category
                )
                found.append({**place, "category": category, "cell": cell})
            lacking = {seed: ", ".join(c for c in defined if pd.isna(grid.loc[c, seed])) for seed in seeds}
            why = {
                seed: f"no value for {names}" if names else "no category has a value" for seed, names in lacking.items()
            }
            mean = _cell(grid.loc[defined].mean(skipna=False), why, rows.record)
            if undefined and mean.values:
                limits = f"{', '.join(undefined)} left out, which has no value for any variant"
                mean = replace(mean, note="; ".join(filter(None, [limits, mean.note])))
            found.append({**place, "category": MEAN, "cell": mean})
        for (variant, *where), planned in plan.items():
            if where == [block["dataset"], block["protocol"]] and variant not in set(of_block.variant):
                empty = Cell(math.nan, math.nan, {}, planned.get("unsupported", UNFINISHED), ())
                place = block | {"variant": variant, "selection": "", "teacher": ""}
                found += [{**place, "category": category, "cell": empty} for category in [*categories, MEAN]]
    return pd.DataFrame(found, columns=[*BLOCK, *IDENTITY["variant"], "category", "cell"])


def _cell(by_seed: pd.Series, why: Mapping[int, str], records: pd.Series) -> Cell:
    values = {int(str(seed)): float(value) for seed, value in by_seed.items() if not pd.isna(value)}
    missing = {seed: reason for seed, reason in why.items() if seed not in values}
    if len(set(missing.values())) == 1 and not values:
        note = next(iter(missing.values()))
    else:
        note = "; ".join(f"seed {seed}: {reason}" for seed, reason in missing.items())
    if values and missing:
        note = f"{len(values)} of {len(why)} seeds; {note}"
    sample = pd.Series(values, dtype=float)
    return Cell(float(sample.mean()), float(sample.std(ddof=1)), values, note, tuple("\n".join(records).split("\n")))


def chosen(data: pd.DataFrame, spec: Mapping[str, Any]) -> tuple[pd.DataFrame, list[str]]:
    """The rows that a spec's `where` asks for, and one sentence for each name that no row has."""
    problems = []
    for facet, names in spec.get("where", {}).items():
        if facet not in data:
            able = [name for name in (*FACETS, "convention", "selection", "teacher") if name in data]
            problems.append(f"`where` names '{facet}'; it can name {', '.join(able)}{nearest(facet, able)}")
            continue
        known = {*data[facet], *KNOWN.get(facet, ())}
        problems += [
            f"unknown {facet} '{name}'; the results have {_names(data[facet])}{nearest(name, known)}"
            for name in names
            if name not in known
        ]
        data = data[data[facet].isin(names)]
        if facet == "paper":  # the first one's numbers come first
            data = data.iloc[data[facet].map(names.index).astype(int).argsort(kind="stable")]
    return data, problems


def nearest(name: Any, known: Iterable[str]) -> str:
    """A question that ends a message about an unknown name; empty if nothing is like it."""
    near = get_close_matches(str(name), [*known], 1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def _names(column: pd.Series) -> str:
    return ", ".join(sorted(column.unique())) or "none"


def identity(facet: str, data: pd.DataFrame) -> list[str]:
    """The columns of `data` that must agree for two rows to share a name of the facet."""
    return [column for column in IDENTITY.get(facet, [facet]) if column in data]


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


def headline(spec: Mapping[str, Any], place: Mapping[str, str]) -> str:
    """A spec's title with the names of this table or figure filled in."""
    words = {**place, "metric": METRICS.get(place.get("metric", ""), place.get("metric", ""))}
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
    distinct = keys.drop_duplicates()
    first = distinct.iloc[:, 0]
    twice = set(first[first.duplicated()])
    told = {}
    for key in distinct.itertuples(index=False, name=None):
        same = distinct[first == key[0]]
        extra = [
            str(value)
            for value, column in zip(key[1:], same.columns[1:], strict=True)
            if (key[0] in twice and same[column].nunique() > 1) or value == "oracle"
        ]
        label = METRICS.get(key[0], key[0]) if keys.columns[0] == "metric" else key[0]
        told[key] = f"{label} ({', '.join(extra)})" if extra else label
    return [told[key] for key in keys.itertuples(index=False, name=None)]


def tables(
    name: str,
    spec: Mapping[str, Any],
    cells: pd.DataFrame,
    records: Sequence[Mapping[str, Any]],
    says: Callable[[pd.DataFrame], Sequence[str]] = lambda part: (),
) -> list[Table]:
    """All tables that a spec describes; `says` ends the caption of each, made of its rows of `cells`.

    Raises:
        ValueError: the spec leaves a facet open, so that several results would fall into one place.
    """
    axes = {axis: facets(spec, axis) for axis in ("rows", "columns")}
    fixed = {facet for facet, names in spec.get("where", {}).items() if len(names) == 1}
    fixed |= {*spec["each"], *axes["rows"], *axes["columns"]}
    fixed |= {said for facet in fixed for said in OF_FACET.get(facet, ())}
    left = [facet for facet in FACETS if facet in cells and facet not in fixed]
    if left:
        raise ValueError(f"{left[0]} must stand in `each`, `rows` or `columns`, or have one value in `where`")
    built = []
    of_paper = "covered" in cells
    for place, part in each(chosen(cells, spec)[0], spec["each"]):
        if of_paper and not part.covered.any():
            continue
        part = part.assign(cell=part.cell.map(lambda cell: _shown(cell, spec)))
        part = part if of_paper else part.sort_values("variant", kind="stable")
        long = pd.DataFrame({axis: _names_on(part, axes[axis]) for axis in axes} | {"cell": part.cell.tolist()})
        grid = long.pivot(index="rows", columns="columns", values="cell")
        # A paper's rows and columns come as printed.
        order = [
            list(long[axis].unique()) if of_paper or {*AS_GIVEN} & {*axes[axis]} else _order(long[axis])
            for axis in axes
        ]
        gap = spoken("", "not printed") if of_paper else ABSENT
        grid = grid.reindex(index=order[0], columns=order[1]).map(
            lambda cell, gap=gap: cell if isinstance(cell, Cell) else gap
        )
        grid = grid.rename_axis(", ".join(axes["rows"]), axis=0).rename_axis(None, axis=1)
        said = [*caption(part, records, spec.get("aggregation", AGGREGATIONS[0])), *says(part)]
        built.append(Table(name, slug(name, *place.values()), headline(spec, place), said, place, grid))
    return built


def facets(spec: Mapping[str, Any], axis: str) -> list[str]:
    """What stands in `rows` or `columns` of a spec: one facet or several."""
    return [spec[axis]] if isinstance(spec[axis], str) else list(spec[axis])


def _names_on(part: pd.DataFrame, axis: Sequence[str]) -> list[str]:
    """The label of each row of `part` on an axis of several facets."""
    return [": ".join(names) for names in zip(*(labels(part[identity(f, part)]) for f in axis), strict=True)]


def _shown(cell: Cell, spec: Mapping[str, Any]) -> Cell:
    """The cell as the spec's `aggregation` and `highlight` want it."""
    if spec.get("aggregation") == "median" and cell.values and not cell.word:
        low, middle, high = (float(value) for value in pd.Series(cell.values).quantile([0, 0.5, 1]))
        spread = f" ({100 * low:.1f} to {100 * high:.1f})" if len(cell.values) > 1 else ""
        cell = replace(cell, mean=middle, std=math.nan, word=f"{100 * middle:.1f}{spread}")
    return replace(cell, bold=cell.bold and spec.get("highlight") != "none")


def _order(names: pd.Series) -> list[str]:
    unique = list(dict.fromkeys(names))
    rank = {name: place for place, name in enumerate([*METRICS.values(), *PROTOCOLS])}
    # What has a list by its place there, everything else by name, the mean last.
    return sorted(unique, key=lambda n: (n == MEAN, rank.get(re.sub(r" \(.*", "", n), len(rank)), n))


def caption(part: pd.DataFrame, records: Sequence[Mapping[str, Any]], aggregation: str = "mean") -> list[str]:
    """What one must know to compare, a sentence each: seeds, teacher, selection, budget, convention, deviations."""
    part = part[part.teacher != ""]  # a variant that has not run has nothing to tell
    if part.empty:
        return []
    seeds = sorted({seed for cell in part.cell for seed in cell.values})
    variants = dict(zip(labels(part[IDENTITY["variant"]]), part.variant, strict=True))
    protocols = PROTOCOLS if DIFFERENCE in set(part.protocol) else set(part.protocol)
    of_variant = {
        label: [
            r
            for r in records
            if r["variant"] == variant and r["dataset"] in set(part.dataset) and r["protocol"] in protocols
        ]
        for label, variant in variants.items()
    }
    conventions = part["measured_convention" if "measured_convention" in part else "convention"]
    metrics = zip(labels(part[identity("metric", part)]), conventions, strict=True)
    teachers = shared(dict(zip(variants, part.drop_duplicates(IDENTITY["variant"]).teacher, strict=True)))
    over = {"mean": "mean ± sample standard deviation", "median": "median (lowest to highest)"}[aggregation]
    spread = f"{over} over {len(seeds)} seeds" if len(seeds) > 1 else "one seed, no deviation"
    numbers = f"Percent; {spread}" + (f" (seeds {', '.join(map(str, seeds))})." if seeds else ".")
    if MEAN in set(part.category):
        numbers += " The mean averages the categories within each seed first."
    if DIFFERENCE in set(part.protocol):
        numbers += " The difference is multi-class minus one-class in points, taken within each seed first."
    said = [
        numbers,
        f"Teachers differ between variants: {teachers}." if "; " in teachers else f"Teacher: {teachers}.",
        f"Selection: {shared(dict(zip(labels(part[IDENTITY['variant']]), part.selection, strict=True)))}.",
        f"Budget: {shared({label: _budget(found) for label, found in of_variant.items()})}.",
        f"Convention: {shared(dict(metrics))}.",
    ]
    if any(cell.bold for cell in part.cell):
        said.append(BOLD)
    for label, found in of_variant.items():
        deviations = dict.fromkeys(text for record in found for text in record.get("deviations", ()))
        said += [f"Deviations of {label}: {'; '.join(text.rstrip('.') for text in deviations)}."] if deviations else []
    return said


def shared(by_label: Mapping[str, str]) -> str:
    values = set(by_label.values())
    return values.pop() if len(values) == 1 else "; ".join(f"{label}: {value}" for label, value in by_label.items())


def _budget(records: Sequence[Mapping[str, Any]]) -> str:
    """What was spent on training, e.g. "20 epochs, images of 256 px, bfloat16"."""
    found = set()
    for record in records:
        values = record.get("hyper_parameters", {})
        parts = [f"{values.get('epochs', len(record.get('history', ())))} epochs"]
        parts += [f"images of {values['image_size']} px"] if "image_size" in values else []
        found.add(", ".join([*parts, *filter(None, [record.get("compute", {}).get("precision")])]))
    return " or ".join(sorted(found)) or "not recorded"


def markdown(table: Table) -> str:
    """The table for a README, with its caption and footnotes."""
    cells = table.grid.map(
        lambda cell: (
            (f"**{cell.text}**" if cell.bold else cell.text) + (f" [{table.marks[cell.note]}]" if cell.note else "")
        )
    )
    cells = cells.rename(index=_escape_pipe, columns=_escape_pipe)
    notes = [f"[{mark}] {note}." for note, mark in table.marks.items()]
    body = cells.to_markdown(colalign=["left"] + ["right"] * cells.shape[1], disable_numparse=True)
    return "\n\n".join([f"**{table.title}**", body, *notes, *table.caption]) + "\n"


def _escape_pipe(text: str) -> str:
    return text.replace("|", "\\|")


def csv(table: Table) -> str:
    """Fractions at full precision: for each column its mean, standard deviation and number of seeds.

    A column of words has one number or word in each row, and neither deviation nor seeds where no seed gave a number.
    """
    columns = {}
    for label, cells in table.grid.items():
        columns[str(label)] = cells.map(lambda cell: cell.word if cell.word and math.isnan(cell.mean) else cell.mean)
        if any(cell.word for cell in cells) and not any(cell.values for cell in cells):
            continue
        columns[f"{label}: std"] = cells.map(lambda cell: cell.std)
        columns[f"{label}: seeds"] = cells.map(lambda cell: "" if cell.word and not cell.values else len(cell.values))
    return (
        pd.DataFrame(columns).rename_axis(str(table.grid.index.name)).to_csv(float_format="%.6f", lineterminator="\n")
    )
