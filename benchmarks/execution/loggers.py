"""Loggers: the loss terms of a run at work, for programs that show experiments. They are part of no result.

Where these programs store what they get is theirs to decide, by their environment variables (`MLFLOW_TRACKING_URI`,
`WANDB_PROJECT`, `WANDB_MODE`, …); TensorBoard's files are under `results/logs/`.
"""

from __future__ import annotations

import importlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

from benchmarks import results
from benchmarks.params import LoggerName
from benchmarks.plan import Run
from methods.base import InputError, Progress

logger = logging.getLogger(__name__)


class Logger(ABC):
    """The log of one run. A process that resumes the run continues it.

    Args:
        module: the program's, imported.
        run: whose log it is.
    """

    module: ClassVar[str]  # what is imported

    @abstractmethod
    def __init__(self, module: Any, run: Run) -> None: ...

    @abstractmethod
    def log(self, values: Mapping[str, float], step: int) -> None:
        """Add values by name; `step` is the number of epochs done."""

    @abstractmethod
    def close(self, failed: bool) -> None:
        """Write what is not written yet."""


class TensorBoard(Logger):
    module = "torch.utils.tensorboard"

    def __init__(self, module: Any, run: Run) -> None:
        self.writer = module.SummaryWriter(str(results.RESULTS / "logs" / run.name))

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self, failed: bool) -> None:
        self.writer.close()


class MLflow(Logger):
    module = "mlflow"

    def __init__(self, module: Any, run: Run) -> None:
        self.mlflow = module
        earlier = module.search_runs(filter_string=f"tags.fingerprint = '{run.fingerprint}'", output_format="list")
        if earlier:
            module.start_run(run_id=earlier[0].info.run_id)
        else:
            module.start_run(run_name=run.name, tags={"fingerprint": run.fingerprint})
            module.log_params(_description(run))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.mlflow.log_metrics(dict(values), step=step)

    def close(self, failed: bool) -> None:
        self.mlflow.end_run("FAILED" if failed else "FINISHED")


class WandB(Logger):
    module = "wandb"

    def __init__(self, module: Any, run: Run) -> None:
        self.run = module.init(id=run.fingerprint, name=run.name, config=_description(run), resume="allow")

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


LOGGERS: dict[LoggerName, type[Logger]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}


@contextmanager
def logging_to(name: LoggerName | None, run: Run) -> Iterator[Callable[[Progress], None]]:
    """Log a run for the time of the block; None: nowhere.

    Yields:
        What logs the terms of a progress report, if it has any, as PHASE/TERM. A logger that fails, such as one whose
        server does not answer, is left alone from then on: the run goes on without it.

    Raises:
        InputError: the logger's package is not installed.
    """
    if name is None:
        yield lambda _: None
        return
    module = find(name)
    opened: list[Logger] = []  # none once it has failed

    def attempt(step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:
            logger.warning("%s fails: the run is no longer logged there.", name, exc_info=True)
            opened.clear()

    def report(progress: Progress) -> None:
        values = {f"{progress.phase}/{term}": value for term, value in progress.terms.items()}
        for log in list(opened) if values else ():
            attempt(partial(log.log, values, progress.done))

    attempt(lambda: opened.append(LOGGERS[name](module, run)))
    failed = True
    try:
        yield report
        failed = False
    finally:
        for log in list(opened):
            attempt(partial(log.close, failed))


def find(name: LoggerName) -> Any:
    """The module of a logger's program.

    Raises:
        InputError: its package is not installed; names the extra that installs it.
    """
    try:
        return importlib.import_module(LOGGERS[name].module)
    except ImportError as error:
        raise InputError(
            f"`executor.logger: {name}` needs a package that is not installed ({error}). Install the extra, "
            f"`pip install 'proctor[{name}]'` (in the checkout `pip install -e '.[{name}]'`), or remove the entry."
        ) from None


def _description(run: Run) -> dict[str, Any]:
    about = {name: getattr(run, name) for name in ("variant", "method", "dataset", "protocol", "split", "seed")}
    return about | dict(run.hyper_parameters)
