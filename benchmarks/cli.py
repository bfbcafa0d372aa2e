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
from rich.markup import escape
from rich.table import Table

from benchmarks import params as parameters
from benchmarks import store
from benchmarks.runs import Run, Unsupported
from benchmarks.store import State
from methods.base import InputError

PLAN = store.RESULTS / "plan.json"
BOARD = Path("leaderboard")
SUITES = Path(__file__).parent / "suites"

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
console = Console(stderr=True)

VariantOption = Annotated[str | None, typer.Option("--variant", help="Only this variant.")]
DatasetOption = Annotated[str | None, typer.Option("--dataset", help="Only this data set.")]
ProtocolOption = Annotated[str | None, typer.Option("--protocol", help="Only this protocol.")]
SplitOption = Annotated[str | None, typer.Option("--split", help="Only this split: a category, or `all`.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Only this seed.")]
RecordsOption = Annotated[Path, typer.Option(help="Folder of the accepted submissions' records.")]
RecordOption = Annotated[Path | None, typer.Option(help="Also write the record for the leaderboard there.")]
DateOption = Annotated[str | None, typer.Option("--date", help="Of the record, YYYY-MM-DD; default: today.")]
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
    write: Annotated[Path | None, typer.Option(help="Also write the runs there, for the pipeline.")] = None,
    why: Annotated[str | None, typer.Option(metavar="RUN", help="Say of this run alone what changed.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List every run of the suite, its state, why it would run, and what that will cost."""
    planned = list(_expand())
    if why:
        _explain(next((entry for entry in planned if isinstance(entry, Run) and entry.name == why), None))
        return
    if write:
        tree: dict[str, Any] = {}
        for entry in planned:
            datasets = tree.setdefault(entry.variant, {})
            branch = datasets.setdefault(entry.dataset, {}).setdefault(entry.protocol, {})
            if isinstance(entry, Run):
                branch[f"{entry.split}-seed{entry.seed}"] = asdict(entry)
            else:
                branch["unsupported"] = entry.reason
        store.write_json(write, tree)
    found = _print_states(planned, as_json)
    open_ = {row["run"] for row in found if row["state"] in (State.MISSING, State.STALE, State.FAILED)}
    from benchmarks.forecast import sentences

    pending = [entry for entry in planned if isinstance(entry, Run) and entry.name in open_]
    for sentence in sentences(pending, parameters.load().executor):
        console.print(sentence, highlight=False, soft_wrap=True)


@app.command()
def status(
    watch: Annotated[bool, typer.Option(help="Keep it on the screen until no run is at work.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what each planned run is doing, without looking at code or data again."""
    from benchmarks import watch as watching

    entries = list(_planned(PLAN))
    if watch:
        watching.watch(entries, console)
    elif as_json:
        print(json.dumps(watching.rows(entries), indent=1))
    else:
        # Into a file or pipe, wide enough for everything.
        Console(width=None if sys.stdout.isatty() else 200).print(watching.table(watching.rows(entries)))


@app.command()
def retry() -> None:
    """Execute again what failed among the planned runs, and nothing else; `dvc repro` then finds the results."""
    from benchmarks.launch import launch

    entries = [entry for entry in _planned(PLAN) if isinstance(entry, Run)]
    failed = [entry for entry in entries if store.status(entry).state is State.FAILED]
    if failed:
        launch(failed, parameters.load().executor, console)
    _collect(failed)


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
    mine, unsupported = _select(entries, **chosen)
    for group in unsupported:
        store.group_dir(group).mkdir(parents=True, exist_ok=True)  # the pipeline wants to see the stage's output
    runs = [entry for entry in entries if isinstance(entry, Run)]
    # One launch for the whole suite keeps every core busy; a run that failed in this pipeline run is not tried twice.
    since = planned.stat().st_mtime if planned else float("inf")
    pending = [r for r in (runs if planned else mine) if _is_pending(r, since)]
    if pending:
        from benchmarks.launch import launch

        launch(pending, parameters.load().executor, console)
    _collect(mine)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Find everything in params.yaml, data sets and teachers that would stop or spoil the suite, file by file."""
    from benchmarks import doctor as checks

    report = checks.examine(parameters.load())
    if as_json:
        print(json.dumps(report.as_json(), indent=1))
    else:
        if report.contents:
            Console(width=None if sys.stdout.isatty() else 200).print(checks.table(report.contents))
        for finding in report.findings:
            console.print(finding.line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"{len(report.contents)} categories: {report.errors} errors, {len(report.findings)} findings in all.")
    raise typer.Exit(1 if report.errors else 0)


@app.command()
def fetch(
    dataset: str, root: Annotated[Path | None, typer.Option(help="Where to put it; default data/DATASET.")] = None
) -> None:
    """Generate or download a data set, or say how to get it where its licence wants you to ask."""
    from benchmarks import datasets

    target = datasets.expand_path(root) if root else datasets.default_root(dataset)
    datasets.find(dataset).fetch(target)
    console.print(f"{dataset} is at {target}.", markup=False, highlight=False, soft_wrap=True)


@app.command()
def pretrain(teacher: str) -> None:
    """Train the teacher `procedural`, which needs no download; writes results/teachers/procedural.safetensors."""
    from benchmarks import pretraining

    if teacher != "procedural":
        raise InputError(f"There is no recipe for a teacher {teacher!r}; the one there is trains `procedural`.")
    file = store.RESULTS / "teachers" / f"{teacher}.safetensors"
    accuracy = pretraining.pretrain(file)
    console.print(f"{file}: tells {accuracy:.1%} of new images of {len(pretraining.FAMILIES)} families apart.")


@app.command()
def score(variant: str, dataset: str, protocol: str, split: SplitOption = None, seed: SeedOption = None) -> None:
    """Score the stored predictions of one group; writes results/scores and results/details.

    With --split or --seed, the tidy rows of the chosen runs alone are printed, and nothing is written.
    """
    from benchmarks import score as scoring

    chosen = {"variant": variant, "dataset": dataset, "protocol": protocol, "split": split, "seed": seed}
    alone = split is not None or seed is not None
    runs, _ = _select(_expand() if alone else _planned(PLAN), **chosen)
    unfinished = [entry.name for entry in runs if store.status(entry).state is not State.DONE]
    if unfinished:
        raise InputError(f"{len(unfinished)} runs are not finished, such as {unfinished[0]}: `proctor run` first.")
    conventions = parameters.load().conventions
    if alone:
        sys.stdout.write(scoring.score_runs(runs, conventions).to_csv(index=False))
    else:
        scoring.score_group(f"{variant}-{dataset}-{protocol}", runs, conventions)


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
def export(
    variant: str,
    dataset: str,
    protocol: str,
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder; for MVTec AD 2 a new archive, x.tar.gz.")],
    seed: Annotated[int, typer.Option(help="Whose maps to take.")] = 0,
    threshold: Annotated[
        str, typer.Option(help="MVTec AD 2: mean+Kstd of validation pixels, or a number.")
    ] = "mean+3std",
) -> None:
    """Write anomaly maps in the official layout of MVTec AD, MVTec LOCO or MVTec AD 2's server."""
    from benchmarks import export as exporting

    runs, _ = _select(_planned(PLAN), variant=variant, dataset=dataset, protocol=protocol, seed=seed)
    count = exporting.export(runs, out, threshold)
    console.print(f"{count} anomaly maps are in {out}.", highlight=False, soft_wrap=True)


@app.command()
def bundle(
    runs: Annotated[list[str], typer.Argument(help="Groups, or runs as `proctor status` names them; of one group.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle to write, x.tar.gz.")],
    licence: Annotated[str, typer.Option(help="Of maps and numbers: an SPDX identifier, such as CC-BY-4.0.")],
    contact: Annotated[str, typer.Option(help="Whom to ask: an address or a page.")],
    name: Annotated[str | None, typer.Option(help="Title of the submission; default: the variant.")] = None,
    url: Annotated[str | None, typer.Option(help="A page about it.")] = None,
    weights: Annotated[list[Path] | None, typer.Option(help="A .safetensors file to put in; may be repeated.")] = None,
    record: RecordOption = None,
    on: DateOption = None,
) -> None:
    """Write a submission that anyone can score again: maps, scores, claimed values and how they were made."""
    from benchmarks import bundle as bundles

    given = {"licence": licence, "contact": contact, "name": name, "url": url}
    about = {field: value for field, value in given.items() if value is not None}
    manifest, digest = bundles.write(out, runs, about, weights or ())
    console.print(f"{out}: {len(manifest.maps)} maps, {len(manifest.claims)} claimed values", highlight=False)
    console.print(f"SHA-256 {digest}", highlight=False, soft_wrap=True)
    if record:
        bundles.write_record(record, bundles.record(manifest, out, digest, on))


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="The bundle, x.tar.gz.")],
    data: Annotated[
        Path | None, typer.Option(help="Root of your copy of the data set; default as for a suite.")
    ] = None,
    record: RecordOption = None,
    on: DateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Recompute every claimed value of a bundle from its maps and your own copy of the data."""
    from benchmarks import bundle as bundles
    from benchmarks import verify as verification

    report = verification.verify(bundle, data)
    if as_json:
        print(json.dumps(report.as_json(), indent=1))
    else:
        Console(width=None if sys.stdout.isatty() else 200).print(verification.table(report))
    for sentence in verification.verdict(report):
        console.print(sentence, highlight=False, soft_wrap=True)
    if not report.agrees:
        raise typer.Exit(1)
    if record:
        revision = verification.data_revision(report, data)
        bundles.write_record(record, bundles.record(report.manifest, bundle, report.sha256, on, revision))


@app.command()
def summary() -> None:
    """Write results/metrics.json and results/plots for `dvc metrics` and `dvc plots`."""
    from benchmarks import summary as summaries

    summaries.write(_groups())


@app.command()
def report(
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 if there is a problem that is not allowed.")
    ] = False,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND=REASON",
            help="Or KIND:GROUP=REASON: no problem; printed under the tables. Adds to `allow` in params.yaml.",
        ),
    ] = None,
) -> None:
    """Build the tables, figures and the page under reports/build from what is scored, and check them."""
    from reports import build, lint

    of_suite = parameters.load().allow if Path("params.yaml").exists() else {}
    reasons = of_suite | dict(entry.partition("=")[::2] for entry in allow or ())
    try:
        lint.check(reasons)
    except ValueError as error:
        raise InputError(f"`allow` in params.yaml, or --allow: {error}.") from None
    problems: list[str] = []
    page = build.build(store.RESULTS, Path("reports") / "build", allow=reasons, problems=problems)
    console.print(f"The report is at {page}.")
    if strict and problems:
        console.print(
            f"Problems, listed above and on the page: {len(problems)}. Mend them, or give each kind that may stay a "
            "reason under `allow` in params.yaml.",
            soft_wrap=True,
        )
        raise typer.Exit(1)


@app.command()
def board(
    check: Annotated[bool, typer.Option(help="Only check the records, as CI does.")] = False,
    records: RecordsOption = BOARD / "records",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for board.md and board.html.")] = BOARD / "build",
) -> None:
    """Render the board of accepted submissions; `--check` fails if a record is not valid."""
    from reports import board as rendering

    accepted = _accepted(records)
    if check:
        console.print(f"{len(accepted)} records, each valid.")
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / "board.md").write_text(rendering.markdown(accepted))
    (out / "board.html").write_text(rendering.page(accepted))
    console.print(f"{out / 'board.html'} and board.md: {len(accepted)} submissions.", highlight=False, soft_wrap=True)


@app.command()
def model_index(method: str, records: RecordsOption = BOARD / "records") -> None:
    """Print the `model-index` block of a Hugging Face model card with a method's accepted submissions."""
    from reports import board as rendering

    found = rendering.model_index(_accepted(records), method)
    if not found:
        raise InputError(f"The board has no submission of method {method!r}; `proctor board` lists those it has.")
    sys.stdout.write(yaml.safe_dump({"model-index": found}, sort_keys=False, allow_unicode=True))


def _accepted(folder: Path) -> list[dict[str, Any]]:
    """The records of the board, as JSON; ends the program if one is not valid."""
    from benchmarks import board as accepted

    found, problems = accepted.read(folder)
    for problem in problems:
        console.print(problem, markup=False, highlight=False, soft_wrap=True)
    if problems:
        raise typer.Exit(1)
    return [record.model_dump(mode="json", by_alias=True) for record in found]


def _expand() -> Iterator[Run | Unsupported]:
    from benchmarks import datasets, runs

    values = parameters.load()
    for name in values.datasets:
        if datasets.is_to_be_fetched(name, values.roots.get(name)):
            datasets.find(name).fetch(datasets.default_root(name))
    return runs.expand(values)


def _planned(path: Path) -> Iterator[Run | Unsupported]:
    tree = store.read_json(path)
    if tree is None:
        raise InputError(f"There is no plan at {path}; `dvc repro` or `proctor plan --write {path}` makes it.")
    for variant, datasets in tree.items():
        for dataset, protocols in datasets.items():
            for protocol, branch in protocols.items():
                for name, entry in branch.items():
                    unsupported = name == "unsupported"
                    yield Unsupported(variant, dataset, protocol, entry) if unsupported else Run(**entry)


def _select(entries: Iterable[Run | Unsupported], **chosen: Any) -> tuple[list[Run], list[str]]:
    """The runs that are chosen, and the chosen groups that cannot run.

    Raises:
        InputError: neither is there.
    """
    chosen = {name: value for name, value in chosen.items() if value is not None}
    found = [entry for entry in entries if all(getattr(entry, name, value) == value for name, value in chosen.items())]
    if not found:
        wanted = ", ".join(f"{name} {value}" for name, value in chosen.items())
        raise InputError(f"The suite has no run with {wanted}; `proctor plan` lists the runs of params.yaml.")
    runs = [entry for entry in found if isinstance(entry, Run)]
    return runs, [entry.group for entry in found if isinstance(entry, Unsupported)]


def _groups() -> list[str]:
    """The groups of the plan, each once, in its order."""
    return list(dict.fromkeys(entry.group for entry in _planned(PLAN)))


def _is_pending(entry: Run, since: float) -> bool:
    state = store.status(entry).state
    return state in (State.MISSING, State.STALE, State.QUEUED, State.RUNNING) or (
        state is State.FAILED and store.touched_at(entry) < since
    )


def _collect(runs: list[Run]) -> None:
    """Move finished runs to where they belong; say which did not finish."""
    for entry in runs:
        store.collect(entry)
    failed = [entry for entry in runs if store.status(entry).state is not State.DONE]
    for entry in failed:
        _print_failure(entry)
    if failed:
        console.print(
            f"{len(failed)} of {len(runs)} runs did not finish; the finished ones are kept. Start again to retry."
        )
        raise typer.Exit(1)


def _print_states(entries: Iterable[Run | Unsupported], as_json: bool) -> list[dict[str, Any]]:
    from benchmarks import watch

    found = watch.rows(entries)
    if as_json:
        print(json.dumps([{key: row[key] for key in ("run", "state", "reason")} for row in found], indent=1))
        return found
    table = Table("run", "state", "reason")
    for row in found:
        table.add_row(row["run"], row["state"], row["reason"])
    Console().print(table)
    Console().print(watch.counts(found))
    return found


def _explain(entry: Run | None) -> None:
    """Print each part of a run's fingerprint, then and now."""
    if entry is None:
        raise InputError("The suite has no such run; `proctor plan` lists the runs of params.yaml.")
    state = store.status(entry)
    console.print(f"{entry.name}: {state.state} {state.reason}", highlight=False, soft_wrap=True)
    before = store.read_json(store.result_dir(entry) / "record.json")
    if before is None:
        return
    table = Table("part", "stored", "now", "")
    for part, value in entry.fingerprint_parts.items():
        stored = str(before["fingerprint_parts"].get(part, "none"))
        table.add_row(part, stored, value, "" if stored == value else "changed")
    Console().print(table)
    for name, now in (before["hyper_parameters"] | entry.hyper_parameters | entry.compute).items():
        then = (before["hyper_parameters"] | before["compute"]).get(name, "default")
        if then != now:
            Console().print(f"{name}: {then} then, {now} now", highlight=False)


def _print_failure(entry: Run) -> None:
    typer.secho(f"failed {entry.name}: {store.status(entry).reason}", err=True, fg="red")
    if tail := store.log_tail(entry, lines=15):
        typer.echo(f"log: {store.log_dir(entry)}\n{tail}", err=True)


def main() -> None:
    """Entry point of `proctor`: errors that the user can mend are printed without a traceback."""
    try:
        app(standalone_mode=True)
    except InputError as error:
        console.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except store.Busy as error:
        console.print(f"[bold red]busy:[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(3)


if __name__ == "__main__":
    main()
