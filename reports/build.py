"""Reads what the pipeline stored and writes the report: tables, figures, and one page that shows both.

Bad input never stops a report: each problem becomes one sentence in the log and on the page, the rest is still built.
"""

from __future__ import annotations

import inspect
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import yaml

from reports import evidence, figures, laid_open, latex, ledger, lint, page, papers, published, statistics, tables

SCHEMA = 1  # of record.json, see results/README.md
SPECS = Path(__file__).parent / "specs"
COLUMNS = [
    "variant",
    "method",
    "dataset",
    "protocol",
    "category",
    "seed",
    "subset",
    "metric",
    "convention",
    "selection",
    "teacher",
    "value",
    "reason",
    "fingerprint",
    "record",
]
SOURCES = (
    "cells",
    "protocols",
    "interference",
    "details",
    "composites",
    "losses",
    "trajectory",
    "papers",
    "ledger",
    "verdicts",
    "comparisons",
    "ranks",
    "selections",
    "conventions",
)  # what `from` in a spec may name
SAYS: dict[str, Callable[[pd.DataFrame], Sequence[str]]] = {  # what stands under a table of a source
    "papers": papers.says,
    "ledger": lambda part: ledger.RULE,
    "verdicts": lambda part: ledger.RULE,
    "comparisons": lambda part: statistics.RULE,
    "ranks": lambda part: statistics.RULE,
    "selections": lambda part: laid_open.SELECTIONS,
    "conventions": lambda part: laid_open.CONVENTIONS,
}
log = logging.getLogger(__name__)


def build(
    results: Path,
    out: Path,
    specs: Path = SPECS,
    allow: Mapping[str, str] = MappingProxyType({}),
    problems: list[str] | None = None,
) -> Path:
    """Write `tables/`, `figures/` and `index.html` into `out`; older tables and figures there are removed.

    Args:
        results: a folder as described in `results/README.md`.
        out: where the report goes.
        specs: one YAML file for each kind of table or figure.
        allow: by kind of finding, or `KIND:GROUP`, the reason why it is no problem; it is printed under the tables.
        problems: a list to which every problem is added.

    Returns:
        The path of `index.html`. It lists all problems, which are also logged as warnings.
    """
    problems = [] if problems is None else problems
    plan = read_plan(results, problems)
    records = [r for r in read_records(results, problems) if not plan or lint.group_of(r) in plan]
    scores = of_suite(read_scores(results, problems), plan)
    probes = of_suite(read_scores(results, problems, "interference"), plan)
    details = of_suite(read_details(results, problems), plan)
    numbers = read_published(problems)
    findings = chain(lint.findings(scores, records, plan, numbers), lint.out_of_range(probes))
    allowed, found = lint.sift(findings, allow)
    problems += found
    scores, probes = tables.within_range(scores), tables.within_range(probes)
    samples = statistics.auroc_samples(details)
    cells = statistics.mark(tables.aggregate(tables.with_subset_mean(scores), plan), samples)
    course = training(records, "measured").query("phase == ''")
    matches = cache(lambda: ledger.matches(numbers, cells, scores, records, plan))
    # Computed for each spec that asks, so that what fails costs that spec alone.
    sources: dict[str, Callable[[], pd.DataFrame]] = {
        "cells": lambda: cells,
        "papers": lambda: papers.rows(numbers, matches()),
        "ledger": lambda: ledger.entries(numbers, matches()),
        "verdicts": lambda: ledger.tally(ledger.entries(numbers, matches())),
        "comparisons": lambda: statistics.comparisons(cells, samples),
        "ranks": lambda: statistics.ranks(cells),
        "protocols": lambda: tables.aggregate(tables.one_against_multi_class(scores), plan),
        "interference": lambda: tables.aggregate(probes, plan),
        "details": lambda: details,
        "losses": lambda: training(records, "terms"),
        "trajectory": lambda: course.query("name != 'validation'"),
        "selections": lambda: laid_open.selections(course),
        "conventions": lambda: laid_open.conventions(cells),
        "composites": lambda: details.assign(arrays=details.composites)[details.composites.notna()],
    }
    for part in ("tables", "figures"):
        shutil.rmtree(out / part, ignore_errors=True)
    shown: list[tables.Table | page.Picture] = []
    for name, spec in read_specs(specs, problems):
        try:
            source = spec.get("from", "cells")
            data = sources[source]()
            unknown = tables.chosen(data, spec)[1] if len(data) else []
            problems += [f"{specs.name}/{name}.yaml: {sentence}." for sentence in unknown]
            if "figure" in spec:
                shown += _figures(name, spec, data, out / "figures", problems)
            else:
                built = tables.tables(name, spec, data, records, SAYS.get(source, lambda part: ()))
                shown += _write([lint.explain(table, allowed) for table in built], out / "tables")
        except Exception as error:  # a spec is a plug-in: whatever fails in it must not cost the other specs' output
            log.debug("spec %s", name, exc_info=True)
            problems.append(f"{specs.name}/{name}.yaml: nothing drawn: {_say(error)}.")
    packs = evidence.packs(records, scores, details, problems)
    for problem in problems:
        log.warning(problem)
    out.mkdir(parents=True, exist_ok=True)
    index = out / "index.html"
    index.write_text(page.render(shown, records, packs, problems), encoding="utf-8")
    return index


def _write(built: list[tables.Table], out: Path) -> list[tables.Table]:
    out.mkdir(parents=True, exist_ok=True)
    for table in built:
        for suffix, write in (("md", tables.markdown), ("csv", tables.csv), ("tex", latex.latex)):
            (out / f"{table.name}.{suffix}").write_text(write(table), encoding="utf-8")
    return built


def _figures(
    name: str, spec: Mapping[str, Any], data: pd.DataFrame, out: Path, problems: list[str]
) -> list[page.Picture]:
    drawn = []
    says = (inspect.getdoc(getattr(figures, spec["figure"], None)) or "").partition("\n\n")[0]
    for place, part in tables.each(tables.chosen(data, spec)[0], spec["each"]):
        title = tables.headline(spec, place)
        try:
            stem = out / tables.slug(name, *place.values())
            paths = figures.save(figures.draw(spec["figure"], part), stem)
            drawn.append(page.Picture(name, title, says, place, paths))
        except Exception as error:  # one figure that cannot be drawn must not cost the others
            log.debug("figure %s", title, exc_info=True)
            problems.append(f"figure '{title}' ({name}): {_say(error)}.")
    return drawn


def _say(error: Exception) -> str:
    what = f"{error}".strip().rstrip(".") or "no message"
    return what if type(error) is ValueError else f"{type(error).__name__}: {what}"


def of_suite(rows: pd.DataFrame, plan: tables.Plan) -> pd.DataFrame:
    """The rows of planned groups: what an earlier suite left behind is no part of this report. All without a plan."""
    if not plan or rows.empty:
        return rows
    return rows[[key in plan for key in zip(rows.variant, rows.dataset, rows.protocol, strict=True)]]


def read_scores(results: Path, problems: list[str], folder: str = "scores") -> pd.DataFrame:
    """All tidy rows of `scores/*.csv` or `interference/*.csv`, with those left out that no table could use.

    The subset of test images that a probe's row is about is named by the probe and its ratio, such as "mixup 0.3".
    """
    parts = []
    for path in sorted((results / folder).glob("*.csv")):
        try:
            rows = pd.read_csv(path, dtype=str, keep_default_na=False)  # a category may be called "nan"
            if folder == "interference":
                rows["subset"] = rows.probe + " " + rows.ratio
            if lacking := [column for column in COLUMNS if column not in rows]:
                raise ValueError(f"column {', '.join(lacking)} is missing")
            rows["seed"] = rows.seed.astype(int)
            rows["value"] = rows.value.replace("", "nan").astype(float)
        except (ValueError, OSError) as error:
            problems.append(f"{folder}/{path.name} was left out: {_say(error)}. Run the score stage again.")
            continue
        parts.append(rows)
    if not parts and folder == "interference":  # nobody asked for probes
        return pd.DataFrame(columns=COLUMNS)
    if not parts:
        problems.append(f"There are no scores in {results.name}/scores, so there are no tables. Run `dvc repro` first.")
        return pd.DataFrame(columns=COLUMNS)
    scores = pd.concat(parts, ignore_index=True)
    key = [*tables.BLOCK, *tables.IDENTITY["variant"], "category", "seed"]
    if (twice := scores.duplicated(key, keep="last")).any():
        row = scores[twice].iloc[0]
        problems.append(
            f"{twice.sum()} scores exist twice, e.g. {row.metric} of {row.variant}, {row.category}, seed {row.seed}; "
            "the last one counts."
        )
    return scores[~twice].reset_index(drop=True)


def read_records(results: Path, problems: list[str]) -> list[dict[str, Any]]:
    """Every `record.json` of this schema, with its folder below `predictions` added as `folder`, its log as `log`."""
    records = []
    needed = ("variant", "method", "dataset", "protocol", "split", "seed")
    for path in sorted((results / "predictions").glob("*/*/record.json")):
        name = path.relative_to(results)
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record.get("schema") != SCHEMA:
                raise ValueError(f"its schema is {record.get('schema')}, this version reads {SCHEMA}")
            if lacking := [field for field in needed if field not in record]:
                raise ValueError(f"{', '.join(lacking)} is missing")
        except (ValueError, AttributeError, OSError) as error:
            problems.append(f"{name} was left out: {_say(error)}. Run it again with `proctor run`.")
            continue
        folder, kept = path.parent.relative_to(results / "predictions").as_posix(), path.with_name("log.txt")
        text = kept.read_text(encoding="utf-8", errors="replace") if kept.exists() else ""
        records.append({**record, "folder": folder, "log": text})
    if not records:
        problems.append(f"There are no finished runs in {results.name}/predictions. Run `dvc repro` first.")
    return records


def read_published(problems: list[str]) -> pd.DataFrame:
    """What papers print; empty where a file of it is broken."""
    try:
        return published.read()
    except (ValueError, OSError) as error:
        problems.append(f"There is no ledger: {_say(error)}.")
        return pd.DataFrame(columns=published.COLUMNS)


def training(records: Sequence[Mapping[str, Any]], kind: str) -> pd.DataFrame:
    """One row per run, epoch and loss term ("terms") or measurement ("measured").

    `phase` is empty for the history of the record itself, and the name of an entry that has one of its own.
    """
    columns = ["variant", "dataset", "protocol", "split", "seed"]
    rows = [
        {**{name: record[name] for name in columns}, "phase": phase, "epoch": epoch["epoch"],
         "name": name, "value": value}
        for record in records
        for phase, part in {"": record, **record}.items()
        if isinstance(part, Mapping)
        for epoch in part.get("history", ())
        for name, value in epoch.get(kind, {}).items()
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=[*columns, "phase", "epoch", "name", "value"])


def read_details(results: Path, problems: list[str]) -> pd.DataFrame:
    """One row for each `details/GROUP/CATEGORY-seedK.json`: its cell, the parsed file, and the paths of its arrays."""
    rows = []
    for path in sorted((results / "details").glob("*/*.json")):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            cell = {name: found[name] for name in ("variant", "dataset", "protocol", "category", "seed")}
            pd.DataFrame(found["images"])[["key", "anomalous", "score"]]  # a KeyError names what is missing
            arrays = path.with_suffix(".npz")
            composites = path.with_suffix(".composites.npz")
            files = {"arrays": arrays, "composites": composites}
            rows.append({**cell, "details": found, **{n: f if f.exists() else None for n, f in files.items()}})
        except (ValueError, KeyError, TypeError, OSError) as error:
            problems.append(f"{path.relative_to(results)} was left out: {_say(error)}. Run the score stage again.")
    columns = ["variant", "dataset", "protocol", "category", "seed", "details", "arrays", "composites"]
    return pd.DataFrame(rows, columns=columns)


def read_plan(results: Path, problems: list[str]) -> dict[tuple[str, str, str], dict[str, Any]]:
    """The planned runs of each group; empty without a `plan.json`."""
    try:
        tree = json.loads((results / "plan.json").read_text(encoding="utf-8"))
        return {
            (variant, dataset, protocol): runs
            for variant, datasets in tree.items()
            for dataset, protocols in datasets.items()
            for protocol, runs in protocols.items()
        }
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, OSError) as error:
        problems.append(f"plan.json was left out: {_say(error)}. Run the plan stage again.")
        return {}


def read_specs(folder: Path, problems: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """The specs by name, in their `order`."""
    specs = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            spec = yaml.safe_load(path.read_text(encoding="utf-8"))
            _check_spec(spec or {})
        except (ValueError, TypeError, yaml.YAMLError) as error:
            problems.append(f"{folder.name}/{path.name} was left out: {' '.join(_say(error).split())}.")
            continue
        specs.append((path.stem, spec))
    return sorted(specs, key=lambda named: named[1].get("order", 100))


def _check_spec(spec: Any) -> None:
    """Refuse a spec that lacks an entry, or has one that nothing reads.

    Raises:
        ValueError: says which entry, and what it may be.
    """
    if not isinstance(spec, Mapping):
        raise ValueError("it is no mapping of entries")
    needed = {"title", "each"} | ({"figure", "from"} if "figure" in spec else {"rows", "columns"})
    optional = {"order", "where", "from"} | ({"aggregation", "highlight"} if "figure" not in spec else set())
    if lacking := sorted(needed - set(spec)):
        raise ValueError(f"{', '.join(lacking)} is missing")
    if unknown := sorted(set(spec) - needed - optional):
        near = tables.nearest(unknown[0], needed | optional)
        raise ValueError(f"it has no use for {', '.join(unknown)}{near}")
    for facet, names in spec.get("where", {}).items():
        if not isinstance(names, list):
            raise ValueError(f"`where` gives {facet} {names!r}; it takes a list: [{names}]")
    of_axes = [facet for axis in ("rows", "columns") if axis in spec for facet in tables.facets(spec, axis)]
    choices = [
        ("from", [spec.get("from", "cells")], SOURCES),
        ("each", spec["each"], tables.FACETS),
        ("rows or columns", of_axes, tables.FACETS),
        ("aggregation", [spec.get("aggregation", "mean")], tables.AGGREGATIONS),
        ("highlight", [spec.get("highlight", "significant")], tables.HIGHLIGHTS),
    ]
    for entry, names, known in choices:
        for name in names:
            if name not in known:
                raise ValueError(
                    f"unknown `{entry}` '{name}'; it may be {', '.join(known)}{tables.nearest(name, known)}"
                )
