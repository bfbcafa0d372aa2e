"""What everyday commands cost, as ratios to another commit: `make bench-commands`.

Both commits are checked out, and each has results of the toy suite. Then every command is called by both in turn, so
that other work on the machine slows both down. CPU seconds of the command and its children count, which a busy machine
changes less than the time that passes.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
import yaml

ROOT = Path(__file__).parents[2]
BASE = "b99df0e"  # before everyday commands were made fast
UNCHANGED = ("proctor plan", "proctor status", "proctor scores", "dvc repro")
TYPOS = {  # a command with a typo, or with one in params.yaml
    "`plna`": ("proctor plna", {}),
    "`methods: [rdd]`": ("proctor plan", {"methods": ["rdd", "fd"]}),
    "`datasets: [toi]`": ("proctor plan", {"datasets": ["toi"]}),
}


class Cost(NamedTuple):
    """CPU seconds of a command."""

    base: list[float]
    now: list[float]

    @property
    def row(self) -> str:
        base, now = map(statistics.median, self)
        return f"{_text(self.base)} | {_text(self.now)} | {base / now:.1f}"


def _text(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


def main(
    base: Annotated[str, typer.Option(help="The commit to compare with.")] = BASE,
    rounds: Annotated[int, typer.Option(help="How often each command is called.")] = 5,
    results: Annotated[Path | None, typer.Option(help="A project whose toy suite is done; default: run it.")] = None,
) -> None:
    """Print the table, in Markdown."""
    with tempfile.TemporaryDirectory(prefix="proctor-bench-") as folder, checked_out(base, Path(folder)) as other:
        trees = {"base": other, "now": ROOT}
        projects = {name: Path(folder) / f"project-{name}" for name in trees}
        for name, tree in trees.items():
            prepare(projects[name], tree, results)
        print(f"| command | {base} | now | times less |\n|---|---|---|---|")
        for command in UNCHANGED:
            print(f"| `{command}`, nothing changed | {measure(command, projects, rounds).row} |", flush=True)
        for title, (command, changes) in TYPOS.items():
            for project in projects.values():
                write_params(project, changes)
            print(f"| typo: {title} | {measure(command, projects, rounds, fails=True).row} |", flush=True)


@contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """A worktree of a commit, removed at the end."""
    tree = folder / "base"
    subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(tree), commit], cwd=ROOT, check=True)
    try:
        yield tree
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)


def prepare(project: Path, tree: Path, results: Path | None) -> None:
    """A copy of a tree with the results of the toy suite, brought up to date by the tree's own code."""
    listed = subprocess.run(["git", "ls-files"], cwd=tree, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tree / name, project / name)
    subprocess.run(["git", "init", "--quiet", str(project)], check=True)
    if results:
        for name in ("results", "data"):
            shutil.copytree(results / name, project / name, dirs_exist_ok=True)
        shutil.copy(results / "dvc.lock", project)
    write_params(project, {})
    for _ in range(3):  # files that were just written are not relied on
        call("dvc repro", project)


def write_params(project: Path, changes: dict[str, list[str]]) -> None:
    suite = yaml.safe_load((project / "benchmarks" / "suites" / "toy.yaml").read_text())
    (project / "params.yaml").write_text(yaml.safe_dump(suite | changes))


def measure(command: str, projects: dict[str, Path], rounds: int, fails: bool = False) -> Cost:
    """Call a command in both projects in turn, after one call each that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in projects}
    for _ in range(rounds + 1):
        for name in projects:
            seconds[name].append(call(command, projects[name], fails))
    return Cost(seconds["base"][1:], seconds["now"][1:])


def call(command: str, project: Path, fails: bool = False) -> float:
    """CPU seconds of a command and its children.

    Raises:
        RuntimeError: it failed, or did not fail though it should.
    """
    environment = os.environ | {
        "PYTHONPATH": str(project),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(project / "cache"),
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command.split(), cwd=project, env=environment, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if (done.returncode != 0) != fails:
        raise RuntimeError(f"{command} ended with code {done.returncode}:\n{done.stdout}{done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    typer.run(main)
