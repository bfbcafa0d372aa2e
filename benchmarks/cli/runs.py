"""Commands on runs: execute them, see what they are doing."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from benchmarks import params as parameters
from benchmarks import plan as plans
from benchmarks import results
from benchmarks import status as states
from benchmarks.cli.app import (
    RUNS,
    DatasetOption,
    JsonOption,
    ProtocolOption,
    SeedOption,
    SplitOption,
    VariantOption,
    app,
    console,
    say,
    wide_console,
)
from benchmarks.plan import Run
from benchmarks.status import State
from benchmarks.wording import counted


@app.command(rich_help_panel=RUNS)
def status(
    watch: Annotated[bool, typer.Option(help="Keep it on the screen until no run is at work.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what each planned run is doing, without looking at code or data again."""
    from benchmarks.execution import monitor

    entries = plans.read(results.RESULTS).entries
    if watch:
        monitor.watch(entries, console)
    elif as_json:
        print(json.dumps(monitor.rows(entries), indent=1))
    else:
        wide_console().print(monitor.table(monitor.rows(entries)))


@app.command(rich_help_panel=RUNS)
def retry() -> None:
    """Execute again what failed among the planned runs, and nothing else; `dvc repro` then finds the results."""
    from benchmarks.execution.driver import launch

    runs = plans.read(results.RESULTS).runs
    failed = [run for run in runs if states.read_status(run).state is State.FAILED]
    if failed:
        launch(failed, parameters.load().executor, console)
    _collect(failed)


@app.command(rich_help_panel=RUNS)
def run(
    variant: VariantOption = None,
    dataset: DatasetOption = None,
    protocol: ProtocolOption = None,
    split: SplitOption = None,
    seed: SeedOption = None,
    planned: Annotated[
        bool,
        typer.Option("--planned", help="As a stage of the pipeline: launch the whole plan, collect the chosen runs."),
    ] = False,
) -> None:
    """Execute what is missing, stale or failed among the chosen runs, and store the results."""
    from benchmarks.runs import expand

    path = results.RESULTS / plans.FOLDER / "suite.json"
    plan = plans.read(results.RESULTS) if planned else plans.make("", expand(parameters.load()))
    chosen = plans.select(plan, variant=variant, dataset=dataset, protocol=protocol, split=split, seed=seed)
    for group in chosen.groups:
        if group.unsupported:
            results.group_dir(group.name).mkdir(parents=True, exist_ok=True)  # DVC expects the stage's output
    # One launch for the whole suite keeps every core busy; a run that failed in this pipeline run is not tried twice.
    since = path.stat().st_mtime if planned else float("inf")
    pending = [run for run in (plan if planned else chosen).runs if states.is_pending(run, since)]
    if pending:
        from benchmarks.execution.driver import launch

        launch(pending, parameters.load().executor, console)
    _collect(chosen.runs)


def _collect(runs: list[Run]) -> None:
    """Move finished runs to where they belong; say which did not finish."""
    for entry in runs:
        states.collect(entry)
    failed = [entry for entry in runs if states.read_status(entry).state is not State.DONE]
    for entry in failed:
        typer.secho(f"failed {entry.name}: {states.read_status(entry).reason}", err=True, fg="red")
        if tail := states.log_tail(entry, lines=15):
            typer.echo(f"log: {states.log_dir(entry)}\n{tail}", err=True)
    if failed:
        number = f"{len(failed)} of {counted(len(runs), 'run')}"
        say(f"{number} did not finish; the finished ones are kept. Start again to retry.")
        raise typer.Exit(1)
