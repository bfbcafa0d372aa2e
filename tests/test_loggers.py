"""Loggers, with fake modules in place of the programs': what is called, not whether a program understands it."""

import logging
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, get_args

import pytest

from benchmarks import checks, params, results
from benchmarks.execution import loggers, worker
from benchmarks.params import LoggerName
from benchmarks.plan import Run
from benchmarks.status import State, read_status
from methods.base import InputError, Progress

Call = tuple[str, tuple[Any, ...], dict[str, Any]]


@pytest.fixture
def run(expand: Callable[..., list[Run]], results_folder: object) -> Run:
    return expand()[0]


def fake(monkeypatch: pytest.MonkeyPatch, name: str, functions: tuple[str, ...], **answers: Any) -> list[Call]:
    """Put a fake in place of a module; returns the calls of its functions, each of which answers as stated."""
    calls: list[Call] = []
    module = ModuleType(name)

    def function(of: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append((of, args, kwargs))
            return answers.get(of)

        return call

    for of in functions:
        setattr(module, of, function(of))
    monkeypatch.setitem(sys.modules, name, module)
    return calls


def test_every_name_that_params_accept_is_a_logger() -> None:
    assert set(get_args(LoggerName)) == set(loggers.LOGGERS)


def test_tensorboard_gets_each_term_by_phase_and_epoch(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Call] = []
    writer = SimpleNamespace(
        add_scalar=lambda *args: calls.append(("add_scalar", args, {})), close=lambda: calls.append(("close", (), {}))
    )
    opened = fake(monkeypatch, "torch.utils.tensorboard", ("SummaryWriter",), SummaryWriter=writer)
    with loggers.logging_to("tensorboard", run) as log:
        log(Progress("fit", 3, 10, {"loss": 0.5, "validation": 0.25}))
        log(Progress("predict", 1, 4))
    assert opened == [("SummaryWriter", (str(results.RESULTS / "logs" / run.name),), {})]
    assert calls == [
        ("add_scalar", ("fit/loss", 0.5, 3), {}),
        ("add_scalar", ("fit/validation", 0.25, 3), {}),
        ("close", (), {}),
    ]


FUNCTIONS = ("search_runs", "start_run", "log_params", "log_metrics", "end_run")


def test_mlflow_starts_a_run_and_continues_it_where_another_process_resumes(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake(monkeypatch, "mlflow", FUNCTIONS, search_runs=[])
    with pytest.raises(RuntimeError), loggers.logging_to("mlflow", run) as log:
        log(Progress("fit", 1, 2, {"loss": 0.5}))
        raise RuntimeError("the fit fails")
    assert [name for name, _, _ in calls] == list(FUNCTIONS)
    assert calls[1][2] == {"run_name": run.name, "tags": {"fingerprint": run.fingerprint}}
    assert calls[2][1][0]["seed"] == run.seed
    assert calls[3][1:] == (({"fit/loss": 0.5},), {"step": 1})
    assert calls[4][1] == ("FAILED",)

    earlier = SimpleNamespace(info=SimpleNamespace(run_id="abc"))
    calls = fake(monkeypatch, "mlflow", FUNCTIONS, search_runs=[earlier])
    with loggers.logging_to("mlflow", run):
        pass
    assert run.fingerprint in calls[0][2]["filter_string"]
    assert calls[1:] == [("start_run", (), {"run_id": "abc"}), ("end_run", ("FINISHED",), {})]


def test_wandb_is_given_an_identity_by_which_it_resumes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[Any] = []
    opened = SimpleNamespace(
        log=lambda values, step: logged.append((values, step)), finish=lambda exit_code: logged.append(exit_code)
    )
    calls = fake(monkeypatch, "wandb", ("init",), init=opened)
    with loggers.logging_to("wandb", run) as log:
        log(Progress("fit", 2, 2, {"loss": 0.5}))
    assert calls[0][2] | {"config": {}} == {"id": run.fingerprint, "name": run.name, "resume": "allow", "config": {}}
    assert logged == [({"fit/loss": 0.5}, 2), 0]


def test_a_run_goes_on_without_a_logger_that_fails(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(loggers.Logger):
        module = "json"

        def __init__(self, module: Any, run: Run) -> None: ...

        def log(self, values: Any, step: int) -> None:
            raise ConnectionError("no answer")

        def close(self, failed: bool) -> None:
            raise AssertionError("it was left alone")

    monkeypatch.setitem(loggers.LOGGERS, "mlflow", Broken)
    with caplog.at_level(logging.WARNING), loggers.logging_to("mlflow", run) as log:
        log(Progress("fit", 1, 2, {"loss": 0.5}))
        log(Progress("fit", 2, 2, {"loss": 0.5}))
    assert [record.message for record in caplog.records] == ["mlflow fails: the run is no longer logged there."]


def test_a_worker_logs_its_run_and_the_fingerprint_is_the_same(
    expand: Callable[..., list[Run]], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert expand(executor={"logger": "mlflow"})[0].fingerprint == run.fingerprint
    calls = fake(monkeypatch, "mlflow", FUNCTIONS, search_runs=[])
    worker.execute(run, "cpu", 1, 1.0, logger="mlflow")
    assert read_status(run).state is State.DONE
    assert calls[-1] == ("end_run", ("FINISHED",), {})


def test_a_missing_package_is_told_before_anything_runs_with_the_extra_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    entries = {"suite": "t", "methods": ["rd"], "datasets": ["toy"], "protocols": ["one_class"], "seeds": [0]}
    needed = {"pretrain": [], "conventions": ["default"], "allow": {}}
    with pytest.raises(InputError, match=r"`executor.logger: mlflow` needs .* `pip install -e '\.\[mlflow\]'`"):
        checks.check(params.check(entries | needed | {"executor": {"logger": "mlflow"}}, "params.yaml"))
