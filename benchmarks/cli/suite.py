"""Commands on the suite: select it, plan it, check and fetch what it needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic_core import to_jsonable_python
from rich.text import Text

import methods
from benchmarks import integrity, records, results, status
from benchmarks import params as parameters
from benchmarks import plan as plans
from benchmarks.cli.app import SUITE, JsonOption, app, plain_table, say, wide_console
from benchmarks.plan import Run
from benchmarks.plan_cache import PlanCache, Planned
from benchmarks.status import State
from benchmarks.wording import counted
from methods.base import InputError, did_you_mean, expand_path

SUITE_HELP = "A name from benchmarks/suites, or the path of a file."


@app.command(rich_help_panel=SUITE)
def init(
    folder: Annotated[Path, typer.Argument(help="Absent, or empty.")],
    suite: Annotated[str, typer.Option(help=SUITE_HELP)] = "toy",
) -> None:
    """Write a new project: its own copy of the code, dvc.yaml, params.yaml, and what Git and DVC ignore."""
    from benchmarks import new_project

    new_project.create(folder, suite)
    say(f"{folder} holds a new project with the suite {suite!r}. `dvc repro` runs it there.")


@app.command(rich_help_panel=SUITE)
def use(suite: Annotated[str, typer.Argument(help=SUITE_HELP)]) -> None:
    """Select a suite: writes it into params.yaml. Your `executor`, `roots` and `weights` stay."""
    from benchmarks import suite_files

    if not Path("dvc.yaml").is_file():
        raise InputError(
            f"There is no dvc.yaml in {Path.cwd()}: run proctor in a project's folder. `proctor init DIR` makes one."
        )
    selected = suite_files.select(suite, parameters.PATH, _check_entries)
    say(f"params.yaml now holds the suite {suite!r}; `dvc repro` runs it.")
    if selected.kept:
        say(f"Kept as they were: {', '.join(selected.kept)}.")
    if selected.replaced:
        say(f"Replaced by the suite's own, the old text left as a comment: {', '.join(selected.replaced)}.")


@app.command(rich_help_panel=SUITE)
def schema() -> None:
    """Print the JSON schema of params.yaml, with the methods and data sets that are there now."""
    from benchmarks import params_schema

    print(json.dumps(params_schema.generate(), indent=1))


@app.command(rich_help_panel=SUITE)
def plan(
    write: Annotated[bool, typer.Option("--write", help="Also write results/plan, for the pipeline.")] = False,
    why: Annotated[str | None, typer.Option(metavar="RUN", help="Show what changed in this run alone.")] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Only say what is not done or not scored as it is; exit with 1 if any."),
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="List every run.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check the suite, and show by group which runs would be executed, why, and what that will cost."""
    from benchmarks.execution import display, forecast, monitor

    values = parameters.load()
    made, notices = _planned(values)
    for notice in notices:
        say(f"notice: params.yaml: {notice}")
    if why:
        _explain(why, made.runs)
        return
    if check:
        _say_outdated(made)
        return
    if write:
        plans.write(results.RESULTS, made)
    rows = monitor.rows(made.entries)
    if as_json:
        print(json.dumps([row.model_dump(include={"run", "state", "reason"}) for row in rows], indent=1))
    else:
        output = wide_console()
        table = display.every_run if every else display.by_group
        output.print(table(rows, output.width), Text(display.totals(rows)))
    pending = {row.run for row in rows if row.state in (State.MISSING, State.STALE, State.FAILED)}
    for group in made.groups:
        if integrity.is_scored(group) and pending.isdisjoint(run.name for run in group.runs):
            for problem in integrity.score_problems(group):
                say(problem)
    for sentence in forecast.sentences([run for run in made.runs if run.name in pending], values.executor):
        say(sentence)


@app.command(rich_help_panel=SUITE)
def doctor(
    stored: Annotated[
        bool, typer.Option("--results", help="Check stored results instead, recomputing every digest.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Find everything in params.yaml, data sets and teachers that would stop or spoil the suite, file by file."""
    from benchmarks import doctor as checks

    if stored:
        plan = plans.read(results.RESULTS)
        damaged = integrity.problems(plan, full=True)
        scored = [group.name for group in plan.groups if integrity.is_scored(group)]
        if scored and not damaged:
            from benchmarks.scoring import summary

            damaged = summary.problems(scored)
        if as_json:
            print(json.dumps(damaged, indent=1))
        for problem in () if as_json else damaged:
            say(problem)
        if damaged:
            say("Remove the files that are named first: DVC overlooks a change that keeps size and time.")
        say(f"{counted(len(plan.runs), 'planned run')} and their scores: {counted(len(damaged), 'problem')}.")
        raise typer.Exit(1 if damaged else 0)
    report = checks.examine(parameters.load())
    if as_json:
        print(json.dumps(report.as_json(), indent=1))
    else:
        if report.contents:
            wide_console().print(checks.table(report.contents))
        for finding in report.findings:
            say(finding.line)
    categories = counted(len(report.contents), "category", "categories")
    say(f"{categories}: {counted(report.errors, 'error')}, {counted(len(report.findings), 'finding')} in all.")
    raise typer.Exit(1 if report.errors else 0)


@app.command(rich_help_panel=SUITE)
def fetch(
    dataset: str, root: Annotated[Path | None, typer.Option(help="Target folder; default: data/DATASET.")] = None
) -> None:
    """Generate or download a data set, or say how to get it where its licence wants you to ask."""
    from benchmarks import datasets

    target = expand_path(root) if root else datasets.default_root(dataset)
    datasets.find(dataset).fetch(target)
    say(f"{dataset} is at {target}.")


@app.command(rich_help_panel=SUITE)
def pretrain(teacher: str) -> None:
    """Train the teacher `procedural`, which needs no download; writes results/teachers/procedural.safetensors."""
    from benchmarks.checks import PRETRAINED
    from methods.components import procedural_teacher

    if teacher not in PRETRAINED:
        raise InputError(f"There is no recipe for a teacher {teacher!r}. {did_you_mean(teacher, PRETRAINED)}")
    file = results.RESULTS / "teachers" / f"{teacher}.safetensors"
    accuracy = procedural_teacher.pretrain(file)
    families = len(procedural_teacher.FAMILIES)
    say(f"{file}: accuracy {accuracy:.1%} on new images of its {families} classes.")


def _planned(values: parameters.Params) -> Planned:
    """The plan of these parameters: the stored one if nothing has changed, else a new one, after all checks."""
    cache = PlanCache(values)
    if stored := cache.read():
        return stored
    from benchmarks import checks

    notices = checks.check(values)
    _check_reports(values)
    _fetch_missing(values)
    from benchmarks.runs import expand

    cache.observe()
    planned = Planned(plans.make(values.suite, expand(values)), notices)
    cache.write(planned)
    return planned


def _say_outdated(plan: plans.Plan) -> None:
    """Say which runs are not done, and which groups are not scored as they are.

    Raises:
        Exit: with 1, if there are any.
    """
    states = {run.name: status.read_status(run) for run in plan.runs}
    outdated = [f"{name} is {state}{reason and f' ({reason})'}."
                for name, (state, reason) in states.items() if state is not State.DONE]  # fmt: skip
    for group in plan.groups:
        if all(states[run.name].state is State.DONE for run in group.runs):
            outdated += integrity.score_problems(group)
    for line in outdated:
        say(line)
    if outdated:
        raise typer.Exit(1)


def _check_entries(entries: dict[str, Any], source: str | Path) -> None:
    """What `proctor plan` would refuse of a file's entries without a look at code, data and weights."""
    from benchmarks import checks

    values = parameters.check(entries, source)
    checks.check_names(values, source)
    _check_allow(values, source)


def _check_reports(values: parameters.Params) -> None:
    """What the report would refuse at the end of the pipeline is refused before it starts."""
    from reports import specs

    if problems := specs.check_all():
        raise InputError("\n".join(problems))
    _check_allow(values, parameters.PATH)


def _check_allow(values: parameters.Params, source: str | Path) -> None:
    from reports.analysis import checks

    try:
        checks.check_allow(values.allow)
    except ValueError as error:
        raise InputError(f"{source}: `allow`: {error}") from None


def _fetch_missing(values: parameters.Params) -> None:
    """Generate or download the data sets that are not at their default place yet, where a program can.

    Raises:
        InputError: a data set is not where the user says it is, or a person has to fetch it.
    """
    from benchmarks import datasets

    misplaced: list[str] = []
    for name in values.datasets:
        root, variable = values.roots.get(name) or datasets.default_root(name), datasets.variable(name)
        if root.exists():
            continue
        if datasets.is_to_be_fetched(name, values.roots.get(name)):
            if not misplaced:
                datasets.find(name).fetch(root)
        else:
            stated = "`roots` in params.yaml" if name in values.roots else f"the environment variable {variable}"
            misplaced.append(f"There is no folder {root}, which {stated} names for {name}. Correct or remove it.")
    if misplaced:
        raise InputError("\n".join(misplaced))


def _explain(name: str, runs: Sequence[Run]) -> None:
    """Print each part of a run's fingerprint, then and now."""
    run = next((run for run in runs if run.name == name), None)
    if run is None:
        hint = did_you_mean(name, [run.name for run in runs], "`proctor plan` lists the runs of params.yaml.")
        raise InputError(f"The suite has no run {name!r}. {hint}")
    state = status.read_status(run)
    say(f"{run.name}: {state.state} {state.reason}")
    try:
        record = records.read(results.result_dir(run) / "record.json")
    except ValueError:  # none yet, or damaged: the state tells which
        return
    before, now = record.fingerprint_parts, run.fingerprint_parts
    parts = ((part, before.get(part, "none"), now.get(part, "none")) for part in before | now)
    marked = ([*part, "" if part[1] == part[2] else "changed"] for part in parts)
    wide_console().print(plain_table(("part", "stored", "now", ""), marked))
    settings = run.hyper_parameters
    if not record.is_imported:
        settings = to_jsonable_python(asdict(methods.create(run.method, **run.hyper_parameters)))
    then = record.hyper_parameters | record.compute
    for setting, value in (settings | run.compute).items():
        if then.get(setting, value) != value:
            say(f"{setting}: {then[setting]} then, {value} now")
