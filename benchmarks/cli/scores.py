"""Commands on scores: compute them, print them, summarise them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from benchmarks import integrity, results
from benchmarks import params as parameters
from benchmarks import plan as plans
from benchmarks import status as states
from benchmarks.cli.app import RESULTS, SeedOption, SplitOption, app
from benchmarks.schema import group_name
from benchmarks.wording import counted
from methods.base import InputError

FORMATS = ("csv", "json", "markdown")


@app.command(rich_help_panel=RESULTS)
def score(variant: str, dataset: str, protocol: str, split: SplitOption = None, seed: SeedOption = None) -> None:
    """Score the stored predictions of one group; writes results/scores and results/details.

    With --split or --seed, the tidy rows of the chosen runs alone are printed, and nothing is written.
    """
    from benchmarks.runs import expand
    from benchmarks.scoring import score as scoring

    values = parameters.load()
    alone = split is not None or seed is not None
    plan = plans.make("", expand(values)) if alone else plans.read(results.RESULTS)
    chosen = plans.select(plan, variant=variant, dataset=dataset, protocol=protocol, split=split, seed=seed)
    if unfinished := states.collect_finished(chosen.runs):  # a finished run may wait for its driver to collect it
        run, (state, reason) = unfinished[0]
        first = f"{run.name} is {state}{reason and f' ({reason})'}"
        raise InputError(f"{counted(len(unfinished), 'run')} cannot be scored. {first}: `dvc repro` runs what is left.")
    if alone:
        sys.stdout.write(scoring.score_runs(chosen.runs, values.conventions).to_csv(index=False))
    else:
        scoring.score_group(group_name(variant, dataset, protocol), chosen.runs, values.conventions)


@app.command(rich_help_panel=RESULTS)
def scores(format: Annotated[str, typer.Option(help="csv, json or markdown.")] = "csv") -> None:
    """Print every tidy row of the suite's scores (the columns are in results/README.md)."""
    if format not in FORMATS:
        raise InputError(f"--format is {format!r}; it may be {', '.join(FORMATS)}.")
    groups = _sound_groups()
    if format == "csv":  # as stored: pandas takes longer to import than all else does
        sys.stdout.writelines(_lines(groups))
        return
    from benchmarks.scoring.summary import read_scores

    rows = read_scores(groups)
    text = rows.to_json(orient="records", indent=1) if format == "json" else rows.to_markdown(index=False)
    print(text)


def _lines(groups: Sequence[str]) -> Iterator[str]:
    """The rows of these groups under one line of heads."""
    for place, group in enumerate(groups):
        with (results.RESULTS / "scores" / f"{group}.csv").open(encoding="utf-8") as file:
            heads = next(file)
            if place == 0:
                yield heads
            yield from file


@app.command(rich_help_panel=RESULTS)
def summary() -> None:
    """Write results/metrics and results/plots for `dvc metrics` and `dvc plots`."""
    from benchmarks.scoring import summary as summaries

    summaries.write(_sound_groups())


def _sound_groups() -> list[str]:
    """The planned groups, once their scores are known to be those of the planned runs."""
    groups = plans.read(results.RESULTS).groups
    for group in groups:
        integrity.require_sound(group)
    return [group.name for group in groups]
