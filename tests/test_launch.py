"""Runs executed and their cost forecast, as far as that needs no cluster; test_slurm.py has the rest."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factories
import pytest
import torch
from rich.console import Console

from benchmarks import fingerprint, params, records, results, runs, status, status_file
from benchmarks.execution import driver, executors, forecast, job, monitor, worker
from benchmarks.execution.executors import local, slurm
from benchmarks.params import Executor, Params
from benchmarks.plan import Run
from benchmarks.records import Record
from benchmarks.status import State
from benchmarks.status_file import Claim, Place, StatusReport, Superseded
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


INLINE = '''
"""An executor for tests: one run after another, in the process of the driver."""
from contextlib import suppress
from benchmarks.execution.executors.base import Executor
from benchmarks.execution.job import Job

class Inline(Executor):
    device = "cpu"

    def start(self, waiting, at_work):
        if not waiting:
            return []
        with suppress(Exception):  # the status file has it
            Job(run=waiting[0], executor=self.name, device=self.device, threads=1, cache_gib=1)()
        return [waiting[0]]

    @classmethod
    def lost(cls, at_work):
        return {}

    def interrupt(self):
        return "Stopped."

    def forecast(self, pending):
        return f"{len(pending)} runs in one process."
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


def execute(run: Run) -> Record:
    """Its record, after it was executed in this process."""
    worker.execute(run, "cpu", 1, 1.0)
    status.collect(run)
    return results.load(results.result_dir(run))[0]


def report(run: Run) -> StatusReport:
    """The last report on a run, which there is."""
    value = status_file.read_report(run)
    assert value is not None
    return value


def check(detector: driver.LossDetector, run: Run) -> list[Run]:
    """The next check, at once."""
    detector.next_check = 0.0
    return detector.check([run])


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


def test_a_job_that_does_not_see_the_project_names_the_folder(expand: Callable[..., list[Run]], tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    submitted = job.Job(run=expand()[0], executor="local", folder=elsewhere, device="cpu", threads=1, cache_gib=1)
    with pytest.raises(InputError, match=r"does not see .*elsewhere.*all nodes share"):
        submitted()


def test_prediction_is_repeated_with_a_smaller_batch_where_a_gpu_is_short_of_memory(
    expand: Callable[..., list[Run]],
) -> None:
    (run, _) = expand(methods=["greedy"], hyper_parameters={"batch": 4})
    record = execute(run)
    assert record.provenance.predict_batch == 4
    scores = results.load(results.result_dir(run))[1]["cog"][1]
    assert scores.tolist() == list(range(len(scores)))


def test_a_second_shortage_of_memory_fails_the_run(expand: Callable[..., list[Run]]) -> None:
    (run, _) = expand(methods=["greedy"], hyper_parameters={"batch": 1})
    with pytest.raises(torch.OutOfMemoryError):
        execute(run)
    assert status.read_status(run) == (State.FAILED, "OutOfMemoryError: CUDA out of memory")


def test_a_shortage_of_memory_in_training_never_changes_the_batch_size(
    expand: Callable[..., list[Run]],
) -> None:
    (run, _) = expand(methods=["greedy"], hyper_parameters={"fits": False})
    with pytest.raises(InputError, match="another experiment"):
        execute(run)


def test_a_claimed_run_belongs_to_the_last_process_that_claimed_it(expand: Callable[..., list[Run]]) -> None:
    run = expand()[0]
    first = Claim(run)
    first.report("running", done=1)
    second = Claim(run)
    with pytest.raises(Superseded):
        first.report("running", done=2)
    with pytest.raises(Superseded):
        first.report("failed", error="too late")
    second.report("running", done=3)
    assert report(run).done == 3


def test_a_process_whose_run_was_claimed_by_another_stores_nothing(
    expand: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = expand()[0]
    monkeypatch.setattr(worker, "_refuse_changes", lambda run: Claim(run))  # another one, meanwhile
    with pytest.raises(Superseded):
        execute(run)
    assert status.read_status(run).state is State.RUNNING
    assert not (results.scratch_dir(run) / "result").exists()


def test_attempts_and_times_add_up_until_the_run_fails(expand: Callable[..., list[Run]]) -> None:
    run = expand()[0]
    status_file.report_job(run, "queued", "7", "slurm", attempts=2, elapsed=100.0, queue_seconds=30.0)
    os.utime(results.scratch_dir(run) / "status.json", (0, status_file.updated_at(run) - 50))
    claim = Claim(run, Place("slurm", "7", "n"))
    assert claim.attempts == 3
    assert 100 <= claim.elapsed < 110
    assert 80 <= claim.queue_seconds < 90
    claim.report("failed", error="why")
    assert report(run).attempts == 3
    assert Claim(run).attempts == 1


def test_another_host_is_alive_while_it_touches_its_status_whatever_its_clock_says(
    expand: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = expand()[0]
    here = socket.gethostname()
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    status_file.report(run, "running")
    monkeypatch.setattr(socket, "gethostname", lambda: here)
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert status.read_status(run).state is State.RUNNING
    updated = status_file.updated_at(run)
    os.utime(results.scratch_dir(run) / "status.json", (0, updated - status_file.TIMEOUT_SECONDS - 5))
    assert status.read_status(run).state is State.MISSING


def test_a_new_executor_is_one_file(
    expand: Callable[..., list[Run]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "executors"
    folder.mkdir()
    (folder / "inline.py").write_text(INLINE)
    monkeypatch.setattr(executors, "__path__", [*executors.__path__, str(folder)])
    failing = {"failing": {"method": "greedy", "fits": False}}
    suite = expand(methods=["bright", "failing"], variants=failing)
    settings = Executor(name="inline")
    assert "4 runs in one process." in forecast.sentences(suite, settings)
    driver.launch(suite, settings, Console(quiet=True))
    assert [status.read_status(run).state for run in suite] == [State.DONE] * 2 + [State.FAILED] * 2
    assert report(suite[2]).executor == "inline"


def test_an_unknown_executor_is_refused_with_the_known_ones(expand: Callable[..., list[Run]]) -> None:
    with pytest.raises(InputError, match=r"There is no executor 'slrm'\. Did you mean 'slurm'"):
        forecast.sentences(expand(), Executor(name="slrm"))
    with pytest.raises(InputError, match=r"Known: local, slurm\."):
        driver.launch(expand(), Executor(name="kubernetes"), Console(quiet=True))


def test_only_the_executors_know_slurm() -> None:
    root = Path(executors.__file__).parents[2]
    files = [*root.glob("execution/*.py"), *root.glob("status*.py"), *root.glob("cli/*.py")]
    assert len(files) > 10
    assert [path.name for path in files if "slurm" in path.read_text().lower()] == []


def test_each_run_on_a_machine_gets_a_gpu_of_its_own(
    expand: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is none here, so each job reports which one it was given and does not find."""
    suite = expand(methods=["rd"], hyper_parameters={"teacher": "test_resnet.untrained", "image_size": 64})
    monkeypatch.setattr(local, "_gpus", lambda: ["3", "7"])
    driver.launch(suite, Executor(device="cuda", threads=1), Console(quiet=True))
    reasons = " ".join(status.read_status(run).reason for run in suite)
    assert "CUDA_VISIBLE_DEVICES='3'" in reasons
    assert "CUDA_VISIBLE_DEVICES='7'" in reasons


def test_a_gpu_with_a_run_of_an_earlier_driver_is_leased_last(
    expand: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = expand(methods=["rd"], hyper_parameters={"teacher": "test_resnet.untrained", "image_size": 64})
    monkeypatch.setattr(local, "_gpus", lambda: ["0", "1"])
    status_file.report(suite[0], "running", gpu="0")  # by this process, which lives
    executor = local.Local(Executor(device="cuda"))
    assert executor.start(suite[1:], suite[:1]) == suite[1:]
    assert report(suite[1]).gpu == "1"
    executor.interrupt()


def test_a_process_that_was_killed_is_noticed_and_its_run_fails_with_the_reason(
    expand: Callable[..., list[Run]],
) -> None:
    run = expand()[0]
    status_file.report(run, "running", pid=os.getpid())
    path = results.scratch_dir(run) / "status.json"
    path.write_text(path.read_text().replace(f'"pid": {os.getpid()}', f'"pid": {2**22 + 1}'))
    detector = driver.LossDetector()
    assert check(detector, run) == [], "one observation proves nothing"
    assert check(detector, run) == [run]
    assert status.read_status(run).state is State.FAILED
    assert "killed, out of memory" in status.read_status(run).reason


@pytest.mark.parametrize(
    "content", ["", "[]", "null", '{"run": "x"', '{"run": "x", "state": "running"}', '{"state": 3}']
)
def test_a_damaged_status_file_is_no_status_file_and_its_run_is_started_again(
    content: str, expand: Callable[..., list[Run]]
) -> None:
    run = expand()[0]
    status_file.report(run, "running")
    path = results.scratch_dir(run) / "status.json"
    path.write_text(content)
    assert status_file.read_report(run) is None
    assert list(status_file.read_reports()) == []
    assert status.read_status(run).state is State.MISSING
    assert monitor.rows([run])[0].state is State.MISSING
    detector = driver.LossDetector()
    check(detector, run)
    assert check(detector, run) == [run]
    assert report(run).state == "lost"


def test_a_run_that_is_lost_again_and_again_has_failed(
    expand: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = expand()[0]
    monkeypatch.setattr(executors, "lost", lambda runs: {run.fingerprint: executors.LostRun("node failure", True)})
    detector, states = driver.LossDetector(), []
    for _ in range(driver.MAX_LOSSES + 1):
        status_file.report(run, "running")
        assert check(detector, run) == [], "it was started again: the earlier loss proves nothing"
        assert check(detector, run) == [run]
        states.append(report(run).state)
    assert states == ["lost"] * driver.MAX_LOSSES + ["failed"]
    assert report(run).error == "node failure; it was lost 6 times"


def test_terms_that_are_not_finite_survive_in_the_status_file(expand: Callable[..., list[Run]]) -> None:
    run = expand()[0]
    Claim(run).report("running", phase="fit", terms={"loss": float("inf"), "other": float("nan")})
    assert str(report(run).terms) == "{'loss': inf, 'other': nan}"


def test_a_run_that_ended_while_its_driver_started_is_not_launched_again(
    expand: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = expand()
    worker.execute(suite[0], "cpu", 1, 1.0)
    started: list[Run] = []

    def start(self: slurm.Slurm, waiting: list[Run], at_work: list[Run]) -> list[Run]:
        started.extend(waiting)
        for run in waiting:
            worker.execute(run, "cpu", 1, 1.0)
        return list(waiting)

    monkeypatch.setattr(slurm.Slurm, "start", start)
    driver.launch(suite, Executor(name="slurm"), Console(quiet=True))
    assert started == suite[1:]


def test_a_run_that_ends_as_soon_as_it_is_submitted_is_submitted_once(
    expand: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = expand()
    submitted: list[Run] = []

    def submit(self: slurm.Slurm, array: list[Run], total: int) -> None:
        submitted.extend(array)
        worker.execute(array[0], "cpu", 1, 1.0)
        status_file.report_job(array[1], "failed", "7_1", "slurm", error="at once")

    monkeypatch.setattr(slurm.Slurm, "_submit", submit)
    monkeypatch.setattr(slurm, "_call", lambda *command: "")
    driver.launch(suite, Executor(name="slurm"), Console(quiet=True))
    assert submitted == suite


def test_a_finished_run_is_not_executed_again_by_a_job_that_comes_late(expand: Callable[..., list[Run]]) -> None:
    run = expand()[0]
    worker.execute(run, "cpu", 1, 1.0)
    before = status_file.updated_at(run)
    worker.execute(run, "cpu", 1, 1.0)
    assert status_file.updated_at(run) == before


@pytest.mark.parametrize(("known", "restart"), [(0, True), (1, False)])
def test_a_run_whose_job_failed_before_its_process_was_started_again_is_restarted(
    known: int, restart: bool, expand: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"squeue": "7_0|FAILED NonZeroExitCode\n", "scontrol": "JobId=9 ArrayJobId=7\n   Requeue=1 Restarts=1\n"}
    monkeypatch.setattr(slurm, "_call", lambda *command: answers[command[0]])
    run = expand()[0]
    status_file.report_job(run, "running", "7_0", "slurm", node="left", restarts=known)
    assert executors.lost([run])[run.fingerprint].restart is restart


def test_a_cluster_that_does_not_answer_has_lost_no_run(
    expand: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(*command: str) -> str:
        raise OSError("no answer")

    monkeypatch.setattr(slurm, "_call", call)
    run = expand()[0]
    status_file.report_job(run, "running", "7_0", "slurm", node="left")
    assert executors.lost([run]) == {}


@pytest.mark.parametrize(("state", "cancelled"), [("queued", False), ("running", False), ("lost", True)])
def test_a_driver_that_takes_over_cancels_no_pending_job_whose_run_still_counts_on_it(
    state: str, cancelled: bool, expand: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []

    def call(*command: str) -> str:
        calls.append(command)
        return "7_0|PENDING Resources\n" if command[0] == "squeue" else ""

    monkeypatch.setattr(slurm, "_call", call)
    status_file.report_job(expand()[0], state, "7_0", "slurm", node="left", error="why")
    slurm._recover()
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
    with pytest.raises(InputError, match="Did you mean 'minutes'"):
        params.load(path)


def test_a_forecast_is_the_mean_of_earlier_records_and_names_groups_without_a_record(
    expand: Callable[..., list[Run]],
) -> None:
    suite = expand(methods=["bright", "dim"], seeds=[0, 1])
    for run in suite[:2]:
        execute(run)
    pending = suite[2:]
    cost = forecast.forecast(pending)
    seconds = [results.load(results.result_dir(run))[0].provenance.wall_seconds for run in suite[:2]]
    assert cost.hours * 3600 == pytest.approx(sum(seconds))
    assert cost.bytes == sum(p.stat().st_size for run in suite[:2] for p in results.result_dir(run).iterdir())
    assert cost.unknown == ["dim-toy-one_class"]
    text = " ".join(forecast.sentences(pending, Executor(device="cpu")))
    assert "2 runs: about" in text and "GiB of predictions and models of unknown size." in text
    assert "4 runs: cost unknown" in text


def test_a_forecast_counts_the_models_that_are_kept(
    expand: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    of_earlier = factories.record(model={"bytes": 3 * 2**30, "digest": "ab"}, provenance={"wall_seconds": 7200})
    monkeypatch.setattr(records, "read", lambda path: of_earlier)
    first, second, *_ = expand(methods=["bright"])
    folder = results.result_dir(first)
    folder.mkdir(parents=True)
    (folder / "record.json").write_bytes(bytes(2**20))
    (folder / "model.safetensors").write_bytes(bytes(2**20))
    cost = forecast.forecast([first, second])
    assert (cost.bytes, cost.model_bytes) == (2 * 2**20, 6 * 2**30)
    (text, *_) = forecast.sentences([first, second], Executor(device="cpu"))
    assert text == "2 runs: about 4 CPU hours, 0.002 GiB of predictions and 6 GiB of models."
    without = [run.model_copy(update={"keep_model": False}) for run in (first, second)]
    (text, *_) = forecast.sentences(without, Executor(device="cpu"))
    assert text == "2 runs: about 4 CPU hours, 0.002 GiB of predictions."


def test_a_row_has_what_the_process_of_a_run_reported(expand: Callable[..., list[Run]]) -> None:
    run, other = expand()
    Claim(run).report("running", phase="fit", done=3, total=10, terms={"loss": 0.5}, remaining=70.0)
    log = results.scratch_dir(run) / "log"
    log.mkdir()
    (log / "1_0_log.out").write_text("first\nthe last line\n\n")
    row, idle = monitor.rows([run, other])
    assert (row.state, row.phase, row.done, row.total) == (State.RUNNING, "fit", 3, 10)
    assert row.last == "the last line"
    assert row.terms == {"loss": 0.5}
    assert row.remaining is not None
    assert 60 < row.remaining <= 70
    assert idle.json_object() == {"run": other.name, "state": "missing", "reason": ""}


def test_a_collected_run_keeps_the_end_of_its_log(expand: Callable[..., list[Run]]) -> None:
    run, _ = expand()
    worker.execute(run, "cpu", 1, 1.0)
    log = results.scratch_dir(run) / "log"
    log.mkdir()
    (log / "1_0_log.out").write_text("".join(f"line {i}\n" for i in range(100)))
    status.collect(run)
    assert (results.result_dir(run) / "log.txt").read_text().splitlines() == [f"line {i}" for i in range(60, 100)]
    assert status.read_status(run).state is State.DONE
