"""What makes a table misleading, found before anyone reads it: each finding says what, where, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any, NamedTuple

import pandas as pd

from reports.tables import BLOCK, GROUP, Plan, Table, nearest

Record = Mapping[str, Any]
COLLAPSED = 0.55  # an AUROC below it is hardly better than a coin
INVERTED = 0.45  # below it, it is worse: anomalies score lower than normal images
KINDS = ("missing", "unscored", "stale", "seeds", "range", "collapsed", "mixed", "source")


class Finding(NamedTuple):
    """One problem.

    Attributes:
        kind: one of `KINDS`.
        message: what is wrong and the cure, as a sentence.
        place: the facets it is about; a table that agrees in those it has is concerned.
    """

    kind: str
    message: str
    place: Mapping[str, str]

    @property
    def group(self) -> str:
        return "-".join(self.place[name] for name in GROUP if name in self.place)


def findings(scores: pd.DataFrame, records: Sequence[Record], plan: Plan, published: pd.DataFrame) -> Iterator[Finding]:
    """Everything that is wrong with what was scored.

    Args:
        scores: tidy rows as in `results/README.md`.
        records: the finished runs.
        plan: the planned runs.
        published: rows as in `reports/published/README.md`.
    """
    yield from missing(records, plan)
    yield from unscored(scores, records, plan)
    yield from stale(scores, records, plan)
    yield from incomplete(scores)
    yield from out_of_range(scores)
    yield from collapsed(scores)
    yield from mixed(scores, records)
    for row in published[(published.source == "") | (published.status == "")].to_dict("records"):
        cure = "name what was read, and how, in reports/published, or remove the row"
        yield Finding("source", f"{row['value']} of {row['paper']}, {row['table']}, has no source: {cure}.", {})


def check(allow: Mapping[str, str]) -> None:
    """Refuse reasons that would excuse nothing.

    Raises:
        ValueError: an entry names no kind of finding, or gives no reason.
    """
    for name, reason in allow.items():
        kind = name.partition(":")[0]
        if kind not in KINDS:
            raise ValueError(f"`{name}` names no kind of finding; kinds are {', '.join(KINDS)}{nearest(kind, KINDS)}")
        if not reason.strip():
            raise ValueError(f"`{name}` is allowed without a reason; write one: {name}=REASON")


def sift(found: Iterator[Finding], allow: Mapping[str, str]) -> tuple[list[tuple[Finding, str]], list[str]]:
    """The findings that are allowed, each with its reason, and the sentences of the others.

    `allow` gives a reason by kind, or by `KIND:GROUP`, such as "collapsed:fd-toy-one_class".
    """
    allowed, problems = [], []
    for finding in found:
        reason = allow.get(f"{finding.kind}:{finding.group}", allow.get(finding.kind))
        if reason:
            allowed.append((finding, reason))
        else:
            problems.append(f"{finding.message} [{finding.kind}]")
    return allowed, problems


def explain(table: Table, allowed: Sequence[tuple[Finding, str]]) -> Table:
    """The table with the allowed findings that concern it at the end of its caption."""
    said = [
        f"Allowed, because {reason.strip().rstrip('.')}: {finding.message}"
        for finding, reason in allowed
        if all(table.place.get(name, value) == value for name, value in finding.place.items())
    ]
    return replace(table, caption=[*table.caption, *said])


def missing(records: Sequence[Record], plan: Plan) -> Iterator[Finding]:
    """Planned runs that are not finished."""
    known = {record["folder"] for record in records}
    for group, runs in plan.items():
        planned = {f"{'-'.join(group)}/{run}" for run in runs if run != "unsupported"}
        if lacking := sorted(planned - known):
            message = f"{len(lacking)} of {len(planned)} planned runs are not finished, e.g. {lacking[0]}: `dvc repro`."
            yield Finding("missing", message, _place(group))


def unscored(scores: pd.DataFrame, records: Sequence[Record], plan: Plan) -> Iterator[Finding]:
    """Runs without a score, unless the plan has no use for them any more; and scores without a run."""
    scored = set(scores.record.map(_folder))
    for record in records:
        is_planned = not plan or PurePath(record["folder"]).name in plan.get(group_of(record), {})
        if is_planned and record["folder"] not in scored:
            message = f"predictions/{record['folder']} has no score. Run the score stage."
            yield Finding("unscored", message, {name: record[name] for name in GROUP})
    if lost := sorted(scored - {record["folder"] for record in records}):
        cure = "Restore them with `dvc checkout`, or run them again"
        message = (
            f"{len(lost)} scored runs have no readable record, so their cells have no link, e.g. {lost[0]}. {cure}."
        )
        yield Finding("unscored", message, {})


def stale(scores: pd.DataFrame, records: Sequence[Record], plan: Plan) -> Iterator[Finding]:
    """Scores of another fit than the stored one, and fits that the code, data or parameters of today would not make."""
    scored = dict(zip(scores.record.map(_folder), scores.fingerprint, strict=True))
    for record in records:
        folder, group = record["folder"], {name: record[name] for name in GROUP}
        if scored.get(folder, record.get("fingerprint")) != record.get("fingerprint"):
            message = f"The scores of predictions/{folder} belong to another fit (fingerprint). Run the score stage."
            yield Finding("stale", message, group)
        run = plan.get(group_of(record), {}).get(PurePath(folder).name)
        now = run.get("fingerprint_parts", {}) if isinstance(run, Mapping) else {}
        before = record.get("fingerprint_parts", {})
        if parts := [name for name, value in now.items() if before.get(name) != value]:
            message = f"predictions/{folder} is older than its {', '.join(parts)}: `dvc repro`."
            yield Finding("stale", message, group)


def incomplete(scores: pd.DataFrame) -> Iterator[Finding]:
    """Cells that other seeds of the variant have, and seeds that other variants have."""
    for keys, rows in scores.groupby(["dataset", "protocol"]):
        place = dict(zip(("dataset", "protocol"), map(str, keys), strict=True))
        seeds = {str(variant): tuple(sorted(set(of.seed))) for variant, of in rows.groupby("variant")}
        if len(set(seeds.values())) > 1:
            said = "; ".join(f"{variant}: {', '.join(map(str, have))}" for variant, have in seeds.items())
            yield Finding(
                "seeds", f"{' '.join(place.values())}: seeds are uneven ({said}): run the missing ones.", place
            )
        for (variant, category), cell in rows.groupby(["variant", "category"]):
            if lacking := sorted(set(seeds[str(variant)]) - set(cell.seed)):
                message = f"{variant} has no score of {category} with seed {', '.join(map(str, lacking))}: `dvc repro`."
                yield Finding("seeds", message, {**place, "variant": str(variant)})
        categories = {str(variant): set(of.category) for variant, of in rows.groupby("variant")}
        for variant, have in categories.items():
            if absent := sorted(set().union(*categories.values()) - have):
                message = f"{variant} has no score of {', '.join(absent)}, which others have: `dvc repro`."
                yield Finding("missing", f"{' '.join(place.values())}: {message}", {**place, "variant": variant})


def out_of_range(scores: pd.DataFrame) -> Iterator[Finding]:
    """Values that no metric can have; tables leave them empty."""
    for row in scores[(scores.value < 0) | (scores.value > 1)].to_dict("records"):
        where = f"{'-'.join(row[name] for name in GROUP)}: {row['metric']} of {row['category']}, seed {row['seed']}"
        message = f"{where} is {row['value']}, outside [0, 1]: run the score stage again."
        yield Finding("range", message, _place([row[name] for name in GROUP], row["metric"]))


def collapsed(scores: pd.DataFrame) -> Iterator[Finding]:
    """AUROCs that are hardly better than chance, or worse: mostly a run that has not learnt."""
    is_auroc = scores.metric.isin(["image_auroc", "pixel_auroc"]) & (scores.subset == "all")
    low = scores[is_auroc & scores.value.between(0, COLLAPSED, inclusive="left")]
    cures = {
        "near chance": "look at the loss in its record; train longer or with another seed, or allow it with a reason",
        "worse than chance": "anomalies score lower than normal images: check the sign of the method's maps and "
        "scores, and the loss in its record, or allow it with a reason",
    }
    said = (low.value < INVERTED).map({False: "near chance", True: "worse than chance"})
    for (*keys, kind), rows in low.groupby([*(low[name] for name in (*GROUP, "metric")), said]):
        *group, metric = map(str, keys)
        cells = ", ".join(f"{r['category']} seed {r['seed']}: {r['value']:.3f}" for r in rows.to_dict("records"))
        message = f"{'-'.join(group)}: {metric} {kind} ({cells}): {cures[str(kind)]}."
        yield Finding("collapsed", message, _place(group, metric))


def mixed(scores: pd.DataFrame, records: Sequence[Record]) -> Iterator[Finding]:
    """Teachers, budgets and conventions that differ within a variant, or between variants that share a column."""
    for record, said in _settings(records).items():
        place = dict(zip(("dataset", "protocol"), record, strict=True))
        for what, of_variant in said.items():
            names = {str(variant): " and ".join(sorted(values)) for variant, values in of_variant.items()}
            if len(set(names.values())) > 1 or any(len(values) > 1 for values in of_variant.values()):
                says = "; ".join(f"{variant}: {value}" for variant, value in sorted(names.items()))
                cure = "share one under `hyper_parameters`, or allow it with a reason"
                yield Finding("mixed", f"{' '.join(record)}: {what} differ ({says}): {cure}.", place)
    for keys, rows in scores.groupby([name for name in BLOCK if name != "convention"]):
        names = {str(variant): " and ".join(sorted(set(of.convention))) for variant, of in rows.groupby("variant")}
        if len(set(names.values())) > 1:
            place = dict(zip([name for name in BLOCK if name != "convention"], map(str, keys), strict=True))
            says = "; ".join(f"{variant}: {convention}" for variant, convention in names.items())
            yield Finding("mixed", f"{' '.join(place.values())}: conventions differ ({says}): score them again.", place)


def _settings(records: Sequence[Record]) -> dict[tuple[str, str], dict[str, dict[str, set[str]]]]:
    """By data set and protocol: teachers and budgets of each variant, in words."""
    found: dict[tuple[str, str], dict[str, dict[str, set[str]]]] = {}
    for record in records:
        of_place = found.setdefault((record["dataset"], record["protocol"]), {"teachers": {}, "budgets": {}})
        teacher, values = record.get("teacher") or {}, record.get("hyper_parameters", {})
        budget = f"{values.get('epochs', '?')} epochs, {values.get('image_size', '?')} px"
        name = f"{teacher.get('name', 'none')} {teacher.get('sha256', '')[:8]}".strip()
        of_place["teachers"].setdefault(record["variant"], set()).add(name)
        of_place["budgets"].setdefault(record["variant"], set()).add(budget)
    return found


def group_of(record: Record) -> tuple[str, str, str]:
    """Variant, data set and protocol: a key of the plan."""
    return record["variant"], record["dataset"], record["protocol"]


def _place(group: Sequence[str], *metric: str) -> dict[str, str]:
    return dict(zip((*GROUP, "metric"), (*group, *metric), strict=False))


def _folder(path: str) -> str:
    return "/".join(PurePath(path).parts[-3:-1])
