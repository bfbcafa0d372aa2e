"""The command line. Exit codes: 0 done, 1 a run or check failed, 2 bad input, 3 another proctor is at work here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks import params as parameters
from benchmarks import store
from benchmarks.runs import Run, Unsupported
from benchmarks.store import State, Status
from methods.base import InputError

PLAN = store.RESULTS / "plan.json"
SUITES = Path(__file__).parent / "suites"

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
console = Console(stderr=True)

VariantOption = Annotated[str | None, typer.Option("--variant", help="Only this variant.")]
DatasetOption = Annotated[str | None, typer.Option("--dataset", help="Only this data set.")]
ProtocolOption = Annotated[str | None, typer.Option("--protocol", help="Only this protocol.")]
SplitOption = Annotated[str | None, typer.Option("--split", help="Only this split: a category, or `all`.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Only this seed.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


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
    before = yaml.safe_load(target.read_text()) if target.exists() else {}
    chosen = yaml.safe_load(text)
    kept = {"executor": before.get("executor", {})}
    for entry in ("roots", "weights"):
        kept[entry] = {**chosen.pop(entry, {}), **before.get(entry, {})}
    # The suite's text goes in as it is, so that its comments reach the reader.
    target.write_text(
        text.rstrip()
        + "\n\n# Yours: kept by `proctor use`.\n"
        + yaml.safe_dump(_without(kept, chosen), sort_keys=False)
    )
    parameters.load(target)
    console.print(f"params.yaml now holds the suite {suite!r}; `dvc repro` runs it.")


@app.command()
def plan(
    write: Annotated[Path | None, typer.Option(help="Also write the runs there, for the pipeline.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List every run of the suite, its state, and why it would run."""
    planned = list(_expand())
    if write:
        tree: dict[str, Any] = {}
        for entry in planned:
            variant, dataset, protocol = entry.group.split("-")
            branch = tree.setdefault(variant, {}).setdefault(dataset, {}).setdefault(protocol, {})
            if isinstance(entry, Run):
                branch[f"{entry.split}-seed{entry.seed}"] = asdict(entry)
            else:
                branch["unsupported"] = entry.reason
        store.write_json(write, tree)
    _print_states(planned, as_json)


@app.command()
def status(as_json: JsonOption = False) -> None:
    """Show each planned run's state without looking at code or data again: fast, for watching."""
    _print_states(list(_planned(PLAN)), as_json)


@app.command()
def run(
    variant: VariantOption = None,
    dataset: DatasetOption = None,
    protocol: ProtocolOption = None,
    split: SplitOption = None,
    seed: SeedOption = None,
    planned: Annotated[
        Path | None,
        typer.Option(help="Take runs from this plan; launch the rest of the suite as well, collect only the chosen."),
    ] = None,
) -> None:
    """Execute what is missing, stale or failed among the chosen runs, and store the results."""
    chosen = {"variant": variant, "dataset": dataset, "protocol": protocol, "split": split, "seed": seed}
    entries = list(_planned(planned) if planned else _expand())
    runs = [entry for entry in entries if isinstance(entry, Run)]
    mine = [r for r in runs if all(value in (None, getattr(r, name)) for name, value in chosen.items())]
    if not mine and not any(isinstance(entry, Unsupported) for entry in entries):
        raise InputError(
            f"No run of params.yaml is {', '.join(f'{k} {v}' for k, v in chosen.items() if v is not None)}."
        )
    # One launch for the whole suite keeps every core busy; a run that failed in this pipeline run is not tried twice.
    since = planned.stat().st_mtime if planned else float("inf")
    pending = [r for r in (runs if planned else mine) if _is_pending(r, since)]
    if pending:
        from benchmarks.launch import launch

        launch(pending, parameters.load().executor, console)
    for entry in mine:
        store.collect(entry)
    failed = [r for r in mine if store.status(r).state is not State.DONE]
    for entry in failed:
        _print_failure(entry)
    if failed:
        console.print(
            f"{len(failed)} of {len(mine)} runs did not finish; the finished ones are kept. Start again to retry."
        )
        raise typer.Exit(1)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Check the data sets and teachers of params.yaml, file by file."""
    from benchmarks import datasets
    from methods import teachers

    values = parameters.load()
    found: list[dict[str, str]] = []
    for name in values.datasets:
        try:
            dataset = datasets.load(name, values.roots.get(name), values.categories.get(name))
        except InputError as error:
            found.append({"what": name, "severity": "error", "message": str(error)})
            continue
        found += [{"what": name, "severity": p.severity, "message": p.message} for p in dataset.problems()]
    for name in values.weights:
        try:
            teachers.load(name, values.weights)
        except InputError as error:
            found.append({"what": name, "severity": "error", "message": str(error)})
    if as_json:
        print(json.dumps(found, indent=1))
    for problem in () if as_json else found:
        console.print(f"[bold]{problem['severity']}[/] {problem['what']}: {problem['message']}", highlight=False)
    errors = sum(problem["severity"] == "error" for problem in found)
    console.print(f"{len(values.datasets)} data sets, {len(values.weights)} weight files: {errors} errors.")
    raise typer.Exit(1 if errors else 0)


@app.command()
def fetch(
    dataset: str, root: Annotated[Path | None, typer.Option(help="Where to put it; default data/DATASET.")] = None
) -> None:
    """Generate or download a data set, or say how to get it where its licence wants you to ask."""
    from benchmarks import datasets

    target = root or datasets.default_root(dataset)
    datasets.find(dataset).fetch(target)
    console.print(f"{dataset} is at {target}.")


@app.command()
def pretrain(teacher: str) -> None:
    """Train a teacher that needs no download, on procedural images; writes results/teachers/TEACHER.safetensors."""
    from benchmarks import pretraining

    pretraining.pretrain(teacher, store.RESULTS / "teachers" / f"{teacher}.safetensors", console)


@app.command()
def score(variant: str, dataset: str, protocol: str) -> None:
    """Score the stored predictions of one group; writes results/scores and results/details."""
    from benchmarks import score as scoring

    values = parameters.load()
    runs = [r for r in _planned(PLAN) if isinstance(r, Run) and r.group == f"{variant}-{dataset}-{protocol}"]
    scoring.score_group(f"{variant}-{dataset}-{protocol}", runs, values.conventions)


@app.command()
def scores(format: Annotated[str, typer.Option(help="csv, json or markdown.")] = "csv") -> None:
    """Print every tidy row of the suite's scores (the columns are in results/README.md)."""
    from benchmarks.summary import read_scores

    rows = read_scores(_groups())
    writers = {"csv": lambda: rows.to_csv(index=False), "json": lambda: rows.to_json(orient="records", indent=1),
               "markdown": lambda: rows.to_markdown(index=False)}  # fmt: skip
    if format not in writers:
        raise InputError(f"--format is {format!r}; it may be {', '.join(writers)}.")
    sys.stdout.write(str(writers[format]()).rstrip("\n") + "\n")


@app.command()
def summary() -> None:
    """Write results/metrics.json and results/plots for `dvc metrics` and `dvc plots`."""
    from benchmarks import summary as summaries

    summaries.write(_groups())


@app.command()
def report() -> None:
    """Build the tables, figures and the page under reports/build from what is scored."""
    from reports import build

    page = build.build(store.RESULTS, Path("reports") / "build", _groups())
    console.print(f"The report is at {page}.")


def _expand() -> Iterator[Run | Unsupported]:
    from benchmarks import datasets, runs

    values = parameters.load()
    for name in values.datasets:
        root = values.roots.get(name) or datasets.default_root(name)
        if not root.exists():
            datasets.find(name).fetch(root)
    return runs.expand(values)


def _planned(path: Path) -> Iterator[Run | Unsupported]:
    tree = store.read_json(path)
    if tree is None:
        raise InputError(f"There is no plan at {path}; `dvc repro` or `proctor plan --write {path}` makes it.")
    for variant, datasets in tree.items():
        for dataset, protocols in datasets.items():
            for protocol, branch in protocols.items():
                for name, entry in branch.items():
                    group = f"{variant}-{dataset}-{protocol}"
                    yield Unsupported(group, entry) if name == "unsupported" else Run(**entry)


def _groups() -> list[str]:
    """The groups of the plan, each once, in its order."""
    return list(dict.fromkeys(entry.group for entry in _planned(PLAN)))


def _is_pending(entry: Run, since: float) -> bool:
    state = store.status(entry).state
    return state in (State.MISSING, State.STALE, State.RUNNING) or (
        state is State.FAILED and store.failed_at(entry) < since
    )


def _print_states(entries: Iterable[Run | Unsupported], as_json: bool) -> None:
    rows = []
    for entry in entries:
        state = store.status(entry) if isinstance(entry, Run) else Status(State.UNSUPPORTED, entry.reason)
        name = entry.name if isinstance(entry, Run) else entry.group
        rows.append({"run": name, "state": state.state.value, "reason": state.reason})
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    table = Table("run", "state", "reason")
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)
    counts = {state.value: sum(row["state"] == state for row in rows) for state in State}
    Console().print(", ".join(f"{count} {state}" for state, count in counts.items() if count))


def _print_failure(entry: Run) -> None:
    from benchmarks.launch import log_tail

    typer.secho(f"failed {entry.name}: {store.status(entry).reason}", err=True, fg="red")
    typer.echo(log_tail(entry), err=True)


def _without(values: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value and name not in names}


def main() -> None:
    """Entry point of `proctor`: errors that the user can mend are printed without a traceback."""
    try:
        app(standalone_mode=True)
    except InputError as error:
        console.print(f"[bold red]error:[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except store.Busy as error:
        console.print(f"[bold red]busy:[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(3)


if __name__ == "__main__":
    main()
