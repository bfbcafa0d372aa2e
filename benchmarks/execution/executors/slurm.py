"""Where runs are executed: processes on this machine, or job arrays of a SLURM cluster, both through submitit.

Neither remembers anything: whether a run is at work is read from its status file, and SLURM is asked only whether the
job behind a status file still exists. So any driver can take over from any other.

An array is submitted in three steps, so that a driver may be killed between any two of them and no run is lost or
submitted twice: as a held job; then each run's status file names its job; then the job is released. The next driver
cancels held jobs that no status file names, and releases those that one names. It needs no accounting (`sacct`).
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import submitit
from submitit.core.utils import FailedJobError

from benchmarks import results, status
from benchmarks.execution.job import Job
from benchmarks.params import Executor
from benchmarks.plan import Run, digest
from benchmarks.status import State
from methods.base import InputError

UNLIMITED_MINUTES = 60 * 24 * 365  # submitit ends a local job after two minutes unless it is told otherwise
SLURM_THREADS = 4
RETRY_SECONDS = 60  # before runs that the cluster did not accept are submitted again
WARNING_SECONDS = 60  # from SLURM's signal to the end of a job's time
# States in which a job has ended (https://slurm.schedmd.com/squeue.html, "job state codes"), and whether its run is to
# be submitted again: where the cluster took the job away, but not where the run is to blame or a person wanted it.
ENDED = {
    "BOOT_FAIL": True, "NODE_FAIL": True, "PREEMPTED": True, "REVOKED": True, "TIMEOUT": True, "LAUNCH_FAILED": True,
    "CANCELLED": False, "COMPLETED": False, "DEADLINE": False, "FAILED": False, "OUT_OF_MEMORY": False,
}  # fmt: skip
# Reasons for which a job would wait for ever. (A held job is accepted without a look at what it asks for.)
HOPELESS = (
    "AccountNotAllowed",
    "BadConstraints",
    "InvalidAccount",
    "InvalidQOS",
    "PartitionTimeLimit",
    "QOSNotAllowed",
)


class Loss(NamedTuple):
    """Why a run that seemed to be at work is not."""

    reason: str
    again: bool  # the run is not to blame: it goes on from its last checkpoint


class Local:
    """Processes on this machine, as many at a time as there are slots; each GPU is leased to as few runs as can be."""

    def __init__(self, executor: Executor) -> None:
        self.executor, self.device = executor, device(executor)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.gpus = _gpus() if self.device.startswith("cuda") else []
        self.slots = executor.jobs or len(self.gpus) or cores
        self.threads = executor.threads or max(1, cores // self.slots)
        self.children: list[submitit.Job[None]] = []

    def start(self, waiting: Sequence[Run], at_work: Sequence[Run]) -> list[Run]:
        """Start as many of the waiting runs as there are free slots.

        Returns:
            Those that were started.
        """
        self.children = [job for job in self.children if not job.done()]  # asking is what buries a dead child
        leased = [status.read_report(run).get("gpu") for run in at_work]
        started = list(waiting[: max(0, self.slots - len(at_work))])
        for run in started:
            gpu = min(self.gpus, key=leased.count, default=None)
            leased.append(gpu)
            executor = submitit.LocalExecutor(folder=results.scratch_dir(run) / "log")
            executor.update_parameters(timeout_min=UNLIMITED_MINUTES)
            job = executor.submit(_job(run, self.executor, self.device, self.threads, gpu))
            # Until the job speaks for itself: a driver that takes over must not submit it again.
            status.report(run, "running", pid=int(job.job_id), gpu=gpu)
            self.children.append(job)
        return started

    def interrupt(self) -> str:
        """End the runs that this driver started, and say so."""
        for job in self.children:
            job.cancel()
        return "Stopped. What is finished is kept; the same command takes up the rest."


class Slurm:
    """Job arrays, all waiting runs at once; how many are at work is for the cluster and the throttle to decide."""

    def __init__(self, executor: Executor) -> None:
        self.executor, self.recovered, self.next_try = executor, False, 0.0

    def start(self, waiting: Sequence[Run], at_work: Sequence[Run]) -> list[Run]:
        """Submit the waiting runs.

        Returns:
            Those that the cluster has accepted: all, unless it reached a limit on jobs while others are at work.

        Raises:
            InputError: the cluster refuses them, or cannot be reached.
        """
        if time.monotonic() < self.next_try:
            return []
        accepted: list[Run] = []
        try:
            if not self.recovered:
                _recover()
                self.recovered = True
            for part in arrays(waiting, self.executor) if waiting else ():
                self._submit(part, len(waiting))
                accepted += part
        except (OSError, subprocess.SubprocessError, FailedJobError) as error:
            # A limit on jobs, or a controller that restarts: later, unless there is nothing to wait for.
            self.recovered, self.next_try = False, time.monotonic() + RETRY_SECONDS
            if not at_work and all(status.read_status(run).state is not State.QUEUED for run in waiting):
                raise InputError(
                    f"SLURM does not accept the runs: {_complaint(error)}. Correct `executor` in params.yaml, or start "
                    "again when the cluster answers."
                ) from error
        # Of an array that could not be released, the runs are queued nevertheless.
        return [run for run in waiting if run in accepted or status.read_status(run).state is State.QUEUED]

    def _submit(self, runs: Sequence[Run], total: int) -> None:
        executor = self.executor.for_group(runs[0].group)
        threads = executor.threads or SLURM_THREADS
        cluster = submitit.SlurmExecutor(
            folder=results.RESULTS / "scratch" / "slurm" / "%j",
            max_num_timeout=1000,  # a run may need many jobs; `Job.checkpoint` sees to it that each brings it on
            # A signal that comes before submitit can handle it would end the job: there is nothing to save yet.
            python=f"""sh -c 'trap "" USR2; exec "$0" "$@"' {executor.slurm_python or shlex.quote(sys.executable)}""",
        )
        throttle = max(1, round(executor.jobs * len(runs) / total)) if executor.jobs else len(runs)  # its share
        memory = {} if executor.memory_gib is None else {"mem": f"{round(executor.memory_gib * 1024)}M"}
        cluster.update_parameters(
            job_name=_name(),
            partition=executor.partition,
            account=executor.account,
            time=executor.minutes,
            cpus_per_task=threads,
            srun_args=[f"--cpus-per-task={threads}"],  # since 22.05 srun does not take it from the job
            gpus_per_node=executor.gpus or None,
            array_parallelism=throttle,
            signal_delay_s=WARNING_SECONDS,
            setup=executor.slurm_setup,
            wckey=None,
            additional_parameters={**executor.slurm_additional, "hold": True, "requeue": True},
            **memory,
        )
        jobs = [_job(run, executor, device(executor), threads) for run in runs]
        with _outside_of_a_job():
            submitted = cluster.submit_array(jobs)
        for run, job in zip(runs, submitted, strict=True):
            status.report_job(run, "queued", job.job_id)
        _call("scontrol", "release", submitted[0].job_id.partition("_")[0])

    def interrupt(self) -> str:
        return (
            "Stopped watching; the jobs go on. The same command attaches to them again; "
            f"`scancel --name={_name()}` ends them."
        )


def device(executor: Executor) -> str:
    """The torch device of its runs. A cluster's login node needs no GPU."""
    if executor.device != "auto":
        return executor.device
    return "cuda" if (executor.gpus if executor.name == "slurm" else _gpus()) else "cpu"


def arrays(runs: Sequence[Run], executor: Executor) -> list[list[Run]]:
    """Runs as job arrays: those that ask for the same resources together, at most MaxArraySize in each."""

    def asked(run: Run) -> str:
        return executor.for_group(run.group).model_dump_json()

    most = max_array_size()
    alike = [list(group) for _, group in groupby(sorted(runs, key=asked), asked)]
    return [group[at : at + most] for group in alike for at in range(0, len(group), most)]


def losses(runs: Sequence[Run]) -> dict[str, Loss] | None:
    """By fingerprint, the runs that seem to be at work but whose job or process is gone; None if SLURM does not answer.

    A result may become visible just after its job has ended, so what is said once is a suspicion; twice, certain.
    """
    jobs: dict[str, str] | None = None
    found: dict[str, Loss] = {}
    for run in runs:
        report = status.read_report(run)
        if "job" not in report:
            if status.read_status(run).state is State.MISSING:
                found[run.fingerprint] = Loss(
                    "its process ended without a result: killed, or out of memory? It goes on from its last checkpoint",
                    False,
                )
        elif report["state"] in ("queued", "running"):
            if jobs is None and (jobs := _queue("%i|%T %r")) is None:
                return None
            state, _, why = jobs.get(report["job"], "").partition(" ")
            unlucky = state == "FAILED" and _is_unlucky(report)
            if "requeued held" in why:  # until somebody acts
                found[run.fingerprint] = Loss(_obituary(run, report, why), True)
            elif state == "PENDING" and why in HOPELESS:
                reason = f"job {report['job']} can never start: {why}. Correct `executor` in params.yaml"
                found[run.fingerprint] = Loss(reason, False)
            elif not state or state in ENDED:
                reason = _obituary(run, report, state or "unknown to SLURM by now")
                found[run.fingerprint] = Loss(reason, unlucky or ENDED.get(state, True))
    return found


def _is_unlucky(report: dict[str, Any]) -> bool:
    """Whether a job that SLURM calls failed could not be put back into the queue, or not be started from there.

    It was warned of its end, and failed to put itself back; or SLURM has started it more often than its process knows.
    """
    if report["state"] == "queued":
        return report.get("attempts", 0) > 0
    try:
        restarts = re.search(r"Restarts=(\d+)", _call("scontrol", "show", "job", report["job"]))
    except (OSError, subprocess.SubprocessError):
        return False
    return restarts is not None and int(restarts[1]) > report.get("restarts", 0)


def _obituary(run: Run, report: dict[str, Any], state: str) -> str:
    where = f"job {report['job']} ended without a result (state: {state})"
    if report["state"] == "queued" and not report.get("attempts"):
        where += (
            f", before it had written to {results.scratch_dir(run).absolute()}: do the nodes see this folder, and "
            "does `executor.slurm_python` start?"
        )
    hints = {"OUT_OF_MEMORY": "ask for more by `executor.memory_gib`", "CANCELLED": "by scancel"}
    return f"{where}; {hints[state]}" if state in hints else where


def forget(job: str) -> None:
    """See to it that a job whose run will be submitted again cannot come back."""
    subprocess.run(["scancel", job], capture_output=True, check=False)


def _job(run: Run, executor: Executor, device: str, threads: int, gpu: str | None = None) -> Job:
    return Job(run=run, folder=Path.cwd(), device=device, threads=threads, cache_gib=executor.cache_gib, gpu=gpu)


def _gpus() -> list[str]:
    """This machine's GPUs, by what CUDA_VISIBLE_DEVICES calls them."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]


# What is asked of SLURM's own programs.


def _name() -> str:
    """The name of all jobs that belong to this results folder."""
    return f"proctor-{digest(str(results.RESULTS.resolve()))[:8]}"


def _call(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def _queue(columns: str) -> dict[str, str] | None:
    """Our jobs that SLURM remembers, by id; None if it does not answer."""
    try:
        answer = _call("squeue", "--me", "-h", "-r", "-t", "all", f"--name={_name()}", "-o", columns)
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(line.split("|", 1) for line in answer.splitlines())


def max_array_size() -> int:
    """How many jobs the cluster takes in one array; by SLURM's own default if it does not say."""
    try:
        found = re.search(r"MaxArraySize\s*=\s*(\d+)", _call("scontrol", "show", "config"))
    except (OSError, subprocess.SubprocessError):
        found = None
    return int(found[1]) if found else 1000


def _recover() -> None:
    """Finish what a driver that was killed while it submitted has begun."""
    queue = _queue("%i|%T %r")
    if queue is None:
        raise OSError("squeue does not answer")
    pending = {job: reason for job, reason in queue.items() if reason.startswith("PENDING")}
    reports = (results.read_json(path) or {} for path in results.RESULTS.glob("scratch/*/status.json"))
    # SLURM may have put a job back whose run was at work, or have started it since it was asked.
    known = {report["job"] for report in reports if "job" in report and report["state"] in ("queued", "running")}
    if unknown := sorted(set(pending) - known):
        _call("scancel", *unknown)
    if held := sorted(job for job in set(pending) & known if "JobHeldUser" in pending[job]):
        _call("scontrol", "release", *held)


@contextmanager
def _outside_of_a_job() -> Iterator[None]:
    """Without the variables of a job in which this driver may itself run: sbatch would take them for its options."""
    kept = {key: os.environ.pop(key) for key in list(os.environ) if re.match(r"SLURM_(?!CONF$)|SRUN_|SBATCH_", key)}
    try:
        yield
    finally:
        os.environ.update(kept)


def _complaint(error: Exception) -> str:
    lines = str(getattr(error, "stderr", "") or error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
