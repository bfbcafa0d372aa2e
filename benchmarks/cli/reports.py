"""Commands on the report and the leaderboard."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import platformdirs
import typer

from benchmarks import archive as archives
from benchmarks import integrity, results
from benchmarks import params as parameters
from benchmarks import plan as plans
from benchmarks.cli.app import RESULTS, SUBMISSIONS, RecordsOption, app, say
from benchmarks.report_cache import ReportCache
from benchmarks.wording import counted
from methods.base import InputError

BOARD = Path("leaderboard")
BUILD = Path("reports") / "build"


@app.command(rich_help_panel=RESULTS)
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
    source: Annotated[
        Path | None,
        typer.Option("--from", help="An archive, as `proctor archive` writes it, with --out; default: results/."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the report; default: reports/build.")
    ] = None,
) -> None:
    """Build the tables, figures and the page from what is scored, and check them."""
    folder, target = source or results.RESULTS, out or BUILD
    if not folder.is_dir():
        cure = "name an archive" if source else "run proctor in the project's folder"
        raise InputError(f"There is no folder {folder.absolute()}: {cure}.")
    if source and not out:
        raise InputError("Name a folder with --out: reports/build is for the results of this project.")
    suite = source / parameters.PATH.name if source else parameters.PATH
    of_suite = parameters.load(suite).allow if suite.exists() else {}
    reasons = of_suite | dict(entry.partition("=")[::2] for entry in allow or ())
    try:
        plan = plans.read(folder)
    except InputError as error:
        if source:
            raise
        plan = plans.Plan(suite="")
        say(f"notice: {error} Until then the report shows all that is stored.")
    cache = ReportCache(folder, target, reasons)
    problems = cache.read()
    if problems is None:
        problems = archives.problems(folder, plan) if source else integrity.problems(plan)
        _build(folder, target, reasons, problems)
        cache.write(problems)
    for problem in problems:
        say(problem)
    say(f"The report is at {target / 'index.html'}.")
    if strict and problems:
        say(
            f"{counted(len(problems), 'problem')}, listed above and on the page. Correct each, or give its kind a "
            "reason under `allow` in params.yaml."
        )
        raise typer.Exit(1)


def _build(folder: Path, out: Path, allow: dict[str, str], problems: list[str]) -> None:
    """Build the report; adds its problems to those that are known already."""
    from reports import build
    from reports.analysis import checks

    try:
        checks.check_allow(allow)
    except ValueError as error:
        raise InputError(f"`allow` in params.yaml, or --allow: {error}") from None
    drawn = Path(platformdirs.user_cache_dir("proctor")) / "figures"
    build.build(folder, out, allow=allow, problems=problems, cache=drawn)


@app.command(rich_help_panel=RESULTS)
def archive(out: Annotated[Path, typer.Argument(help="A new folder.")]) -> None:
    """Copy what the suite's tables rest on, without arrays and images: small enough for git; see `report --from`."""
    count = archives.write(out, plans.read(results.RESULTS))
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    say(f"{out}: {counted(count, 'run')}, {size / 2**20:.1f} MiB. `proctor report --from {out} --out …` reports it.")


@app.command(rich_help_panel=SUBMISSIONS)
def board(
    check: Annotated[bool, typer.Option(help="Only check the records, as CI does.")] = False,
    records: RecordsOption = BOARD / "records",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for board.md and board.html.")] = BOARD / "build",
) -> None:
    """Render the leaderboard of accepted submissions; `--check` fails if a record is not valid."""
    from reports.render import leaderboard as rendering

    accepted = _accepted(records)
    if check:
        say(f"{counted(len(accepted), 'valid record')}.")
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / "board.md").write_text(rendering.markdown(accepted))
    (out / "board.html").write_text(rendering.page(accepted))
    say(f"{out / 'board.html'} and board.md: {counted(len(accepted), 'submission')}.")


@app.command(rich_help_panel=SUBMISSIONS)
def model_index(method: str, records: RecordsOption = BOARD / "records") -> None:
    """Print the `model-index` block of a Hugging Face model card with a method's accepted submissions."""
    import yaml

    from reports.render import leaderboard as rendering

    index = rendering.model_index(_accepted(records), method)
    if not index:
        raise InputError(f"The board has no submission of method {method!r}; `proctor board` lists those it has.")
    sys.stdout.write(yaml.safe_dump({"model-index": index}, sort_keys=False, allow_unicode=True))


def _accepted(folder: Path) -> list[dict[str, Any]]:
    """The records of the board, as JSON; ends the program if one is not valid."""
    from benchmarks.submissions import leaderboard as accepted

    entries, problems = accepted.read(folder)
    for problem in problems:
        say(problem)
    if problems:
        raise typer.Exit(1)
    return [record.model_dump(mode="json", by_alias=True) for record in entries]
