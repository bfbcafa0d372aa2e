"""Builds the report: tables, figures, and one page that shows both.

Bad input never stops a report: each problem becomes one sentence on the page, the rest is still built.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pandas as pd

from benchmarks.plan import Plan
from benchmarks.records import Record
from reports import aggregate, drawing, load, specs, tables, vocabulary
from reports.analysis import checks, costs, paper_tables, reproduction, sensitivity, significance, standings
from reports.load import error_text
from reports.output import Output
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


class Asked(NamedTuple):
    """A figure that a spec asks for."""

    kind: str  # the spec
    figure: str  # the module that draws it
    title: str
    place: dict[str, str]
    rows: pd.DataFrame


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
    """Write `tables/`, `figures/` and `index.html` into `out`; files whose content stays are not touched.

    Args:
        results: a folder as described in `results/README.md`.
        out: where the report goes.
        folder: one YAML file for each kind of table or figure.
        allow: by kind of finding, or `KIND:GROUP`, the reason why it is no problem; it is printed under the tables.
        problems: a list to which every problem is added.
        cache: a folder for drawn figures, which can be deleted at any time; None: all are drawn.

    Returns:
        The path of `index.html`. It lists all problems.
    """
    problems = [] if problems is None else problems
    data, findings = read(results, problems)
    allowed, remaining = checks.apply_allow(findings, allow)
    problems += remaining
    rows_of, output = sources(data), Output(out)
    asked = list(_asked(rows_of, data, allowed, folder, problems))
    items = list(_drawn(asked, output, cache, problems))
    payloads = drilldown.payloads(data.records, data.scores, data.details, data.logs, problems)
    boards = _boards(rows_of, data, problems)
    content = html.Content(
        suite=data.plan.suite,
        boards=boards,
        items=items,
        records=data.records,
        payloads=payloads,
        problems=problems,
        allowed=[checks.notice(*finding) for finding in allowed],
    )
    index = output.write("index.html", html.render(content))
    output.remove_others("tables", "figures")
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


def _asked(
    rows_of: Sources, data: Results, allowed: Sequence[checks.Allowed], folder: Path, problems: list[str]
) -> Iterator[tables.Table | Asked]:
    """Every table of the specs, and every figure that is to be drawn."""
    variants = list(dict.fromkeys(group.variant for group in data.plan.groups))
    for name, spec in specs.read_specs(folder, problems):
        try:
            source = spec.get("from", "cells")
            rows = rows_of[source]()
            unknown = vocabulary.select(rows, spec)[1] if len(rows) else []
            problems += [f"{folder.name}/{name}.yaml: {message}" for message in unknown]
            if "figure" in spec:
                for place, part in vocabulary.each(vocabulary.select(rows, spec)[0], spec["each"]):
                    yield Asked(name, spec["figure"], vocabulary.title(spec, place), place, part)
            else:
                built = tables.tables(name, spec, rows, data.records, NOTES.get(source, lambda part: ()), variants)
                yield from [checks.with_notices(table, data.records, allowed) for table in built]
        except Exception as error:  # a spec is a plug-in: whatever fails in it must not cost the other specs' output
            log.debug("spec %s", name, exc_info=True)
            problems.append(f"{folder.name}/{name}.yaml: not built: {error_text(error)}.")


def _drawn(
    asked: Sequence[tables.Table | Asked], out: Output, cache: Path | None, problems: list[str]
) -> Iterator[tables.Table | html.Figure]:
    """The tables, and the figures that could be drawn, written to files."""
    jobs = [drawing.Job(item.figure, item.rows) for item in asked if isinstance(item, Asked)]
    drawn = iter(drawing.draw(jobs, cache))
    for item in asked:
        if isinstance(item, tables.Table):
            for suffix, write in (("md", text.markdown), ("csv", text.csv), ("tex", latex.latex)):
                out.write(f"tables/{item.name}.{suffix}", write(item))
            yield item
        elif (result := next(drawn)).error:
            problems.append(f"figure '{item.title}' ({item.kind}): {result.error}.")
        else:
            file = vocabulary.slug(item.kind, *item.place.values())
            paths = [out.write(f"figures/{file}{suffix}", content) for suffix, content in result.files.items()]
            said = f"{drawing.description(item.figure)} {result.note}"
            yield html.Figure(item.kind, file, item.title, said, item.place, paths, result.markup)
