"""The command line's manners: one line for a mistake, exit codes, and names printed as they are."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from rich.console import Console

from benchmarks import cli
from benchmarks.cli.app import RESULTS, RUNS, SUBMISSIONS, plain_table
from benchmarks.cli.app import SUITE as SUITE_PANEL
from benchmarks.datasets.toy import Toy
from benchmarks.wording import counted

SUITE: dict[str, Any] = {
    "suite": "mine",
    "methods": ["bright"],
    "datasets": ["toy"],
    "protocols": ["one_class"],
    "seeds": [0],
    "pretrain": [],
    "conventions": ["default"],
    "allow": {},
}


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def proctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """The program as a shell runs it."""

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr("sys.argv", ["proctor", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Ended(int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def project(tmp_path: Path, own_methods: Path, results_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like the project, with a small suite and no data."""
    folder = tmp_path / "[raw]" / "project[/old] :smile:"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    (folder / "dvc.yaml").write_text("stages: {}\n")
    (folder / "params.yaml").write_text(yaml.safe_dump(SUITE))
    return folder


def change(project: Path, **entries: Any) -> None:
    (project / "params.yaml").write_text(yaml.safe_dump(SUITE | entries))


def test_help_groups_the_commands_in_the_order_of_work(proctor: Callable[..., Ended]) -> None:
    shown = proctor("--help").out
    places = [shown.index(f"─ {group} ") for group in (SUITE_PANEL, RUNS, RESULTS, SUBMISSIONS)]
    assert places == sorted(places)
    assert "─ Commands " not in shown, "a command is in no group"
    assert "--install-completion" in shown


def test_the_version_is_printed(proctor: Callable[..., Ended]) -> None:
    assert proctor("--version").out.startswith("proctor ")


@pytest.mark.parametrize("command", ["use toy", "plan", "run", "doctor", "status", "retry", "scores", "summary"])
def test_outside_of_the_project_a_command_answers_in_one_line(
    command: str, proctor: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = proctor(*command.split())
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert line.startswith("error: There is no ")
    assert list(tmp_path.iterdir()) == [], "something was written"


@pytest.mark.parametrize("content", [b"", b"<<<<<<< HEAD\n", b"\xff\xfes\0", b"- a", b"suite: mine\n", b"a: 1\na: 2\n"])
@pytest.mark.parametrize("command", ["use mine.yaml", "plan", "run", "doctor"])
def test_a_wrong_file_is_answered_in_one_line(
    content: bytes, command: str, proctor: Callable[..., Ended], project: Path
) -> None:
    kept = (project / "params.yaml").read_bytes()
    wrong = project / ("mine.yaml" if command.startswith("use") else "params.yaml")
    wrong.write_bytes(content)
    ended = proctor(*command.split())
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.splitlines()
    assert line.startswith(f"error: {wrong.name}")
    assert (project / "params.yaml").read_bytes() == (kept if command.startswith("use") else content)


def test_use_says_what_it_kept_and_what_it_replaced(proctor: Callable[..., Ended], project: Path) -> None:
    change(project, executor={"jobs": 2}, roots={"toy": "here"})
    (project / "mine.yaml").write_text(yaml.safe_dump(SUITE | {"roots": {"toy": "there"}}))
    ended = proctor("use", "mine.yaml")
    assert ended.code == 0
    assert ended.err.splitlines() == [
        "params.yaml now holds the suite 'mine.yaml'; `dvc repro` runs it.",
        "Kept as they were: executor.",
        "Replaced by the suite's own, the old text left as a comment: roots.",
    ]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"conventions": ["defualt"]}, "there is no convention 'defualt'. Did you mean 'default'?"),
        ({"allow": {"colapsed": "x"}}, "`allow`: `colapsed` has an unknown kind of finding"),
        ({"methods": ["brigth"]}, "there is no method or variant 'brigth'. Did you mean 'bright'?"),
    ],
)
def test_use_writes_nothing_that_the_next_command_would_refuse(
    entries: dict[str, Any], message: str, proctor: Callable[..., Ended], project: Path
) -> None:
    kept = (project / "params.yaml").read_bytes()
    (project / "mine.yaml").write_text(yaml.safe_dump(SUITE | entries))
    ended = proctor("use", "mine.yaml")
    assert ended.code == 2 and ended.err.startswith(f"error: mine.yaml: {message}")
    assert (project / "params.yaml").read_bytes() == kept


def test_use_refuses_an_entry_of_yours_that_does_not_fit_the_suite(
    proctor: Callable[..., Ended], project: Path
) -> None:
    change(project, executor={"resources": {"bright-toy-*": {"gpus": 2}}})
    kept = (project / "params.yaml").read_bytes()
    ended = proctor("use", "toy")
    assert ended.code == 2
    assert ended.err.startswith("error: params.yaml: `executor.resources`: no group matches 'bright-toy-*'")
    assert (project / "params.yaml").read_bytes() == kept


def test_names_are_printed_as_they_are(proctor: Callable[..., Ended], project: Path) -> None:
    (project / "[raw]:smile:[b].yaml").write_text(yaml.safe_dump(SUITE))
    assert "the suite '[raw]:smile:[b].yaml';" in proctor("use", "[raw]:smile:[b].yaml").err
    assert "'[raw]/:smile:[/].yaml'" in proctor("use", "[raw]/:smile:[/].yaml").err
    (project / "params.yaml").unlink()
    assert f"error: There is no params.yaml in {project}: run proctor" in proctor("plan").err
    change(project, roots={"toy": "[b]no[/]"})
    assert "error: There is no folder [b]no[/], which `roots` in params.yaml names" in proctor("plan").err


def test_the_cells_of_a_table_are_printed_as_they_are() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(plain_table(["path"], [["[bold]scans[/old] :smile: \\"]]))
    assert "[bold]scans[/old] :smile: \\ " in console.export_text()


def test_a_stated_root_that_is_missing_starts_no_download(
    proctor: Callable[..., Ended], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[Path] = []
    monkeypatch.setattr(Toy, "fetch", classmethod(lambda cls, root: fetched.append(root)))
    change(project, roots={"toy": "~/absent", "visa": "$PWD/neither"}, datasets=["toy", "visa"])
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("PWD", "/here")
    ended = proctor("plan")
    assert ended.code == 2
    assert ended.err.splitlines() == [
        "error: There is no folder /home/me/absent, which `roots` in params.yaml names for toy. Correct or remove it.",
        "There is no folder /here/neither, which `roots` in params.yaml names for visa. Correct or remove it.",
    ]
    change(project)
    monkeypatch.setenv("PROCTOR_TOY_ROOT", "elsewhere")
    (line,) = proctor("plan").err.splitlines()
    assert "folder elsewhere, which the environment variable PROCTOR_TOY_ROOT names for toy" in line
    assert fetched == []
    monkeypatch.delenv("PROCTOR_TOY_ROOT")
    proctor("plan")
    assert fetched == [Path("data/toy")]


def test_plan_prints_json_alone_on_standard_output(
    proctor: Callable[..., Ended], project: Path, toy_root: Path
) -> None:
    change(project, roots={"toy": str(toy_root)}, variants={"unused": {"method": "dim"}}, categories={"toy": ["cog"]})
    ended = proctor("plan", "--json")
    assert ended.code == 0
    assert json.loads(ended.out) == [{"run": "bright-toy-one_class/cog-seed0", "state": "missing", "reason": ""}]
    notice, cost = filter(None, ended.err.splitlines())
    assert notice == "notice: params.yaml: variant 'unused' is declared, but not listed under `methods`: it is not run."
    assert cost.startswith("1 run: cost unknown")


def test_plan_explains_one_run(proctor: Callable[..., Ended], project: Path, toy_root: Path) -> None:
    change(project, roots={"toy": str(toy_root)}, categories={"toy": ["cog"]})
    assert "bright-toy-one_class/cog-seed0: missing" in proctor("plan", "--why", "bright-toy-one_class/cog-seed0").err
    ended = proctor("plan", "--why", "bright-toy-one_class/cog-seed1")
    assert ended.code == 2
    assert "Did you mean 'bright-toy-one_class/cog-seed0'?" in ended.err


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"conventions": ["defualt"]}, "error: params.yaml: there is no convention 'defualt'. Did you mean 'default'?"),
        ({"allow": {"colapsed": "x"}}, "error: params.yaml: `allow`: `colapsed` has an unknown kind of finding"),
        (
            {"hyper_parameters": {"teacher": "procedural"}},
            "error: params.yaml: no method of the suite has the hyper-param",
        ),
        (
            {"methods": ["rd"], "pretrain": ["procedural"], "hyper_parameters": {"teacher": "procedural"}},
            "error: results/teachers/procedural.safetensors is missing: `proctor pretrain procedural` or `dvc repro` ",
        ),
    ],
)
def test_plan_refuses_in_one_line_what_would_fail_later(
    entries: dict[str, Any], message: str, proctor: Callable[..., Ended], project: Path, toy_root: Path
) -> None:
    change(project, roots={"toy": str(toy_root)}, **entries)
    ended = proctor("plan")
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert line.startswith(message)


def test_what_dvc_reads_has_to_be_written_even_where_it_is_the_default(
    proctor: Callable[..., Ended], project: Path, toy_root: Path
) -> None:
    kept = {name: value for name, value in SUITE.items() if name not in ("pretrain", "allow")}
    (project / "params.yaml").write_text(yaml.safe_dump(kept | {"roots": {"toy": str(toy_root)}}))
    said = "no pretrain, allow, which dvc.yaml reads. Add the default: `pretrain: []`, `allow: {}`."
    planned, examined = proctor("plan"), proctor("doctor")
    assert (planned.code, planned.err.strip()) == (2, f"error: params.yaml: {said}")
    assert examined.code == 1 and f"error params.yaml: {said}" in examined.err


def test_status_says_that_params_yaml_was_changed_since(
    proctor: Callable[..., Ended], project: Path, toy_root: Path
) -> None:
    change(project, roots={"toy": str(toy_root)})
    proctor("plan", "--write")
    assert "params.yaml" not in proctor("status").err
    later = (project / "params.yaml").stat().st_mtime + 60
    os.utime(project / "params.yaml", (later, later))
    assert "params.yaml was changed after these runs were planned" in proctor("status").err


@pytest.mark.parametrize(("number", "expected"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs"), (1725, "1,725 runs")])
def test_a_counted_noun_agrees_with_its_number(number: int, expected: str) -> None:
    assert counted(number, "run") == expected
    assert counted(number, "category", "categories").endswith("category" if number == 1 else "categories")
