"""Finds what would make a table misleading: each finding states what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import pandas as pd

from benchmarks.plan import Plan
from benchmarks.records import Record
from benchmarks.schema import NOT_STATED, group_name
from benchmarks.wording import counted
from methods.base import did_you_mean
from reports.aggregate import bounds_text, impossible
from reports.analysis import environment
from reports.tables import Table
from reports.vocabulary import BLOCK, GROUP, PROTOCOLS, run_name, run_of

NEAR_CHANCE = 0.55  # an AUROC below it is hardly better than guessing
INVERTED = 0.45  # below it, anomalies score lower than normal images
KINDS = ("missing", "unscored", "stale", "seeds", "range", "collapsed", "mixed", "source")


class Finding(NamedTuple):
    """One problem.

    Attributes:
        kind: one of `KINDS`.
        message: what is wrong and what to do, as a sentence.
        place: the facets it is about; it concerns a table that agrees in those the table has.
    """

    kind: str
    message: str
    place: Mapping[str, str]

    @property
    def group(self) -> str:
        return "-".join(self.place[name] for name in GROUP if name in self.place)

    def concerns(self, table: Table) -> bool:
        return all(table.place.get(name, value) == value for name, value in self.place.items())


Allowed = tuple[Finding, str]  # with the reason


def findings(scores: pd.DataFrame, records: Sequence[Record], plan: Plan, published: pd.DataFrame) -> Iterator[Finding]:
    """Everything that is wrong with what was scored.

    Args:
        scores: tidy rows as in `results/README.md`.
        records: the finished runs.
        plan: the planned runs.
        published: rows as in `reports/published/README.md`.
    """
    yield from missing(records, plan)
    yield from unscored(scores, records)
    yield from stale(scores, records, plan)
    yield from incomplete(scores)
    yield from out_of_range(scores)
    yield from collapsed(scores)
    yield from mixed(records)
    yield from mixed_conventions(scores)
    for row in published[(published.source == "") | (published.status == "")].to_dict("records"):
        cure = "name the source and how it was read in reports/published, or remove the row"
        yield Finding("source", f"{row['value']} of {row['paper']}, {row['table']}, has no source: {cure}.", {})


def check_allow(allow: Mapping[str, str], plan: Plan | None = None) -> None:
    """Refuse entries of `allow` that would allow nothing.

    Args:
        allow: reasons by kind of finding, or by `KIND:GROUP`.
        plan: the planned runs; without it, groups are not checked.

    Raises:
        ValueError: an entry has an unknown kind, a group that is not planned, or no reason.
    """
    for name, reason in allow.items():
        kind, _, group = name.partition(":")
        if kind not in KINDS:
            raise ValueError(f"`{name}` has an unknown kind of finding. {did_you_mean(kind, KINDS)}")
        if not reason.strip():
            raise ValueError(f"`{name}` is allowed without a reason; write one: {name}=REASON.")
        if group and plan and plan.groups and group not in (known := places(plan)):
            raise ValueError(f"`{name}` has a group that is not planned. {did_you_mean(group, known)}")


def places(plan: Plan) -> list[str]:
    """What findings can be about: each group, each data set with a protocol, and each data set."""
    names = [group.name for group in plan.groups]
    names += [f"{group.dataset}-{group.protocol}" for group in plan.groups]
    return list(dict.fromkeys([*names, *(group.dataset for group in plan.groups)]))


def apply_allow(results: Iterable[Finding], allow: Mapping[str, str]) -> tuple[list[Allowed], list[str]]:
    """The findings that are allowed, each with its reason, and the sentences of the others.

    `allow` gives a reason by kind, or by `KIND:GROUP`, such as "collapsed:fd-toy-one_class".
    """
    allowed, problems = [], []
    for finding in results:
        reason = allow.get(f"{finding.kind}:{finding.group}", allow.get(finding.kind))
        if reason:
            allowed.append((finding, reason))
        else:
            problems.append(f"{finding.message} [{finding.kind}]")
    return allowed, problems


def with_notices(table: Table, records: Sequence[Record], allowed: Sequence[Allowed]) -> Table:
    """The table with a sentence on different environments in its caption, and the allowed findings that concern it."""
    names = {run_of(path) for _, row in table.grid.iterrows() for cell in row for path in cell.records}
    different = environment.notice([record for record in records if run_name(record) in names])
    notices = tuple(notice(finding, reason) for finding, reason in allowed if finding.concerns(table))
    return replace(table, caption=[*table.caption, *different], notices=notices)


def notice(finding: Finding, reason: str) -> str:
    """What is said of a finding that is allowed."""
    return f"Allowed, because {reason.strip().rstrip('.')}: {finding.message}"


def missing(records: Sequence[Record], plan: Plan) -> Iterator[Finding]:
    """Planned runs that are not finished."""
    finished = {run_name(record) for record in records}
    for group in plan.groups:
        if names := sorted({run.name for run in group.runs} - finished):
            part = f"{len(names)} of {counted(len(group.runs), 'planned run')} not finished"
            yield Finding("missing", f"{group.name}: {part}, e.g. {names[0]}: `dvc repro`.", _place(group))


def unscored(scores: pd.DataFrame, records: Sequence[Record]) -> Iterator[Finding]:
    """Runs without a score, and scores without a run."""
    scored = set(scores.record.map(run_of))
    for record in records:
        if run_name(record) not in scored:
            message = f"predictions/{run_name(record)} has no score. `dvc repro` scores it."
            yield Finding("unscored", message, _place(record))
    if lost := sorted(scored - {run_name(record) for record in records}):
        cure = "Restore the records with `dvc checkout`, or run again"
        runs = f"{counted(len(lost), 'scored run')} without a readable record, so that cells have no link"
        yield Finding("unscored", f"{runs}, e.g. {lost[0]}. {cure}.", {})


def stale(scores: pd.DataFrame, records: Sequence[Record], plan: Plan) -> Iterator[Finding]:
    """Scores of another fit than the stored one, and runs that today's code, data or parameters would not make."""
    scored = dict(zip(scores.record.map(run_of), scores.fingerprint, strict=True))
    planned = {run.name: run for run in plan.runs}
    for record in records:
        name = run_name(record)
        if scored.get(name, record.fingerprint) != record.fingerprint:
            message = f"The scores of predictions/{name} belong to another fit (fingerprint). `dvc repro` scores it."
            yield Finding("stale", message, _place(record))
        parts = planned[name].fingerprint_parts if name in planned else {}
        changed = [part for part, value in parts.items() if record.fingerprint_parts.get(part) != value]
        if changed or (parts and planned[name].fingerprint != record.fingerprint):
            changes = ", ".join(changed) or "plan"
            message = f"predictions/{name} was made with another {changes}, so no table has it: `dvc repro`."
            yield Finding("stale", message, _place(record))


def incomplete(scores: pd.DataFrame) -> Iterator[Finding]:
    """Cells that other seeds of the variant have, and seeds and categories that other variants have."""
    for keys, rows in scores.groupby(["dataset", "protocol"]):
        place = dict(zip(("dataset", "protocol"), map(str, keys), strict=True))
        where = " ".join(place.values())
        seeds = {str(variant): sorted(set(of.seed)) for variant, of in rows.groupby("variant")}
        if len(set(map(tuple, seeds.values()))) > 1:
            listed = "; ".join(f"{variant}: {', '.join(map(str, have))}" for variant, have in seeds.items())
            yield Finding("seeds", f"{where}: seeds differ ({listed}): run the missing ones.", place)
        categories = {str(variant): set(of.category) for variant, of in rows.groupby("variant")}
        every = set().union(*categories.values())
        for (variant, category), cell in rows.groupby(["variant", "category"]):
            if absent := sorted(set(seeds[str(variant)]) - set(cell.seed)):
                listed = f"{'seed' if len(absent) == 1 else 'seeds'} {', '.join(map(str, absent))}"
                message = f"{where}: {variant} has no score of {category} with {listed}: `dvc repro`."
                yield Finding("seeds", message, {**place, "variant": str(variant)})
        for variant, have in categories.items():
            if names := sorted(every - have):
                message = f"{where}: {variant} has no score of {', '.join(names)}, which others have: `dvc repro`."
                yield Finding("missing", message, {**place, "variant": variant})


def out_of_range(scores: pd.DataFrame) -> Iterator[Finding]:
    """Values that their metric cannot have; tables leave them empty."""
    for row in scores[impossible(scores)].to_dict("records"):
        where = (
            f"{group_name(*(row[name] for name in GROUP))}: {row['metric']} of {row['category']}, seed {row['seed']}"
        )
        message = f"{where} is {row['value']}, outside {bounds_text(row['metric'])}: run `dvc repro`."
        yield Finding("range", message, {name: row[name] for name in (*GROUP, "metric")})


def collapsed(scores: pd.DataFrame) -> Iterator[Finding]:
    """AUROCs near chance, or below it: mostly of a run that did not converge."""
    is_auroc = scores.metric.isin(["image_auroc", "pixel_auroc"]) & (scores.subset == "all")
    low = scores[is_auroc & scores.value.between(0, NEAR_CHANCE, inclusive="left")]
    cures = {
        "near chance": "look at the loss in its record; train longer or with another seed, or allow it with a reason",
        "worse than chance": "anomalies score lower than normal images: check the sign of the method's maps and "
        "scores, and the loss in its record, or allow it with a reason",
    }
    kinds = (low.value < INVERTED).map({False: "near chance", True: "worse than chance"})
    for (*keys, kind), rows in low.groupby([*(low[name] for name in (*GROUP, "metric")), kinds]):
        place = dict(zip((*GROUP, "metric"), map(str, keys), strict=True))
        # Each category and seed once, however many conventions of the metric there are.
        values = {(r["category"], r["seed"]): r["value"] for r in reversed(rows.to_dict("records"))}
        cells = ", ".join(f"{category} seed {seed}: {values[category, seed]:.3f}" for category, seed in sorted(values))
        group = group_name(*(place[name] for name in GROUP))
        yield Finding("collapsed", f"{group}: {place['metric']} {kind} ({cells}): {cures[str(kind)]}.", place)


def mixed(records: Sequence[Record]) -> Iterator[Finding]:
    """Teachers, budgets and environments that differ within a variant, or between variants that share a table."""
    for key in sorted({(record.dataset, record.protocol) for record in records}):
        place = dict(zip(("dataset", "protocol"), key, strict=True))
        here = [record for record in records if (record.dataset, record.protocol) == key]
        differing = {
            "teachers": _differing(here, _teacher),
            "epochs": _differing(here, _epochs),
            "image sizes": _differing(here, _image_size),
        }
        if not differing["teachers"]:
            differing["weights of the teacher"] = _differing(here, _weights)
        for what, values in differing.items():
            if values:
                cure = "share one under `hyper_parameters`, or allow it with a reason"
                yield Finding("mixed", f"{' '.join(key)}: {what} differ ({values}): {cure}.", place)
        for name, by_variant in environment.compare(here).severe.items():
            what = "devices" if name == "device" else f"versions of {name}"
            cure = "run all of them in one environment, or allow it with a reason"
            yield Finding("mixed", f"{' '.join(key)}: {what} differ ({by_variant}): {cure}.", place)
    yield from _mixed_between_protocols(records)


def _mixed_between_protocols(records: Sequence[Record]) -> Iterator[Finding]:
    """Environments that agree within each protocol of a data set, but differ between the two, which tables compare."""
    for dataset in sorted({record.dataset for record in records}):
        of_protocol = [[r for r in records if (r.dataset, r.protocol) == (dataset, name)] for name in PROTOCOLS]
        within = {name for part in of_protocol for name in environment.compare(part).severe}
        for name in environment.compare([record for part in of_protocol for record in part]).severe:
            if name not in within:
                what = "devices" if name == "device" else f"versions of {name}"
                cure = "run all of them in one environment, or allow it with a reason"
                yield Finding("mixed", f"{dataset}: {what} differ between protocols: {cure}.", {"dataset": dataset})


def mixed_conventions(scores: pd.DataFrame) -> Iterator[Finding]:
    """Conventions that not all variants of a table were scored by."""
    facets = [name for name in BLOCK if name != "convention"]
    for keys, rows in scores.groupby(facets):
        place = dict(zip(facets, map(str, keys), strict=True))
        names = {str(variant): " and ".join(sorted(set(of.convention))) for variant, of in rows.groupby("variant")}
        if len(set(names.values())) > 1:
            listed = "; ".join(f"{variant}: {convention}" for variant, convention in names.items())
            message = f"{' '.join(place.values())}: conventions differ ({listed}): score them again."
            yield Finding("mixed", message, place)


def _differing(records: Sequence[Record], value: Callable[[Record], str | None]) -> str:
    """The values of each variant, as text; empty if all variants that state one have the same."""
    values: dict[str, set[str]] = {}
    for record in records:
        if (stated := value(record)) is not None:
            values.setdefault(record.variant, set()).add(stated)
    names = {variant: " and ".join(sorted(of)) for variant, of in sorted(values.items())}
    if len(set().union(*values.values())) < 2:
        return ""
    return "; ".join(f"{variant}: {value}" for variant, value in names.items())


def _teacher(record: Record) -> str | None:
    """None of imported maps whose author does not state it."""
    if record.teacher is None:
        return "none"
    return None if record.teacher.name == NOT_STATED else record.teacher.name


def _weights(record: Record) -> str | None:
    """The hash of a teacher's weights; None without a teacher, and of imported maps, of which nobody knows it."""
    teacher = record.teacher
    return f"{teacher.name} {teacher.sha256[:8]}" if teacher and teacher.sha256 else None


def _epochs(record: Record) -> str | None:
    """None of a method that does not train by epochs: it shares no budget with others that it could differ in."""
    epochs = record.hyper_parameters.get("epochs")
    return str(epochs) if epochs else None


def _image_size(record: Record) -> str | None:
    size = record.hyper_parameters.get("image_size")
    return None if size is None else f"{size} px"


def _place(of: object) -> dict[str, str]:
    return {name: str(getattr(of, name)) for name in GROUP}
