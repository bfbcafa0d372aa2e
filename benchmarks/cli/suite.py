"""Commands on the suite: select it, plan it, check and fetch what it needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.markup import escape
from rich.table import Table

from benchmarks import params as parameters
from benchmarks import plan as plans
from benchmarks import results, status
from benchmarks.cli.app import JsonOption, app, console, say, wide_console
from benchmarks.plan import Run
from benchmarks.status import State
from methods.base import InputError

SUITES = Path(__file__).parent.parent / "suites"


@app.command()
def use(suite: Annotated[str, typer.Argument(help="A name from benchmarks/suites, or a path of your own.")]) -> None:
    """Select a suite: writes it into params.yaml; your `executor`, `roots` and `weights` stay."""
    known = sorted(path.stem for path in SUITES.glob("*.yaml"))
    source = SUITES / f"{suite}.yaml" if suite in known else Path(suite)
    if not source.is_file():
        raise InputError(
            f"There is no suite {suite!r}; known suites: {', '.join(known)}; or give the path of a YAML file."
        )
    target, text = Path("params.yaml"), source.read_text()
    before, chosen = (yaml.safe_load(path.read_text()) if path.exists() else {} for path in (target, source))
    yours = {
        entry: before[entry] for entry in ("executor", "roots", "weights") if entry in before and entry not in chosen
    }
    # The suite goes in as text, so that its comments reach the reader.
    kept = f"\n# Yours: kept by `proctor use`.\n{yaml.safe_dump(yours, sort_keys=False)}" if yours else ""
    target.write_text(text + kept)
    parameters.load(target)
    console.print(f"params.yaml now holds the suite {suite!r}; `dvc repro` runs it.")


@app.command()
def plan(
    write: Annotated[bool, typer.Option("--write", help="Also write results/plan, for the pipeline.")] = False,
    why: Annotated[str | None, typer.Option(metavar="RUN", help="Say of this run alone what changed.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 if a run is not done, and print nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List every run of the suite, its state, why it would run, and what that will cost."""
    from benchmarks.execution import forecast, monitor
    from benchmarks.runs import expand

    values = parameters.load()
    _fetch_missing(values)
    planned = list(expand(values))
    if why:
        _explain(next((entry for entry in planned if isinstance(entry, Run) and entry.name == why), None))
        return
    if check:
        runs = [entry for entry in planned if isinstance(entry, Run)]
        raise typer.Exit(0 if all(status.read_status(run).state is State.DONE for run in runs) else 1)
    if write:
        plans.write(results.RESULTS, plans.make(values.suite, planned))
    rows = monitor.rows(planned)
    if as_json:
        print(json.dumps([row.model_dump(include={"run", "state", "reason"}) for row in rows], indent=1))
    else:
        table = Table("run", "state", "reason")
        for row in rows:
            table.add_row(escape(row.run), row.state, escape(row.reason))
        wide_console().print(table, monitor.counts(rows))
    pending = {row.run for row in rows if row.state in (State.MISSING, State.STALE, State.FAILED)}
    for sentence in forecast.sentences(
        [e for e in planned if isinstance(e, Run) and e.name in pending], values.executor
    ):
        say(sentence)


@app.command()
def doctor(
    stored: Annotated[bool, typer.Option("--results", help="Check what is stored instead: every digest anew.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Find everything in params.yaml, data sets and teachers that would stop or spoil the suite, file by file."""
    from benchmarks import doctor as checks
    from benchmarks import integrity

    if stored:
        plan = plans.read(results.RESULTS)
        damaged = integrity.problems(plan, full=True)
        if as_json:
            print(json.dumps(damaged, indent=1))
        for problem in () if as_json else damaged:
            say(problem)
        say(f"{len(plan.runs)} planned runs and their scores: {len(damaged)} problems.")
        raise typer.Exit(1 if damaged else 0)
    report = checks.examine(parameters.load())
    if as_json:
        print(json.dumps(report.as_json(), indent=1))
    else:
        if report.contents:
            wide_console().print(checks.table(report.contents))
        for finding in report.findings:
            say(finding.line)
    say(f"{len(report.contents)} categories: {report.errors} errors, {len(report.findings)} findings in all.")
    raise typer.Exit(1 if report.errors else 0)


@app.command()
def fetch(
    dataset: str, root: Annotated[Path | None, typer.Option(help="Where to put it; default data/DATASET.")] = None
) -> None:
    """Generate or download a data set, or say how to get it where its licence wants you to ask."""
    from benchmarks import datasets

    target = datasets.expand_path(root) if root else datasets.default_root(dataset)
    datasets.find(dataset).fetch(target)
    say(f"{dataset} is at {target}.")


@app.command()
def pretrain(teacher: str) -> None:
    """Train the teacher `procedural`, which needs no download; writes results/teachers/procedural.safetensors."""
    from methods.components import procedural_teacher

    if teacher != "procedural":
        raise InputError(f"There is no recipe for a teacher {teacher!r}; the one there is trains `procedural`.")
    file = results.RESULTS / "teachers" / f"{teacher}.safetensors"
    accuracy = procedural_teacher.pretrain(file)
    console.print(f"{file}: tells {accuracy:.1%} of new images of {len(procedural_teacher.FAMILIES)} families apart.")


def _fetch_missing(values: parameters.Params) -> None:
    """Generate or download the data sets that are not there yet, where a program can."""
    from benchmarks import datasets

    for name in values.datasets:
        if datasets.is_to_be_fetched(name, values.roots.get(name)):
            datasets.find(name).fetch(datasets.default_root(name))


def _explain(entry: Run | None) -> None:
    """Print each part of a run's fingerprint, then and now."""
    if entry is None:
        raise InputError("The suite has no such run; `proctor plan` lists the runs of params.yaml.")
    state = status.read_status(entry)
    say(f"{entry.name}: {state.state} {state.reason}")
    before = results.read_json(results.result_dir(entry) / "record.json")
    if before is None:
        return
    table = Table("part", "stored", "now", "")
    for part, value in entry.fingerprint_parts.items():
        stored = str(before["fingerprint_parts"].get(part, "none"))
        table.add_row(part, stored, value, "" if stored == value else "changed")
    wide_console().print(table)
    for name, now in (before["hyper_parameters"] | entry.hyper_parameters | entry.compute).items():
        then = (before["hyper_parameters"] | before["compute"]).get(name, "default")
        if then != now:
            wide_console().print(f"{name}: {then} then, {now} now", highlight=False)
