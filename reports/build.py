"""Builds the report: tables, figures, and one page that shows both.

Bad input never stops a report: each problem becomes one sentence in the log and on the page, the rest is still built.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pandas as pd

from benchmarks.plan import Plan
from benchmarks.records import Record
from methods.components.atomic import replacing
from reports import aggregate, figures, load, specs, tables, vocabulary
from reports.analysis import checks, costs, paper_tables, reproduction, sensitivity, significance, standings
from reports.figures import _cache as drawn_before
from reports.load import error_text
from reports.render import drilldown, html, latex, text

log = logging.getLogger(__name__)
Sources = Mapping[str, Callable[[], pd.DataFrame]]
NOTES: dict[str, Callable[[pd.DataFrame], Sequence[str]]] = {  # what ends the caption of a table of a source
    "papers": paper_tables.notes,
    "reproduction": lambda part: reproduction.RULE,
    "verdicts": lambda part: reproduction.RULE,
    "comparisons": lambda part: significance.RULE,
    "ranks": lambda part: significance.RULE,
    "selections": lambda part: sensitivity.SELECTIONS,
    "conventions": lambda part: sensitivity.CONVENTIONS,
}


class Output(NamedTuple):
    """Where a report goes."""

    folder: Path
    cache: Path | None  # of drawn figures


@dataclass(frozen=True)
class Results:
    """What enters a report: the runs of the plan, of the plan's fingerprints."""

    plan: Plan
    scores: pd.DataFrame
    probes: pd.DataFrame
    details: pd.DataFrame
    records: list[Record]
    logs: dict[str, str]
    published: pd.DataFrame

    @cached_property
    def samples(self) -> significance.Samples:
        return significance.auroc_samples(self.details)

    @cached_property
    def cells(self) -> pd.DataFrame:
        rows = aggregate.with_subset_mean(aggregate.within_range(self.scores))
        return significance.highlight(aggregate.aggregate(rows, self.plan), self.samples)


def build(
    results: Path,
    out: Path,
    folder: Path = specs.FOLDER,
    allow: Mapping[str, str] = MappingProxyType({}),
    problems: list[str] | None = None,
    cache: Path | None = None,
) -> Path:
    """Write `tables/`, `figures/` and `index.html` into `out`; older tables and figures there are removed.

    Args:
        results: a folder as described in `results/README.md`.
        out: where the report goes.
        folder: one YAML file for each kind of table or figure.
        allow: by kind of finding, or `KIND:GROUP`, the reason why it is no problem; it is printed under the tables.
        problems: a list to which every problem is added.
        cache: a folder for drawn figures, which can be deleted at any time; None: all are drawn.

    Returns:
        The path of `index.html`. It lists all problems, which are also logged as warnings.
    """
    problems = [] if problems is None else problems
    data, findings = read(results, problems)
    allowed, remaining = checks.apply_allow(findings, allow)
    problems += remaining
    for part in ("tables", "figures"):
        shutil.rmtree(out / part, ignore_errors=True)
    rows_of = sources(data)
    items = _items(rows_of, data, allowed, folder, Output(out, cache), problems)
    payloads = drilldown.payloads(data.records, data.scores, data.details, data.logs, problems)
    boards = _boards(rows_of, data, problems)
    for problem in problems:
        log.warning(problem)
    content = html.Content(
        suite=data.plan.suite,
        boards=boards,
        items=items,
        records=data.records,
        payloads=payloads,
        problems=problems,
        allowed=[checks.notice(*finding) for finding in allowed],
    )
    index = out / "index.html"
    with replacing(index) as partial:
        partial.write_text(html.render(content), encoding="utf-8")
    return index


def _boards(rows_of: Sources, data: Results, problems: list[str]) -> list[standings.Leaderboard]:
    try:
        return standings.leaderboards(data.cells, rows_of["ranks"](), data.samples, rows_of["reproduction"]())
    except Exception as error:  # as for a spec: tables and figures are still shown
        log.debug("leaderboards", exc_info=True)
        problems.append(f"The leaderboards are not built: {error_text(error)}.")
        return []


def read(results: Path, problems: list[str]) -> tuple[Results, list[checks.Finding]]:
    """What enters the report, and what the checks find in it and in outdated runs, which do not enter."""
    plan = load.read_plan(results, problems)
    records = load.planned_records(load.read_records(results, problems), plan)
    scores = load.planned_rows(load.read_scores(results, problems), plan)
    probes = load.planned_rows(load.read_probes(results, problems), plan)
    published = load.read_published(problems)
    findings = chain(checks.findings(scores, records, plan, published), checks.out_of_range(probes))
    current = load.planned_rows(scores, plan, current=True)
    details = load.planned_rows(load.read_details(results, problems), plan)
    outdated = set(scores.record) - set(current.record)
    kept = load.planned_records(records, plan, current=True)
    data = Results(
        plan=plan,
        scores=current,
        probes=load.planned_rows(probes, plan, current=True),
        details=details[~details.record.isin(outdated)].reset_index(drop=True),
        records=kept,
        logs=load.read_logs(results, kept),
        published=published,
    )
    return data, list(findings)


def sources(data: Results) -> Sources:
    """The rows of each of `specs.SOURCES`; computed where a spec asks, so that a failure costs that spec alone."""
    measured = load.training(data.records, "measured").query("phase == ''")
    probes, scores = aggregate.within_range(data.probes), aggregate.within_range(data.scores)
    matches = cache(lambda: reproduction.matches(data.published, data.cells, data.scores, data.records, data.plan))
    entries = cache(lambda: reproduction.entries(data.published, matches()))
    details = data.details
    of_source: Sources = {
        "cells": lambda: data.cells,
        "papers": lambda: paper_tables.rows(data.published, matches()),
        "reproduction": entries,
        "verdicts": lambda: reproduction.tally(entries()),
        "comparisons": lambda: significance.comparisons(data.cells, data.samples),
        "ranks": lambda: significance.ranks(data.cells),
        "protocols": lambda: aggregate.aggregate(aggregate.with_protocol_difference(scores), data.plan),
        "interference": lambda: aggregate.aggregate(probes, data.plan),
        "details": lambda: details,
        "spro": lambda: details[["spro" in content.get("curves", {}) for content in details.details]],
        "losses": lambda: load.training(data.records, "terms"),
        "trajectory": lambda: measured.query("name != 'validation'"),
        "selections": lambda: sensitivity.selections(measured),
        "conventions": lambda: sensitivity.conventions(data.cells),
        "costs": lambda: costs.costs(data.cells, data.records),
        "examples": lambda: details[details.arrays.notna()],  # an archive has none
        "composites": lambda: details[details.composites.notna()],
    }
    return {name: cache(rows) for name, rows in of_source.items()}


def _items(
    rows_of: Sources,
    data: Results,
    allowed: Sequence[checks.Allowed],
    folder: Path,
    out: Output,
    problems: list[str],
) -> list[tables.Table | html.Figure]:
    """Every table and figure of the specs, written to files."""
    items: list[tables.Table | html.Figure] = []
    for name, spec in specs.read_specs(folder, problems):
        try:
            source = spec.get("from", "cells")
            rows = rows_of[source]()
            unknown = vocabulary.select(rows, spec)[1] if len(rows) else []
            problems += [f"{folder.name}/{name}.yaml: {message}" for message in unknown]
            if "figure" in spec:
                items += _figures(name, spec, rows, out, problems)
            else:
                built = tables.tables(name, spec, rows, data.records, NOTES.get(source, lambda part: ()))
                built = [checks.with_notices(table, data.records, allowed) for table in built]
                items += _write(built, out.folder / "tables")
        except Exception as error:  # a spec is a plug-in: whatever fails in it must not cost the other specs' output
            log.debug("spec %s", name, exc_info=True)
            problems.append(f"{folder.name}/{name}.yaml: not built: {error_text(error)}.")
    return items


def _write(built: list[tables.Table], out: Path) -> list[tables.Table]:
    out.mkdir(parents=True, exist_ok=True)
    for table in built:
        for suffix, write in (("md", text.markdown), ("csv", text.csv), ("tex", latex.latex)):
            (out / f"{table.name}.{suffix}").write_text(write(table), encoding="utf-8")
    return built


def _figures(
    name: str, spec: Mapping[str, Any], rows: pd.DataFrame, out: Output, problems: list[str]
) -> list[html.Figure]:
    drawn, description = [], figures.description(spec["figure"])
    for place, part in vocabulary.each(vocabulary.select(rows, spec)[0], spec["each"]):
        title = vocabulary.title(spec, place)
        try:
            file = vocabulary.slug(name, *place.values())
            paths = drawn_before.saved(spec["figure"], part, out.folder / "figures" / file, out.cache)
            drawn.append(html.Figure(name, file, title, description, place, paths))
        except Exception as error:  # one figure that cannot be drawn must not cost the others
            log.debug("figure %s", title, exc_info=True)
            problems.append(f"figure '{title}' ({name}): {error_text(error)}.")
    return drawn
