"""What an executor must do: start runs, find out which of them are lost, and end with its driver.

An executor remembers nothing: whether a run is at work is read from its status file, and an executor is asked only
whether the job or process behind that file still exists. So any driver can take over from any other.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from benchmarks.params import Executor as Settings
from benchmarks.plan import Run
from benchmarks.status_file import Place


class LostRun(NamedTuple):
    """A run whose job or process has ended without a result."""

    reason: str
    restart: bool  # it is not the run's fault: it continues from its last checkpoint


class Executor(ABC):
    """Where runs are executed.

    A started run is a `benchmarks.execution.job.Job`, called in a process of its own. The output of a process goes to
    `scratch/FINGERPRINT/log/*_log.*`, that of a job to `scratch/EXECUTOR/JOB/*_log.*`.

    Attributes:
        name: of its file.
        poll_seconds: time from one call of `lost` to the next.
        device: torch device of the runs.
    """

    name: ClassVar[str]
    poll_seconds: ClassVar[float] = 0.5
    device: str

    def __init_subclass__(cls) -> None:
        cls.name = cls.__module__.rpartition(".")[2]

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @abstractmethod
    def start(self, waiting: Sequence[Run], at_work: Sequence[Run]) -> list[Run]:
        """Start as many of the waiting runs as may be queued or running now; called again and again.

        Each needs a status file that names its process or job before this returns, or another driver would start it
        once more.

        Returns:
            Those that were started.

        Raises:
            InputError: they cannot be started.
        """

    @classmethod
    @abstractmethod
    def lost(cls, at_work: Sequence[Run]) -> dict[str, LostRun]:
        """By fingerprint, those runs of this executor whose job or process seems to be gone.

        A result may become visible just after its job has ended, so the driver believes it only the second time.
        """

    @abstractmethod
    def interrupt(self) -> str:
        """Do what Ctrl-C asks for, and return a message that says what becomes of the runs."""

    @classmethod
    def cancel(cls, job: str) -> None:
        """Make sure that the job of a lost run does not come back. An executor whose runs are no jobs needs none."""
        raise NotImplementedError

    @classmethod
    def place(cls) -> Place:
        """Where a run is executed; called in its process."""
        return Place(executor=cls.name, gpu=os.environ.get("CUDA_VISIBLE_DEVICES") or None)

    def forecast(self, pending: Sequence[Run]) -> str:
        """How these runs would be submitted, in a sentence; empty where there is nothing to say."""
        return ""
