"""Job arrays of a SLURM cluster, submitted by submitit. It needs no accounting (`sacct`).

An array is submitted in three steps, so that a driver may be killed between any two of them and no run is lost or
submitted twice: as a held job; then each run's status file names its job; then the job is released. The next driver
cancels held jobs that no status file names, and releases those that one names.
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

import submitit
from submitit.core.utils import FailedJobError
from submitit.slurm.slurm import SlurmJobEnvironment

from benchmarks import results, status
from benchmarks.execution.executors.base import Executor, LostRun
from benchmarks.execution.job import Job
from benchmarks.params import Executor as Settings
from benchmarks.plan import Run, digest
from benchmarks.status import State
from benchmarks.status_file import Place, StatusReport, read_report, read_reports, report_job
from benchmarks.storage import disk
from methods.base import InputError

THREADS = 4  # of a run, unless params.yaml gives a number
RETRY_SECONDS = 60  # before runs that the cluster did not accept are submitted again
SIGNAL_SECONDS = 60  # from SLURM's signal to the end of a job's time
# States in which a job has ended (https://slurm.schedmd.com/squeue.html, "job state codes"), and whether its run is to
# be submitted again: where the cluster ended the job, but not where the run is to blame or a person wanted it.
END_STATES = {
    "BOOT_FAIL": True, "NODE_FAIL": True, "PREEMPTED": True, "REVOKED": True, "TIMEOUT": True, "LAUNCH_FAILED": True,
    "CANCELLED": False, "COMPLETED": False, "DEADLINE": False, "FAILED": False, "OUT_OF_MEMORY": False,
}  # fmt: skip
CURES = {"OUT_OF_MEMORY": "ask for more by `executor.memory_gib`", "CANCELLED": "by scancel"}
# Reasons for which a job would be pending for ever. (A held job is accepted without a look at what it asks for.)
NEVER_STARTS = (
    "AccountNotAllowed",
    "BadConstraints",
    "InvalidAccount",
    "InvalidQOS",
    "PartitionTimeLimit",
    "QOSNotAllowed",
)


class Slurm(Executor):
    """All waiting runs are submitted at once; how many are at work is for the cluster and `executor.jobs` to decide."""

    poll_seconds = 10  # squeue is asked for all runs together

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.device = _device(settings)
        self.recovered, self.next_attempt = False, 0.0

    def start(self, waiting: Sequence[Run], at_work: Sequence[Run]) -> list[Run]:
        """Submit the waiting runs.

        Returns:
            Those that the cluster has accepted: all, unless it reached a limit on jobs while others are at work.
        """
        if time.monotonic() < self.next_attempt:
            return []
        accepted: list[Run] = []
        try:
            if not self.recovered:
                _recover()
                self.recovered = True
            for array in arrays(waiting, self.settings) if waiting else ():
                self._submit(array, len(waiting))
                accepted += array
        except (OSError, subprocess.SubprocessError, FailedJobError) as error:
            # A limit on jobs, or a controller that restarts: later, unless nothing is at work that could end first.
            self.recovered, self.next_attempt = False, time.monotonic() + RETRY_SECONDS
            if not at_work and all(status.read_status(run).state is not State.QUEUED for run in waiting):
                raise InputError(
                    f"SLURM rejected the jobs: {_last_line(error)}. Correct `executor` in params.yaml, or start "
                    "again when the cluster answers."
                ) from error
        # The runs of an array that could not be released are queued nevertheless.
        return [run for run in waiting if run in accepted or status.read_status(run).state is State.QUEUED]

    def _submit(self, runs: Sequence[Run], total: int) -> None:
        """Submit runs that ask for the same resources as one array; `total` runs share the limit on jobs."""
        settings = self.settings.for_group(runs[0].group)
        limit = max(1, round(settings.jobs * len(runs) / total)) if settings.jobs else len(runs)
        device, threads = _device(settings), settings.threads or THREADS
        jobs = [
            Job(
                run=run,
                executor=self.name,
                device=device,
                threads=threads,
                cache_gib=settings.cache_gib,
                logger=settings.logger,
            )
            for run in runs
        ]
        with disk.explained(results.RESULTS / "scratch"):
            with _without_job_variables():
                submitted = _submitter(settings, threads, limit).submit_array(jobs)
            for run, job in zip(runs, submitted, strict=True):
                report_job(run, "queued", job.job_id, self.name)
        _call("scontrol", "release", submitted[0].job_id.partition("_")[0])

    @classmethod
    def lost(cls, at_work: Sequence[Run]) -> dict[str, LostRun]:
        reports = [(run, report) for run in at_work if (report := read_report(run))]
        reports = [(run, report) for run, report in reports if report.state in ("queued", "running")]
        jobs = _queue() if reports else {}
        if jobs is None:  # SLURM does not answer, so nothing is known of any job
            return {}
        return {run.fingerprint: lost for run, report in reports if (lost := _lost(run, report, jobs))}

    def interrupt(self) -> str:
        end = f"`scancel --name={_job_name()}`"
        return f"Stopped. The jobs continue: the same command attaches to them, and {end} ends them."

    @classmethod
    def cancel(cls, job: str) -> None:
        subprocess.run(["scancel", job], capture_output=True, check=False)

    @classmethod
    def place(cls) -> Place:
        return (
            super()
            .place()
            ._replace(
                job=SlurmJobEnvironment().job_id,
                # Not the host's name, which several nodes may share.
                node=os.environ.get("SLURMD_NODENAME", SlurmJobEnvironment().hostname),
                restarts=int(os.environ.get("SLURM_RESTART_COUNT", 0)),
            )
        )

    def forecast(self, pending: Sequence[Run]) -> str:
        sizes = [str(len(array)) for array in arrays(pending, self.settings)]
        return f"SLURM: {len(sizes)} job arrays of {', '.join(sizes)} jobs."


def arrays(runs: Sequence[Run], settings: Settings) -> list[list[Run]]:
    """Runs as job arrays: those that ask for the same resources together, at most MaxArraySize in each."""

    def resources(run: Run) -> str:
        return settings.for_group(run.group).model_dump_json()

    size = max_array_size()
    alike = [list(group) for _, group in groupby(sorted(runs, key=resources), resources)]
    return [group[start : start + size] for group in alike for start in range(0, len(group), size)]


def _device(settings: Settings) -> str:
    """The torch device of its runs. A login node, where this is asked, needs no GPU."""
    if settings.device != "auto":
        return settings.device
    return "cuda" if settings.gpus else "cpu"


def _submitter(settings: Settings, threads: int, limit: int) -> submitit.SlurmExecutor:
    submitter = submitit.SlurmExecutor(
        folder=results.RESULTS / "scratch" / "slurm" / "%j",
        max_num_timeout=1000,  # a run may need many jobs; `Job.checkpoint` ends one that makes no progress
        # A signal that comes before submitit can handle it would end the job: there is nothing to save yet.
        python=f"""sh -c 'trap "" USR2; exec "$0" "$@"' {settings.slurm_python or shlex.quote(sys.executable)}""",
    )
    memory = {} if settings.memory_gib is None else {"mem": f"{round(settings.memory_gib * 1024)}M"}
    submitter.update_parameters(
        job_name=_job_name(),
        partition=settings.partition,
        account=settings.account,
        time=settings.minutes,
        cpus_per_task=threads,
        srun_args=[f"--cpus-per-task={threads}"],  # since 22.05 srun does not take it from the job
        gpus_per_node=settings.gpus or None,
        array_parallelism=limit,
        signal_delay_s=SIGNAL_SECONDS,
        setup=settings.slurm_setup,
        wckey=None,
        additional_parameters={**settings.slurm_additional, "hold": True, "requeue": True},
        **memory,
    )
    return submitter


@contextmanager
def _without_job_variables() -> Iterator[None]:
    """Without the variables of a job in which this driver may itself run: sbatch would take them for its options."""
    kept = {key: os.environ.pop(key) for key in list(os.environ) if re.match(r"SLURM_(?!CONF$)|SRUN_|SBATCH_", key)}
    try:
        yield
    finally:
        os.environ.update(kept)


def _lost(run: Run, report: StatusReport, jobs: dict[str, str]) -> LostRun | None:
    """Whether and why a run that is reported as queued or running has lost its job, by SLURM's list of jobs."""
    state, _, reason = jobs.get(report.job or "", "").partition(" ")
    if "requeued held" in reason:  # until somebody acts
        return LostRun(_end_message(run, report, reason), restart=True)
    if state == "PENDING" and reason in NEVER_STARTS:
        message = f"job {report.job} can never start: {reason}. Correct `executor` in params.yaml"
        return LostRun(message, restart=False)
    if state and state not in END_STATES:
        return None
    restart = END_STATES.get(state, True) or (state == "FAILED" and _failed_in_requeue(report))
    return LostRun(_end_message(run, report, state or "no longer known to SLURM"), restart)


def _failed_in_requeue(report: StatusReport) -> bool:
    """Whether a failed job failed to put itself back into the queue when SLURM announced its end, or to start again.

    The latter has happened where SLURM has restarted the job more often than the run's process has seen.
    """
    if report.state == "queued":
        return report.attempts > 0
    try:
        restarts = re.search(r"Restarts=(\d+)", _call("scontrol", "show", "job", report.job or ""))
    except (OSError, subprocess.SubprocessError):
        return False
    return restarts is not None and int(restarts[1]) > report.restarts


def _end_message(run: Run, report: StatusReport, state: str) -> str:
    message = f"job {report.job} ended without a result (state: {state})"
    if report.state == "queued" and not report.attempts:
        message += (
            f", before it had written to {results.scratch_dir(run).absolute()}: do the nodes see this folder, and "
            "does `executor.slurm_python` start?"
        )
    return f"{message}; {CURES[state]}" if state in CURES else message


def _recover() -> None:
    """Complete a submission during which an earlier driver was killed."""
    queue = _queue()
    if queue is None:
        raise OSError("squeue does not respond")
    pending = {job: reason for job, reason in queue.items() if reason.startswith("PENDING")}
    # SLURM may have put a job back whose run is reported as running, or have started one since it was asked.
    named = {report.job for report in read_reports() if report.state in ("queued", "running")}
    if unnamed := sorted(set(pending) - named):
        _call("scancel", *unnamed)
    if held := sorted(job for job in set(pending) & named if "JobHeldUser" in pending[job]):
        _call("scontrol", "release", *held)


def max_array_size() -> int:
    """How many jobs the cluster accepts in one array; SLURM's own default if it does not answer."""
    try:
        match = re.search(r"MaxArraySize\s*=\s*(\d+)", _call("scontrol", "show", "config"))
    except (OSError, subprocess.SubprocessError):
        match = None
    return int(match[1]) if match else 1000


def _job_name() -> str:
    """The name of all jobs that belong to this results folder."""
    return f"proctor-{digest(str(results.RESULTS.resolve()))[:8]}"


def _queue() -> dict[str, str] | None:
    """State and reason of each of our jobs that SLURM remembers, by its id; None if SLURM does not answer."""
    try:
        answer = _call("squeue", "--me", "-h", "-r", "-t", "all", f"--name={_job_name()}", "-o", "%i|%T %r")
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(line.split("|", 1) for line in answer.splitlines())


def _call(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def _last_line(error: Exception) -> str:
    lines = str(getattr(error, "stderr", "") or error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
