"""Carrying runs out and forecasting what they cost, as far as that needs no cluster; test_slurm.py has the rest."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from benchmarks import fingerprint, params, results, runs, status
from benchmarks.execution import driver, forecast, job, monitor, worker
from benchmarks.execution.executors import slurm as executors
from benchmarks.params import Executor, Params
from benchmarks.plan import Run
from benchmarks.status import State
from methods.base import InputError

SHORT_OF_MEMORY = '''
"""A method for tests that needs more memory than there is, in fit or above some batch size in predict."""
from dataclasses import dataclass
import torch
from methods.base import Method, Prediction

@dataclass(kw_only=True, eq=False)
class Greedy(Method):
    paper = source = "none"
    fits: bool = True
    batch: int = 16

    def fit(self, train, validation, context):
        if not self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self

    def predict(self, test, context):
        for number, _ in enumerate(test):
            if number == 3 and context.predict_batch > self.batch:
                raise torch.OutOfMemoryError("CUDA out of memory")
            yield Prediction(float(number), torch.full((8, 8), float(number)))
'''


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    return tmp_path


@pytest.fixture
def expand(toy_root: Path, own_methods: Path) -> Callable[..., list[Run]]:
    (own_methods / "greedy.py").write_text(SHORT_OF_MEMORY)

    def expand(**changes: Any) -> list[Run]:
        values = {
            "suite": "test", "methods": ["bright"], "datasets": ["toy"], "roots": {"toy": toy_root},
            "categories": {"toy": ["cog", "tray"]}, "protocols": ["one_class"], "seeds": [0], "pretrain": [],
            "conventions": ["default"], "allow": {},
        }  # fmt: skip
        return [entry for entry in runs.expand(Params.model_validate(values | changes)) if isinstance(entry, Run)]

    return expand


def execute(run: Run) -> dict[str, Any]:
    """Its record, after it was carried out in this process."""
    worker.execute(run, "cpu", 1, 1.0)
    status.collect(run)
    return results.load(results.result_dir(run))[0]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hyper_parameters": {"scale": 2.0}},
        {"methods": ["dark"], "variants": {"dark": {"method": "bright", "scale": 3}}},
        {"protocols": ["multi_class"], "evaluate_every": 2},
        {"interference": {"images": 3}},
        {"methods": ["rd"], "hyper_parameters": {"teacher": "test_resnet.untrained"}},
        {"compute": {"precision": "bfloat16"}, "categories": {}},
    ],
)
def test_a_job_finds_its_run_as_it_was_planned(expand: Callable[..., list[Run]], changes: dict[str, Any]) -> None:
    assert [fingerprint.changed_parts(run) for run in expand(**changes)[:2]] == [[], []][: len(expand(**changes))]


def test_a_job_refuses_a_method_that_was_edited_since(expand: Callable[..., list[Run]], own_methods: Path) -> None:
    run = expand()[0]
    path = own_methods / "bright.py"
    path.write_text(path.read_text().replace("::4", "::8"))
    with pytest.raises(InputError, match="changed since this run was planned: method code"):
        execute(run)
    assert status.read_status(run).state is State.FAILED


def test_a_job_that_does_not_see_the_project_says_so(expand: Callable[..., list[Run]], tmp_path: Path) -> None:
    submitted = job.Job(run=expand()[0], folder=tmp_path / "elsewhere", device="cpu", threads=1, cache_gib=1)
    with pytest.raises(InputError, match=r"does not see .*elsewhere.*all nodes share"):
        submitted()


def test_prediction_is_repeated_with_a_smaller_batch_where_a_gpu_is_short_of_memory(
    expand: Callable[..., list[Run]],
) -> None:
    (run, _) = expand(methods=["greedy"], hyper_parameters={"batch": 4})
    record = execute(run)
    assert record["provenance"]["predict_batch"] == 4
    scores = results.load(results.result_dir(run))[1]["cog"][1]
    assert scores.tolist() == list(range(len(scores)))


def test_a_second_shortage_of_memory_fails_the_run(expand: Callable[..., list[Run]]) -> None:
    (run, _) = expand(methods=["greedy"], hyper_parameters={"batch": 1})
    with pytest.raises(torch.OutOfMemoryError):
        execute(run)
    assert status.read_status(run) == (State.FAILED, "OutOfMemoryError: CUDA out of memory")


def test_a_shortage_of_memory_in_training_is_never_met_with_another_batch_size(
    expand: Callable[..., list[Run]],
) -> None:
    (run, _) = expand(methods=["greedy"], hyper_parameters={"fits": False})
    with pytest.raises(InputError, match="another experiment"):
        execute(run)


def test_a_claimed_run_belongs_to_the_last_process_that_claimed_it(expand: Callable[..., list[Run]]) -> None:
    run = expand()[0]
    first = status.Claim(run)
    first.say("running", done=1)
    second = status.Claim(run)
    with pytest.raises(status.Superseded):
        first.say("running", done=2)
    with pytest.raises(status.Superseded):
        first.say("failed", error="too late")
    second.say("running", done=3)
    assert status.read_report(run)["done"] == 3


def test_a_process_whose_run_was_claimed_by_another_stores_nothing(
    expand: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = expand()[0]
    monkeypatch.setattr(worker, "_refuse_drift", lambda run: status.Claim(run))  # another one, meanwhile
    with pytest.raises(status.Superseded):
        execute(run)
    assert status.read_status(run).state is State.RUNNING
    assert not (results.scratch_dir(run) / "result").exists()


def test_attempts_and_times_add_up_until_the_run_fails(expand: Callable[..., list[Run]]) -> None:
    run = expand()[0]
    status.report_job(run, "queued", "7", attempts=2, elapsed=100.0, waited=30.0)
    os.utime(results.scratch_dir(run) / "status.json", (0, status.touched_at(run) - 50))
    claim = status.Claim(run, job="7", node="n")
    assert claim.facts["attempts"] == 3
    assert 100 <= claim.elapsed < 110
    assert 80 <= claim.facts["waited"] < 90
    claim.say("failed", error="why")
    assert status.Claim(run).facts["attempts"] == 1


def test_another_host_is_alive_while_it_touches_its_status_whatever_its_clock_says(
    expand: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = expand()[0]
    here = socket.gethostname()
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    status.report(run, "running")
    monkeypatch.setattr(socket, "gethostname", lambda: here)
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert status.read_status(run).state is State.RUNNING
    touched = status.touched_at(run)
    os.utime(results.scratch_dir(run) / "status.json", (0, touched - status.SILENT_SECONDS - 5))
    assert status.read_status(run).state is State.MISSING


def test_each_run_on_a_machine_gets_a_gpu_of_its_own(
    expand: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is none here, so each job says which one it was given and missed."""
    suite = expand(methods=["rd"], hyper_parameters={"teacher": "test_resnet.untrained", "image_size": 64})
    monkeypatch.setattr(executors, "_gpus", lambda: ["3", "7"])
    driver.launch(suite, Executor(device="cuda", threads=1), Console(quiet=True))
    reasons = " ".join(status.read_status(run).reason for run in suite)
    assert "CUDA_VISIBLE_DEVICES='3'" in reasons
    assert "CUDA_VISIBLE_DEVICES='7'" in reasons


def test_a_gpu_with_a_run_of_an_earlier_driver_is_leased_last(
    expand: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = expand(methods=["rd"], hyper_parameters={"teacher": "test_resnet.untrained", "image_size": 64})
    monkeypatch.setattr(executors, "_gpus", lambda: ["0", "1"])
    status.report(suite[0], "running", gpu="0")  # by this process, which lives
    local = executors.Local(Executor(device="cuda"))
    assert local.start(suite[1:], suite[:1]) == suite[1:]
    assert status.read_report(suite[1])["gpu"] == "1"
    local.interrupt()


def test_a_process_that_was_killed_is_noticed_and_its_run_fails_with_the_reason(
    expand: Callable[..., list[Run]],
) -> None:
    run = expand()[0]
    status.report(run, "running", pid=os.getpid())
    path = results.scratch_dir(run) / "status.json"
    path.write_text(path.read_text().replace(f'"pid": {os.getpid()}', f'"pid": {2**22 + 1}'))
    mourner = driver._Mourner()
    assert mourner.buried([run]) == [], "one observation is no proof"
    mourner.due = 0
    assert mourner.buried([run]) == [run]
    assert status.read_status(run).state is State.FAILED
    assert "killed, or out of memory" in status.read_status(run).reason


def test_a_run_that_ended_while_its_driver_started_is_not_launched_again(
    expand: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = expand()
    worker.execute(suite[0], "cpu", 1, 1.0)
    started: list[Run] = []

    def start(self: executors.Slurm, waiting: list[Run], at_work: list[Run]) -> list[Run]:
        started.extend(waiting)
        for run in waiting:
            worker.execute(run, "cpu", 1, 1.0)
        return list(waiting)

    monkeypatch.setattr(executors.Slurm, "start", start)
    driver.launch(suite, Executor(name="slurm"), Console(quiet=True))
    assert started == suite[1:]


def test_a_run_that_ends_as_soon_as_it_is_submitted_is_submitted_once(
    expand: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = expand()
    submitted: list[Run] = []

    def submit(self: executors.Slurm, part: list[Run], total: int) -> None:
        submitted.extend(part)
        worker.execute(part[0], "cpu", 1, 1.0)
        status.report_job(part[1], "failed", "7_1", error="at once")

    monkeypatch.setattr(executors.Slurm, "_submit", submit)
    monkeypatch.setattr(executors, "_call", lambda *command: "")
    driver.launch(suite, Executor(name="slurm"), Console(quiet=True))
    assert submitted == suite


def test_a_finished_run_is_not_carried_out_again_by_a_job_that_comes_late(expand: Callable[..., list[Run]]) -> None:
    run = expand()[0]
    worker.execute(run, "cpu", 1, 1.0)
    before = status.touched_at(run)
    worker.execute(run, "cpu", 1, 1.0)
    assert status.touched_at(run) == before


@pytest.mark.parametrize(("known", "again"), [(0, True), (1, False)])
def test_a_job_that_failed_before_its_process_was_started_again_is_not_to_blame(
    known: int, again: bool, expand: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"squeue": "7_0|FAILED NonZeroExitCode\n", "scontrol": "JobId=9 ArrayJobId=7\n   Requeue=1 Restarts=1\n"}
    monkeypatch.setattr(executors, "_call", lambda *command: answers[command[0]])
    run = expand()[0]
    status.report_job(run, "running", "7_0", node="left", restarts=known)
    losses = executors.losses([run])
    assert losses is not None
    assert losses[run.fingerprint].again is again


@pytest.mark.parametrize(("state", "cancelled"), [("queued", False), ("running", False), ("lost", True)])
def test_a_driver_that_takes_over_cancels_no_pending_job_whose_run_still_counts_on_it(
    state: str, cancelled: bool, expand: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []

    def call(*command: str) -> str:
        calls.append(command)
        return "7_0|PENDING Resources\n" if command[0] == "squeue" else ""

    monkeypatch.setattr(executors, "_call", call)
    status.report_job(expand()[0], state, "7_0", node="left", error="why")
    executors._recover()
    assert (("scancel", "7_0") in calls) is cancelled


def test_resources_of_a_group_are_those_of_the_patterns_that_match_it() -> None:
    executor = Executor.model_validate(
        {"minutes": 60, "resources": {"*-multi_class": {"minutes": 600}, "rd-*": {"gpus": 2}}}
    )
    assert executor.for_group("fd-toy-one_class").minutes == 60
    chosen = executor.for_group("rd-toy-multi_class")
    assert (chosen.minutes, chosen.gpus) == (600, 2)


def test_a_misspelt_resource_is_refused_with_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(
        "{suite: s, methods: [rd], datasets: [toy], protocols: [one_class], seeds: [0], pretrain: [], "
        "conventions: [default], executor: {minute: 3}}"
    )
    with pytest.raises(InputError, match="did you mean `minutes`"):
        params.load(path)


def test_a_forecast_is_the_mean_of_earlier_records_and_says_what_it_does_not_know(
    expand: Callable[..., list[Run]],
) -> None:
    suite = expand(methods=["bright", "dim"], seeds=[0, 1])
    for run in suite[:2]:
        execute(run)
    pending = suite[2:]
    cost = forecast.forecast(pending)
    seconds = [results.load(results.result_dir(run))[0]["provenance"]["wall_seconds"] for run in suite[:2]]
    assert cost.hours * 3600 == pytest.approx(sum(seconds))
    assert cost.bytes == sum(p.stat().st_size for run in suite[:2] for p in results.result_dir(run).iterdir())
    assert cost.unknown == ["dim-toy-one_class"]
    said = " ".join(forecast.sentences(pending, Executor(device="cpu")))
    assert "2 runs: about" in said
    assert "4 runs: cost unknown" in said


def test_a_row_tells_of_a_run_at_work_what_its_process_reported(expand: Callable[..., list[Run]]) -> None:
    run, other = expand()
    claim = status.Claim(run)
    claim.say("running", phase="fit", done=3, total=10, terms={"loss": 0.5}, left=70.0)
    log = results.scratch_dir(run) / "log"
    log.mkdir()
    (log / "1_0_log.out").write_text("first\nthe last line\n\n")
    row, idle = monitor.rows([run, other])
    assert (row["state"], row["phase"], row["done"], row["total"]) == ("running", "fit", 3, 10)
    assert row["last"] == "the last line"
    assert row["terms"] == {"loss": 0.5}
    assert 60 < row["left"] <= 70
    assert idle == {"run": other.name, "state": "missing", "reason": ""}
    console = Console(width=250, record=True)
    console.print(monitor.table([row, idle]))
    drawn = console.export_text()
    assert "fit 3/10" in drawn
    assert "0:01:" in drawn


def test_a_collected_run_keeps_the_end_of_its_log(expand: Callable[..., list[Run]]) -> None:
    run, _ = expand()
    worker.execute(run, "cpu", 1, 1.0)
    log = results.scratch_dir(run) / "log"
    log.mkdir()
    (log / "1_0_log.out").write_text("".join(f"line {i}\n" for i in range(100)))
    status.collect(run)
    assert (results.result_dir(run) / "log.txt").read_text().splitlines() == [f"line {i}" for i in range(60, 100)]
    assert status.read_status(run).state is State.DONE
