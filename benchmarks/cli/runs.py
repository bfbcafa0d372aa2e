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
from benchmarks.status import State, Status
from benchmarks.status_file import read_report
from benchmarks.wording import counted, printable


@app.command(rich_help_panel=RUNS)
def status(
    watch: Annotated[bool, typer.Option(help="Refresh until no run is active.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what each planned run is doing, without looking at code or data again."""
    from benchmarks import clean as cleaning
    from benchmarks.execution import display, monitor

    plan = plans.read(results.RESULTS)
    entries = plan.entries
    if watch:
        display.watch(entries, console)
    elif as_json:
        print(json.dumps([row.json_object() for row in monitor.rows(entries)], indent=1))
    else:
        output = wide_console()
        output.print(display.picture(monitor.rows(entries), output.width))
        if plans.is_older_than(parameters.PATH, results.RESULTS):
            say(f"{parameters.PATH} was changed after these runs were planned: `proctor plan` lists those of now.")
        if unplanned := cleaning.unplanned(plan):
            say(
                f"{counted(len(unplanned), 'unplanned result')}, such as {unplanned[0]}, in no table; "
                "`proctor clean` removes them."
            )


@app.command(rich_help_panel=RUNS)
def clean(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
) -> None:
    """Remove what is stored of earlier suites, seeds or parameters and not planned; never of a run in progress."""
    from benchmarks import clean as cleaning

    unplanned = cleaning.unplanned(plans.read(results.RESULTS))
    for path in unplanned:
        if not dry_run:
            cleaning.remove(path)
        say(f"{'would remove' if dry_run else 'removed'} {path}")
    say(f"{counted(len(unplanned), 'unplanned file or folder', 'unplanned files and folders')}.")


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
    force: Annotated[bool, typer.Option("--force", help="Make the chosen runs again: removes their results.")] = False,
) -> None:
    """Execute what is missing, stale or failed among the chosen runs, and store the results."""
    from benchmarks.runs import expand

    path = results.RESULTS / plans.FOLDER / "suite.json"
    plan = plans.read(results.RESULTS) if planned else plans.make("", expand(parameters.load()))
    chosen = plans.select(plan, variant=variant, dataset=dataset, protocol=protocol, split=split, seed=seed)
    for group in chosen.groups:
        if group.unsupported:
            results.group_dir(group.name).mkdir(parents=True, exist_ok=True)  # DVC expects the stage's output
    for entry in chosen.runs if force else ():
        states.discard(entry)
    # One launch for the whole suite keeps every core busy; a run that failed in this pipeline run is not tried twice.
    planned_at = path.stat().st_mtime if planned else float("inf")
    pending = [run for run in (plan if planned else chosen).runs if states.is_pending(run, failed_before=planned_at)]
    if pending:
        from benchmarks.execution.driver import launch

        launch(pending, parameters.load().executor, console)
    _collect(chosen.runs)


def _collect(runs: list[Run]) -> None:
    """Move finished runs to their places; print which did not finish, those that failed alike in one message."""
    unfinished = states.collect_finished(runs)
    alike: dict[Status, list[Run]] = {}
    for entry, reached in unfinished:
        alike.setdefault(reached, []).append(entry)
    for (state, reason), entries in alike.items():
        subject = counted(len(entries), "run") if len(entries) > 1 else entries[0].name
        typer.secho(printable(f"{state} {subject}: {reason}"), err=True, fg="red")
        if len(entries) > 1:
            rest = ", …" if len(entries) > 3 else ""
            typer.echo(f"runs: {', '.join(entry.name for entry in entries[:3])}{rest} (`proctor status`)", err=True)
        if tail := states.log_tail(entries[0], lines=15):
            report = read_report(entries[0])
            explained = report is not None and report.explained
            typer.echo(f"log: {states.log_dir(entries[0])}" + ("" if explained else f"\n{tail}"), err=True)
    if unfinished:
        number = f"{len(unfinished)} of {counted(len(runs), 'run')}"
        say(f"{number} did not finish; the finished ones are kept. `dvc repro` tries the others again.")
        raise typer.Exit(1)
