"""Faults on a real SLURM: `tests/slurm/cluster.sh up; eval "$(tests/slurm/cluster.sh env)"; pytest -m slurm`.

Every test causes one fault and expects the same: the right runs finish, with the bits of an undisturbed run, and none
is executed twice. `worker` is a method that takes its time, draws random numbers and saves a checkpoint after each
step.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from project import ROOT, Project

from benchmarks import plan, results
from benchmarks.execution.executors.slurm import arrays
from benchmarks.params import Executor
from benchmarks.plan import Run

CLUSTER = os.environ.get("PROCTOR_SLURM_SANDBOX")
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(not CLUSTER, reason="needs the SLURM that tests/slurm/cluster.sh starts"),
]

WORKER = '''
"""A method for tests of faults: a random walk in steps that take time, with a checkpoint after each."""
import json, os, sys, time
from dataclasses import dataclass
import numpy as np
import torch
from methods.base import Method, Prediction, Progress

@dataclass(kw_only=True, eq=False)
class Worker(Method):
    paper = source = "none"
    steps: int = 10
    fault: str = "none"

    def fit(self, train, validation, context):
        path = context.checkpoint
        state = json.loads(path.read_text()) if path.exists() else {"step": 0, "value": 0.0, "starts": []}
        state["starts"].append(state["step"])
        while state["step"] < self.steps:
            time.sleep(0.2)
            if self.fault == "raise":
                raise ValueError("the fault that was asked for")
            if self.fault == "hungry":
                self.ballast = np.ones((state["step"] + 1, 2**25))
            state["value"] += np.random.default_rng([context.seed, state["step"]]).standard_normal()
            state["step"] += 1
            part = path.with_name("part")
            part.write_text(json.dumps(state))
            part.replace(path)
            context.progress(Progress("fit", state["step"], self.steps, {"value": state["value"]}))
        self.state_ = state
        return self

    def predict(self, test, context):
        for number, sample in enumerate(test):
            anomaly_map = torch.full((64, 64), self.state_["value"] + number)
            yield Prediction(anomaly_map.max().item(), anomaly_map)

    @property
    def record(self):
        return {"starts": self.state_["starts"], "dvc": "dvc" in sys.modules, "lab": os.environ.get("LAB")}
'''
SUITE: dict[str, Any] = {
    "suite": "test", "methods": ["worker"], "variants": {}, "hyper_parameters": {"steps": 10}, "datasets": ["toy"],
    "categories": {"toy": ["cog"]}, "protocols": ["one_class"], "seeds": [0], "pretrain": [],
    "conventions": ["default"], "allow": {},
}  # fmt: skip
EXECUTOR = {"name": "slurm", "gpus": 0, "threads": 1, "memory_gib": 1.5, "minutes": 20}


@pytest.fixture
def project(tmp_path_factory: pytest.TempPathFactory, toy_root: Path) -> Iterator[Project]:
    # Not under pytest's own folder, which only this user may enter.
    project = Project(tmp_path_factory.mktemp("slurm"), SUITE | {"roots": {"toy": str(toy_root)}, "executor": EXECUTOR})
    (project.folder / "methods" / "worker.py").write_text(WORKER)
    yield project
    with_name = subprocess.run(["squeue", "-h", "-o", "%A %Z"], capture_output=True, text=True, check=True).stdout
    for line in with_name.splitlines():
        job, _, folder = line.partition(" ")
        if folder == str(project.folder):
            subprocess.run(["scancel", job], check=True)


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def reports(project: Project) -> dict[str, dict[str, Any]]:
    """The status of each run that has one, by its variant and seed, as in `worker 0`."""
    by_run = {}
    for path in project.folder.glob("results/scratch/*/status.json"):
        report = results.read_json(path) or {}
        variant, seed = re.fullmatch(r"(\w+)-toy-one_class/cog-seed(\d+)", report["run"]).groups()
        by_run[f"{variant} {seed}"] = report
    return by_run


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)
    return value


def at_step(project: Project, run: str, step: int) -> Callable[[], dict[str, Any] | None]:
    """The run's status once it has made so many steps and computes on."""

    def reached() -> dict[str, Any] | None:
        report = reports(project).get(run, {})
        return report if report.get("state") == "running" and report.get("done", 0) >= step else None

    return reached


def finish(driver: subprocess.Popen, code: int = 0) -> str:
    output, _ = driver.communicate(timeout=300)
    assert driver.returncode == code, output
    return output


def record(project: Project, run: str = "worker 0") -> dict[str, Any]:
    variant, seed = run.split()
    return project.records()[f"results/predictions/{variant}-toy-one_class/cog-seed{seed}"]


def assert_undisturbed(project: Project, steps: int, run: str = "worker 0") -> None:
    """What is stored has the bits of an uninterrupted fit."""
    variant, seed = run.split()
    random_seed = int(plan.digest(["toy", "one_class", "cog", int(seed)]), 16) % 2**31
    value = 0.0
    for step in range(steps):
        value += np.random.default_rng([random_seed, step]).standard_normal()
    images = len(record(project, run)["categories"]["cog"]["keys"])
    folder = project.folder / "results" / "predictions" / f"{variant}-toy-one_class" / f"cog-seed{seed}"
    np.testing.assert_array_equal(np.load(folder / "cog.scores.npy"), np.float32([value + n for n in range(images)]))


def preempt(node: str) -> None:
    """Let a job of higher priority push everything off a node."""
    slurm("sbatch", "-p", "high", "-w", node, "--exclusive", "-o", "/dev/null", "--wrap", "sleep 3")


def test_one_array_runs_all_and_the_record_names_the_job(project: Project) -> None:
    project.params({"seeds": [0, 1, 2], "executor": EXECUTOR | {"slurm_setup": ["export LAB=here"]}})
    project.run("proctor", "run")
    records = [record(project, f"worker {seed}") for seed in (0, 1, 2)]
    assert len({entry["provenance"]["job"].partition("_")[0] for entry in records}) == 1
    assert all(entry["provenance"]["attempts"] == 1 for entry in records)
    assert all(entry["lab"] == "here" for entry in records), "slurm_setup was not executed"
    assert not any(entry["dvc"] for entry in records), "a job has imported DVC"
    assert all(entry["provenance"]["queue_seconds"] >= 0 for entry in records)
    for seed in (0, 1, 2):
        assert_undisturbed(project, 10, f"worker {seed}")


def test_an_exception_and_too_much_memory_and_scancel_leave_the_other_runs_going(project: Project) -> None:
    faults = {name: {"method": "worker", "fault": name} for name in ("raise", "hungry")}
    patient = {"patient": {"method": "worker", "steps": 10_000}}
    project.params({"methods": ["raise", "hungry", "patient", "worker"], "variants": faults | patient})
    driver = project.start("proctor", "run")
    slurm("scancel", wait_for(at_step(project, "patient 0", 2))["job"])
    output = finish(driver, code=1)
    assert "3 of 4 runs did not finish" in output
    assert_undisturbed(project, 10)
    states = project.states()
    assert states["raise-toy-one_class/cog-seed0"] == ("failed", "ValueError: the fault that was asked for")
    assert re.search("job .* ended without a result", states["hungry-toy-one_class/cog-seed0"][1])
    assert "CANCELLED" in states["patient-toy-one_class/cog-seed0"][1]
    assert "exceeded memory limit" in output or "OUT_OF_MEMORY" in output

    project.params({"methods": ["raise", "worker"]})
    project.run("proctor", "plan", "--write")
    before = record(project)["provenance"]
    again = project.run("proctor", "retry", code=1)
    assert "start raise-" in again.stderr
    assert "start worker-" not in again.stderr
    assert record(project)["provenance"] == before


def test_a_time_out_puts_the_run_back_and_it_goes_on(project: Project) -> None:
    project.params({"hyper_parameters": {"steps": 40}})
    driver = project.start("proctor", "run")
    job = wait_for(at_step(project, "worker 0", 3))["job"]
    slurm("scancel", "--signal=USR2", job)  # what SLURM sends before the end of a job's time
    assert "lost" not in finish(driver)
    assert_undisturbed(project, 40)
    entry = record(project)
    assert entry["provenance"]["attempts"] == 2
    assert entry["provenance"]["job"] == job
    assert entry["starts"][0] == 0
    assert entry["starts"][1] >= 3


def test_a_run_that_is_stopped_again_and_again_without_a_checkpoint_fails_with_the_cure(project: Project) -> None:
    job = project.folder / "benchmarks" / "execution" / "job.py"
    job.write_text(job.read_text().replace("MAX_STOPS = 5", "MAX_STOPS = 1"))
    worker = project.folder / "methods" / "worker.py"
    worker.write_text(WORKER.replace("part.replace(path)", "pass"))
    driver = project.start("proctor", "run")
    slurm("scancel", "--signal=USR2", wait_for(at_step(project, "worker 0", 2))["job"])
    assert "executor.minutes" in finish(driver, code=1)


def test_a_pre_empted_run_is_put_back_by_slurm_and_goes_on(project: Project) -> None:
    project.params({"hyper_parameters": {"steps": 60}})
    driver = project.start("proctor", "run")
    preempt(wait_for(at_step(project, "worker 0", 3))["node"])
    finish(driver)
    assert_undisturbed(project, 60)
    assert len(record(project)["starts"]) == 2


@pytest.mark.parametrize(("partition", "stop"), [("spot", "cancelled by pre-emption"), ("main", "warned of its end")])
def test_a_run_whose_job_cannot_put_itself_back_is_submitted_again(project: Project, partition: str, stop: str) -> None:
    shim = project.folder / "bin" / "scontrol"
    shim.parent.mkdir()
    shim.write_text("#!/bin/sh\nexit 1\n")
    shim.chmod(0o755)
    setup = [f"export PATH={shim.parent}:$PATH"]
    executor = EXECUTOR | {"partition": partition, "slurm_setup": setup}
    project.params({"hyper_parameters": {"steps": 60}, "executor": executor})
    driver = project.start("proctor", "run")
    started = wait_for(at_step(project, "worker 0", 3))
    if stop == "warned of its end":
        slurm("scancel", "--signal=USR2", started["job"])
    else:
        preempt(started["node"])
    assert "lost worker-toy-one_class/cog-seed0" in finish(driver)
    assert_undisturbed(project, 60)
    entry = record(project)
    assert entry["provenance"]["job"] != started["job"]
    assert entry["starts"][1] >= 3


def test_a_plain_requeue_which_gives_no_warning_costs_little(project: Project) -> None:
    project.params({"hyper_parameters": {"steps": 40}})
    driver = project.start("proctor", "run")
    slurm("scontrol", "requeue", wait_for(at_step(project, "worker 0", 5))["job"])
    finish(driver)
    assert_undisturbed(project, 40)
    assert record(project)["starts"][1] >= 5


def test_a_run_on_a_node_that_is_lost_goes_on_elsewhere_and_the_old_process_stops(project: Project) -> None:
    """The node's daemon dies, as if its network had; the process on it computes on, and meets the run's new one."""
    project.params({"hyper_parameters": {"steps": 200}})
    driver = project.start("proctor", "run")
    started = wait_for(at_step(project, "worker 0", 3))
    node = started["node"]
    try:
        os.kill(int(Path(CLUSTER or "", f"slurmd-{node}.pid").read_text()), signal.SIGKILL)
        slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
        wait_for(lambda: (at_step(project, "worker 0", 4)() or {}).get("node") not in (None, node))
        wait_for(lambda: not psutil.pid_exists(started["pid"]), 30)
        finish(driver)
    finally:
        slurm(str(ROOT / "tests" / "slurm" / "cluster.sh"), "up")
    assert_undisturbed(project, 200)
    assert len(record(project)["starts"]) == 2


def test_a_node_that_is_down_and_up_again_loses_no_run(project: Project) -> None:
    """It may still hold the old copy of the job and refuse the new one, which SLURM then holds until someone acts."""
    project.params({"hyper_parameters": {"steps": 60}})
    driver = project.start("proctor", "run")
    node = wait_for(at_step(project, "worker 0", 3))["node"]
    slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    slurm("scontrol", "update", f"nodename={node}", "state=resume")
    finish(driver)
    assert_undisturbed(project, 60)
    assert len(record(project)["starts"]) == 2


def test_a_controller_that_restarts_is_waited_for(project: Project) -> None:
    project.params({"hyper_parameters": {"steps": 200}})
    driver = project.start("proctor", "run")
    job = wait_for(at_step(project, "worker 0", 2))["job"]
    # Killed before it has saved that the job runs, it would start the job again on a node that refuses it.
    slurm("scontrol", "update", f"jobid={job}", f"comment={project.folder}/saved")
    saved = Path(CLUSTER or "", "state", "job_state")
    wait_for(lambda: f"{project.folder}/saved".encode() in saved.read_bytes())
    pid = int(Path(CLUSTER or "", "slurmctld.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    time.sleep(12)  # long enough for the driver to ask in vain
    slurm(str(ROOT / "tests" / "slurm" / "cluster.sh"), "up")
    assert "lost" not in finish(driver)
    assert_undisturbed(project, 200)
    assert len(record(project)["starts"]) == 1


def test_a_driver_killed_with_jobs_at_work_is_followed_by_one_that_attaches(project: Project) -> None:
    project.params({"hyper_parameters": {"steps": 200}, "seeds": [0, 1]})
    driver = project.start("proctor", "run")  # the runs outlast two more commands on a busy machine
    wait_for(at_step(project, "worker 0", 2))
    driver.kill()
    driver.wait()
    project.run("proctor", "plan", "--write")
    rows = {row["run"]: row for row in json.loads(project.run("proctor", "status", "--json").stdout)}
    row = rows["worker-toy-one_class/cog-seed0"]
    assert row["state"] == "running"
    assert {"job", "node", "elapsed", "phase", "done", "total", "terms", "remaining", "last"} <= set(row)
    assert "start" not in project.run("proctor", "run").stderr
    for seed in (0, 1):
        assert_undisturbed(project, 200, f"worker {seed}")
        assert record(project, f"worker {seed}")["provenance"]["attempts"] == 1


def test_a_driver_that_takes_over_waits_for_jobs_that_slurm_has_put_back(project: Project) -> None:
    project.params({"hyper_parameters": {"steps": 60}})
    driver = project.start("proctor", "run")
    job = wait_for(at_step(project, "worker 0", 3))["job"]
    slurm("scontrol", "update", "partition=main", "state=down")
    try:
        driver.kill()
        driver.wait()
        slurm("scontrol", "requeue", job)
        wait_for(lambda: "PENDING" in slurm("squeue", "-h", "-r", "-j", job, "-o", "%T"))
        assert reports(project)["worker 0"]["state"] == "running", "its process had no chance to say otherwise"
        driver = project.start("proctor", "run")
        time.sleep(15)  # in which it asks SLURM what is there
    finally:
        slurm("scontrol", "update", "partition=main", "state=up")
    assert "start" not in finish(driver)
    assert_undisturbed(project, 60)
    assert record(project)["provenance"]["job"] == job
    assert len(record(project)["starts"]) == 2


@pytest.mark.parametrize(("program", "after"), [("sbatch", True), ("sbatch", False), ("scontrol", False)])
def test_a_driver_killed_while_it_submits_loses_no_run_and_doubles_none(
    project: Project, program: str, after: bool
) -> None:
    """`program` kills the driver: before it has asked SLURM, or when SLURM has answered."""
    real, shim = shutil.which(program), project.folder / "bin" / program
    shim.parent.mkdir()
    call, kill = f'{real} "$@"', "kill -9 $PPID"
    lines = [call, kill] if after else [f'[ "$1" = show ] && exec {call}', kill]
    shim.write_text("#!/bin/sh\n" + "\n".join(lines) + "\n")
    shim.chmod(0o755)
    project.params({"seeds": [0, 1, 2]})
    environment = project.environment()
    environment["PATH"] = f"{shim.parent}{os.pathsep}{environment['PATH']}"
    killed = subprocess.run(["proctor", "run"], cwd=project.folder, env=environment, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    project.run("proctor", "run")
    name = slurm("squeue", "-t", "all", "-h", "-r", "-o", "%j|%Z|%T")
    of_ours = [line.split("|")[2] for line in name.splitlines() if line.split("|")[1] == str(project.folder)]
    assert sorted(set(of_ours) - {"CANCELLED"}) == ["COMPLETED"]
    assert of_ours.count("COMPLETED") == 3
    for seed in (0, 1, 2):
        assert record(project, f"worker {seed}")["starts"] == [0]


def test_of_two_drivers_the_second_ends_with_a_message(project: Project) -> None:
    project.params({"hyper_parameters": {"steps": 60}})
    first = project.start("proctor", "run")
    wait_for(lambda: reports(project))
    assert "another proctor is launching runs" in project.run("proctor", "run", code=3).stderr
    finish(first)
    assert record(project)["starts"] == [0]


def test_dvc_killed_and_started_again_attaches_and_ends_in_the_same_scores(project: Project) -> None:
    project.params({"hyper_parameters": {"steps": 60}, "seeds": [0, 1]})
    driver = project.start("dvc", "repro", "score")
    wait_for(at_step(project, "worker 0", 2))
    driver.kill()  # dvc alone: its stage's command is left behind
    driver.wait()
    project.run("dvc", "repro", "score")
    for seed in (0, 1):
        assert_undisturbed(project, 60, f"worker {seed}")
        assert record(project, f"worker {seed}")["starts"] == [0]
    assert (project.folder / "results" / "scores" / "worker-toy-one_class.csv").exists()


def test_a_full_disk_fails_its_run_with_the_reason_and_room_cures_it(project: Project) -> None:
    scratch = project.folder / "results" / "scratch"
    scratch.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(scratch)], check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        assert "Free some space" in project.run("proctor", "run", code=1).stderr
        subprocess.run(["mount", "-o", "remount,size=50m", str(scratch)], check=True)
        project.run("proctor", "run")
        assert_undisturbed(project, 10)
    finally:
        subprocess.run(["umount", "-l", str(scratch)], check=True)


def test_clocks_that_differ_between_hosts_do_no_harm(project: Project) -> None:
    skew = project.folder / "skew"
    skew.mkdir()
    (skew / "sitecustomize.py").write_text(
        "import time, datetime\nreal = time.time\ntime.time = lambda: real() - 7200\n"
    )
    setup = [f"export PYTHONPATH={skew}:$PYTHONPATH"]
    project.params({"hyper_parameters": {"steps": 60}, "executor": EXECUTOR | {"slurm_setup": setup}})
    driver = project.start("proctor", "run")
    wait_for(at_step(project, "worker 0", 3))
    project.run("proctor", "plan", "--write")
    (row,) = json.loads(project.run("proctor", "status", "--json").stdout)
    assert row["state"] == "running"
    assert 0 < row["elapsed"] < 300
    finish(driver)
    assert_undisturbed(project, 60)
    assert 0 <= record(project)["provenance"]["queue_seconds"] < 300


def test_what_was_edited_while_its_job_waited_is_refused(project: Project) -> None:
    slurm("scontrol", "update", "partition=main", "state=down")
    try:
        driver = project.start("proctor", "run")
        wait_for(lambda: reports(project))
        worker = project.folder / "methods" / "worker.py"
        worker.write_text(WORKER.replace("+ number", "- number"))
    finally:
        slurm("scontrol", "update", "partition=main", "state=up")
    assert "changed since this run was planned: method code" in finish(driver, code=1)
    assert not project.records()


def test_a_node_that_does_not_see_the_project_is_an_error_with_the_cure(project: Project) -> None:
    hidden = f"mount -t tmpfs tmpfs {project.folder}/results/scratch && exec {shutil.which('python')}"
    if subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("this machine grants no mount of its own to a process")
    python = f"unshare --mount sh -c '{hidden} \"$@\"' --"
    project.params({"executor": EXECUTOR | {"slurm_python": python}})
    output = project.run("proctor", "run", code=1).stderr
    assert "do the nodes see this folder" in output or "does not see" in output


def test_what_the_cluster_refuses_is_an_error_at_once(project: Project) -> None:
    project.params({"executor": EXECUTOR | {"partition": "nowhere"}})
    message = project.run("proctor", "run", code=2).stderr
    assert "SLURM rejected the jobs" in message
    assert "invalid partition" in message


def test_what_the_cluster_can_never_give_is_a_failure_and_not_an_endless_wait(project: Project) -> None:
    project.params({"executor": EXECUTOR | {"gpus": 16}})
    assert "can never start: BadConstraints" in project.run("proctor", "run", code=1).stderr
    assert str(project.folder) not in slurm("squeue", "-h", "-o", "%Z")


def test_three_hundred_runs_are_queued_in_arrays_of_the_allowed_size_and_taken_over_by_the_next_driver(
    project: Project,
) -> None:
    slurm("scontrol", "update", "partition=main", "state=down")
    try:
        project.params({"seeds": list(range(300)), "executor": EXECUTOR | {"jobs": 6}})
        assert "3 job arrays of 101, 101, 98 jobs" in project.run("proctor", "plan").stderr.replace("\n", " ")
        driver = project.start("proctor", "run")
        wait_for(lambda: len(reports(project)) == 300)
        wait_for(lambda: "JobHeldUser" not in slurm("squeue", "-h", "-o", "%r"))
        before = {run: report["job"] for run, report in reports(project).items()}
        driver.kill()
        driver.wait()
        driver = project.start("proctor", "run")
        time.sleep(10)
        assert {run: report["job"] for run, report in reports(project).items()} == before
        assert len(set(before.values())) == 300
        assert len({job.partition("_")[0] for job in before.values()}) == 3
        assert all("%2" in line for line in slurm("squeue", "-h", "-o", "%i").splitlines())
        driver.kill()
        driver.wait()
    finally:
        slurm("scancel", "-p", "main", "--me")
        slurm("scontrol", "update", "partition=main", "state=up")


def test_groups_with_other_resources_are_arrays_of_their_own() -> None:
    executor = Executor.model_validate(
        {"name": "slurm", "minutes": 60, "resources": {"*-multi_class": {"minutes": 600}}}
    )

    def run(protocol: str, seed: int) -> Run:
        return Run(
            variant="rd", method="rd", hyper_parameters={}, dataset="toy", root=None, categories=None,
            protocol=protocol, split="all", seed=seed, weights={}, compute={}, evaluate_every=0, interference=None,
            fingerprint_parts={},
        )  # fmt: skip

    suite = [run(protocol, seed) for seed in range(3) for protocol in ("one_class", "multi_class")]
    parts = arrays(suite, executor)
    assert sorted([sorted({entry.protocol for entry in part}) for part in parts]) == [["multi_class"], ["one_class"]]
    assert [len(part) for part in parts] == [3, 3]
