"""What a process does: execute a run, and report its progress in the status file."""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import platformdirs
import torch

from benchmarks import datasets, fingerprint, imports, protocols, results, status
from benchmarks.datasets.base import Dataset
from benchmarks.execution import loggers
from benchmarks.execution.fit_predict import Model, ProbeImages, fit_and_predict
from benchmarks.params import LoggerName
from benchmarks.plan import Run
from benchmarks.protocols.base import Split
from benchmarks.schema import IMPORTED
from benchmarks.status_file import Claim, Place, Superseded
from benchmarks.storage import disk, model_files
from methods.base import InputError, Progress, TestEvaluation


def execute(
    run: Run, device: str, threads: int, cache_gib: float, place: Place | None = None, logger: LoggerName | None = None
) -> None:
    """Execute a run, from its data to its stored result. Its progress, and why it failed, are in its status file.

    Args:
        cache_gib: memory for teacher features.
        place: where this process runs, for the status file.
        logger: which program gets the loss terms, beside the status file; None: none.

    Raises:
        Superseded: another process has claimed the run meanwhile.
        Exception: whatever the method raised, once it is in the status file.
    """
    if status.read_status(run).state is status.State.DONE:  # by a process that was considered dead
        return
    torch.set_num_threads(threads)
    claim = Claim(run, place)
    try:
        _refuse_changes(run)
        with disk.explained(results.scratch_dir(run)), loggers.logging_to(logger, run) as log:
            _execute(run, device, cache_gib, claim, log)
    except Superseded:
        raise
    except Exception as error:  # not an interrupt: such a run resumes
        explained = isinstance(error, InputError)
        message = str(error) if explained else f"{type(error).__name__}: {error}"
        claim.report("failed", error=message, explained=explained)
        raise


def _refuse_changes(run: Run) -> None:
    """What is executed must be what was planned: between the two, files may have been edited."""
    if changed := fingerprint.changed_parts(run):
        raise InputError(
            f"changed since this run was planned: {', '.join(changed)}. `dvc repro` plans and runs it as it is now."
        )


def _progress(claim: Claim, log: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """Report progress with the remaining seconds of its phase, by the pace since this process entered the phase."""
    first: dict[str, tuple[int, float]] = {}  # by phase: what was done at its first report, and when

    def report(progress: Progress) -> None:
        done, when = first.setdefault(progress.phase, (progress.done, time.monotonic()))
        pace = (time.monotonic() - when) / (progress.done - done) if progress.done > done else None
        remaining = None if pace is None else round(pace * (progress.total - progress.done), 1)
        claim.report("running", **progress._asdict(), remaining=remaining)
        log(progress)

    return report


def _execute(run: Run, device: str, cache_gib: float, claim: Claim, log: Callable[[Progress], None]) -> None:
    dataset = datasets.load(run.dataset, run.root, run.categories)
    split = next(s for s in protocols.splits(run.protocol, dataset, run.seed) if s.name == run.split)
    if run.method == IMPORTED:
        predictions, record = imports.outcome(run, dataset, split)
        # Device and versions of here say nothing of how the maps were made.
        results.save(run, predictions, record | {"provenance": _origin() | _attempts(claim)})
        return
    if device.startswith("cuda"):
        _require_gpu()
        torch.cuda.reset_peak_memory_stats(device)
    outcome = fit_and_predict(
        run,
        dataset,
        split,
        device=device,
        cache=Path(platformdirs.user_cache_dir("proctor")) / f"{run.dataset}-{dataset.revision()[:16]}",
        cache_gib=cache_gib,
        checkpoint=results.checkpoint(run),
        progress=_progress(claim, log),
        evaluate_test=_test_evaluation(dataset, split) if run.evaluate_every else None,
        probes=_probes(run, dataset, split) if run.interference else {},
    )
    claim.report("running", phase="store", done=0, total=1)
    provenance = _origin() | _environment(device) | _attempts(claim) | outcome.timing
    record = outcome.record | {"provenance": provenance}
    write_model = partial(_write_model, run, record, outcome.model) if outcome.model else None
    results.save(run, outcome.predictions, record, outcome.parts, write_model)


def _attempts(claim: Claim) -> dict[str, Any]:
    return {
        "job": claim.place.job,
        "attempts": claim.attempts,
        "queue_seconds": claim.queue_seconds,
        "wall_seconds": round(claim.elapsed, 3),
    }


def _write_model(run: Run, record: Mapping[str, Any], model: Model, path: Path) -> None:
    about = model_files.About.model_validate(
        run.model_dump(include={"variant", "method", "dataset", "protocol", "split", "seed", "compute"})
        | {"fingerprint": run.fingerprint, "hyper_parameters": record["hyper_parameters"]}
        | {"teacher": record.get("teacher"), "image_size": record.get("image_size"), "normal_from": model.normal_from}
    )
    normal = {category: torch.from_numpy(array) for category, array in model.normal.items()}
    model_files.write(path, about, model.state, normal)


def _test_evaluation(dataset: Dataset, split: Split) -> TestEvaluation:
    from benchmarks.scoring import evaluation  # imports scipy and pandas, which few runs need

    return evaluation.test_evaluation(dataset, split)


def _probes(run: Run, dataset: Dataset, split: Split) -> dict[str, ProbeImages]:
    """The probes of cross-class interference; those with a pasted patch come first, and only they need their maps."""
    from benchmarks import interference

    images = {}
    for category in split.test:
        drawn = interference.probes(dataset, category, **run.interference or {})
        samples = [interference.sample(dataset, probe) for probe in drawn]
        pasted = sum(probe.kind == "cut_paste" for probe in drawn)
        images[category] = ProbeImages([probe.key for probe in drawn], samples, pasted)
    return images


def _require_gpu() -> None:
    if not torch.cuda.is_available():
        raise InputError(
            f"torch {torch.__version__} finds no GPU on {socket.gethostname()} (CUDA_VISIBLE_DEVICES="
            f"{os.environ.get('CUDA_VISIBLE_DEVICES')!r}). Ask for one by `executor.gpus`, repair its driver, or set "
            "`executor.device: cpu`."
        )


def _origin() -> dict[str, Any]:
    """When a run was stored, and by which code."""
    patch = _output("git", "diff", "HEAD", "--binary")
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": _output("git", "rev-parse", "HEAD").strip() or None,
        "git_dirty": bool(patch),
        "git_patch": hashlib.sha256(patch.encode()).hexdigest() if patch else None,
    }


def _environment(device: str) -> dict[str, Any]:
    """Where and with what a run was made."""
    cuda = device.startswith("cuda")
    kibibyte = 1 if sys.platform == "darwin" else 1024
    return {
        "host": platform.node(),
        "device": torch.cuda.get_device_name(device) if cuda else f"{platform.machine()} CPU, {os.cpu_count()} cores",
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split("\n")[0] or None,
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(), "system": platform.platform(),
            "cuda": torch.version.cuda if cuda else None, "cudnn": torch.backends.cudnn.version() if cuda else None,
            **{name: version(name) for name in ("proctor", "torch", "torchvision", "timm", "numpy", "scikit-learn")},
        },
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kibibyte,
        "peak_device_memory_bytes": torch.cuda.max_memory_allocated(device) if cuda else None,
    }  # fmt: skip


def _output(*command: str) -> str:
    """What a program prints; empty if it fails or is not installed, as git may not be on a node."""
    if shutil.which(command[0]) is None:
        return ""
    answer = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return answer.stdout if answer.returncode == 0 else ""
