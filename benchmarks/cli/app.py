"""The program `proctor`: its options, its output, and how it ends.

Exit codes: 0 done, 1 a run or check failed, 2 bad input, 3 another proctor is at work here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from benchmarks.storage import disk
from benchmarks.wording import printable
from methods.base import InputError, did_you_mean


class Commands(TyperGroup):
    """All commands. One that does not exist is bad input as any other: typer's own answer takes long to import."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in self.commands and not args[0].startswith("-"):
            raise InputError(f"There is no command {args[0]!r}. {did_you_mean(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=Commands,
    help="A benchmark and reproducibility suite for teacher-student industrial anomaly detection.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
console = Console(stderr=True)

# Groups of commands, as `--help` shows them.
SUITE, RUNS, RESULTS, MODELS = "Suite and data", "Runs", "Scores and report", "Models"
SUBMISSIONS = "Submissions and leaderboard"

VariantOption = Annotated[str | None, typer.Option("--variant", help="Only this variant.")]
DatasetOption = Annotated[str | None, typer.Option("--dataset", help="Only this data set.")]
ProtocolOption = Annotated[str | None, typer.Option("--protocol", help="Only this protocol.")]
SplitOption = Annotated[str | None, typer.Option("--split", help="Only this split: a category, or `all`.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Only this seed.")]
RecordsOption = Annotated[Path, typer.Option(help="Folder of the accepted submissions' records.")]
RecordOption = Annotated[Path | None, typer.Option(help="Also write the record for the leaderboard there.")]
DateOption = Annotated[str | None, typer.Option("--date", help="Of the record, YYYY-MM-DD; default: today.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def say(message: str) -> None:
    """Print a message that may hold paths and names: nothing in it is markup or emoji, and no line is broken."""
    console.print(Text(printable(message)), soft_wrap=True)


def plain_table(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> Table:
    """A table of paths and names, in which nothing is markup."""
    table = Table(*columns)
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    return table


def wide_console() -> Console:
    """Standard output; into a file or pipe, wide enough for every table unless $COLUMNS says otherwise."""
    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"proctor {version('proctor')}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)] = False,
) -> None:
    """The options of the program itself."""


def main() -> None:
    """Entry point of `proctor`: in a project its own code runs, as in its jobs, not that of the installed package."""
    own = Path("benchmarks", "cli", "__main__.py").absolute()
    if own.exists() and not own.samefile(Path(__file__).with_name("__main__.py")):
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.cli", *sys.argv[1:]])
    run()


def run() -> None:
    """Run the command that the shell's arguments name; bad input is reported without a traceback."""
    try:
        with disk.explained(Path()):
            app(prog_name="proctor", standalone_mode=True)
    except InputError as error:
        _end("error", error, 2)
    except disk.Busy as error:
        _end("busy", error, 3)


def _end(kind: str, error: Exception, code: int) -> NoReturn:
    console.print(Text.assemble((f"{kind}:", "bold red"), f" {printable(str(error))}"), soft_wrap=True)
    sys.exit(code)
