"""`proctor run` and `proctor score` as commands: what they print, and what counts as finished."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

import methods
from benchmarks import params, results, runs, status, status_file
from benchmarks.cli import app
from benchmarks.execution import worker
from benchmarks.plan import Run
from benchmarks.status import State
from methods.base import InputError

FAILING = '''
"""A method for tests that fails in training."""
from dataclasses import dataclass
from methods.base import Method

@dataclass(kw_only=True, eq=False)
class Failing(Method):
    paper = source = "none"

    def fit(self, train, validation, context):
        raise ValueError("the loss is [not] finite")

    def predict(self, test, context):
        return iter(())
'''


@pytest.fixture
def suite(toy_root: Path, own_methods: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Of `bright` and `failing` on three categories, in params.yaml of the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (own_methods / "failing.py").write_text(FAILING)
    values: dict[str, Any] = {
        "suite": "test", "methods": ["bright", "failing"], "datasets": ["toy"], "roots": {"toy": str(toy_root)},
        "categories": {"toy": ["cog", "tray", "fabric"]}, "protocols": ["one_class"], "seeds": [0, 1], "pretrain": [],
        "conventions": ["default"], "allow": {},
    }  # fmt: skip
    Path("params.yaml").write_text(yaml.safe_dump(values))
    return [entry for entry in runs.expand(params.load()) if isinstance(entry, Run)]


def proctor(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def execute(run: Run) -> None:
    """As a job does: the result stays in scratch until a driver collects it."""
    worker.execute(run, "cpu", 1, 1.0)
    assert not results.result_dir(run).exists()


def test_a_run_that_is_finished_but_not_collected_is_scored_while_others_run(suite: list[Run]) -> None:
    bright = [run for run in suite if run.variant == "bright"]
    first = [run for run in bright if run.seed == 0]
    for run in first:
        execute(run)
    status_file.report(next(run for run in bright if run.seed == 1), "running")
    scored = proctor("score", "bright", "toy", "one_class", "--seed", "0")
    assert scored.exit_code == 0, scored.exception
    Path("rows.csv").write_text(scored.stdout)
    assert set(pd.read_csv("rows.csv")["category"]) == {"cog", "tray", "fabric"}
    assert all(results.result_dir(run).is_dir() for run in first)
    with pytest.raises(InputError, match=r"3 runs cannot be scored. bright.*seed1 is running"):
        raise proctor("score", "bright", "toy", "one_class", "--seed", "1").exception or AssertionError


def test_force_makes_the_chosen_runs_again_and_no_others(suite: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    bright = [run for run in suite if run.variant == "bright" and run.split == "cog"]
    for run in bright:
        execute(run)
        status.collect(run)
    executed: list[Run] = []

    def launch(pending: list[Run], *_: object) -> None:
        executed.extend(pending)
        for run in pending:
            execute(run)

    monkeypatch.setattr("benchmarks.execution.driver.launch", launch)
    options = ("run", "--variant", "bright", "--split", "cog", "--seed", "0")
    assert proctor(*options).exit_code == 0 and executed == []
    assert proctor(*options, "--force").exit_code == 0
    assert [run.name for run in executed] == [run.name for run in bright if run.seed == 0]
    assert [status.read_status(run).state for run in bright] == [State.DONE] * 2


def test_runs_that_fail_alike_are_one_message_with_one_log(suite: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    failing = [run for run in suite if run.variant == "failing" and run.seed == 0]

    def launch(pending: list[Run], *_: object) -> None:
        for run in pending:
            folder = results.scratch_dir(run) / "log"
            folder.mkdir(parents=True)
            (folder / "1_log.err").write_text("Traceback\nthe last line\n")
            with pytest.raises(ValueError):
                worker.execute(run, "cpu", 1, 1.0)

    monkeypatch.setattr("benchmarks.execution.driver.launch", launch)
    command = proctor("run", "--variant", "failing", "--seed", "0")
    assert command.exit_code == 1
    assert [status.read_status(run).state for run in failing] == [State.FAILED] * 3
    assert command.stderr.count("the loss is [not] finite") == 1
    assert "failed 3 runs: ValueError: the loss is [not] finite" in command.stderr
    assert command.stderr.count("the last line") == 1
    assert "3 of 3 runs did not finish" in command.stderr


def test_of_an_error_that_names_its_cure_only_the_place_of_the_log_is_printed(
    suite: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(pending: list[Run], *_: object) -> None:
        for run in pending:
            folder = results.scratch_dir(run) / "log"
            folder.mkdir(parents=True)
            (folder / "1_log.err").write_text("Traceback\n")
            with pytest.raises(InputError):
                worker.execute(run, "cpu", 1, 1.0)

    monkeypatch.setattr("benchmarks.execution.driver.launch", launch)
    monkeypatch.setattr("benchmarks.fingerprint.changed_parts", lambda run: ["method code"])
    command = proctor("run", "--variant", "bright", "--seed", "0")
    assert command.exit_code == 1 and "log: " in command.stderr and "Traceback" not in command.stderr
    assert "changed since this run was planned: method code. `dvc repro` plans and runs it as it is now." in (
        command.stderr
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("import absent_module", "ModuleNotFoundError: No module named 'absent_module'"),
        ("paper = source =", "SyntaxError: invalid syntax"),
        ("unknown_name", "NameError: name 'unknown_name' is not defined"),
    ],
)
def test_a_method_that_cannot_be_imported_is_one_line_with_file_and_line_number(
    line: str, message: str, own_methods: Path
) -> None:
    path = own_methods / "broken.py"
    path.write_text(f'"""A method."""\n\n{line}\n')
    with pytest.raises(InputError) as caught:
        methods.load("broken")
    assert str(caught.value) == f"{path}, line 3: {message}"
