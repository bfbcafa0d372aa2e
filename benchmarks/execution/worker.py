"""What a job does: fit a run's method, predict its test images, store the result."""

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
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import torch
from numpy.typing import NDArray
from pydantic_core import to_jsonable_python

import methods
from benchmarks import datasets, interference, protocols, runs, store
from benchmarks.datasets.base import Dataset
from benchmarks.params import Compute
from benchmarks.protocols import Split
from benchmarks.runs import Run
from methods.base import Context, InputError, Judge, Method, Progress, Sample


def execute(run: Run, device: str, threads: int, cache_gib: float) -> None:
    """Carry a run from its data to its stored result. What it does, and how it fails, is in its status file.

    Raises:
        store.Superseded: another process has claimed the run meanwhile.
        Exception: whatever the method raised, once it is in the status file.
    """
    if store.status(run).state is store.State.DONE:  # by a process that was held for dead
        return
    torch.set_num_threads(threads)
    claim = store.Claim(run, **_place())
    try:
        _refuse_drift(run)
        _execute(run, device, cache_gib, claim)
    except store.Superseded:
        raise
    except Exception as error:  # an interrupt is none: such a run resumes
        message = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        claim.say("failed", error=message, traceback=traceback.format_exc())
        raise


def _place() -> dict[str, Any]:
    """Where this process runs: its SLURM job, how often SLURM put that back, its node, the GPU that it was given."""
    variables = os.environ
    place: dict[str, Any] = {}
    if "SLURM_JOB_ID" in variables and variables.get("SUBMITIT_EXECUTOR") == "slurm":
        element = (
            "{SLURM_ARRAY_JOB_ID}_{SLURM_ARRAY_TASK_ID}" if "SLURM_ARRAY_JOB_ID" in variables else "{SLURM_JOB_ID}"
        )
        place = {"job": element.format_map(variables), "node": variables.get("SLURMD_NODENAME", platform.node())}
        place["restarts"] = int(variables.get("SLURM_RESTART_COUNT", 0))
    if variables.get("CUDA_VISIBLE_DEVICES"):
        place["gpu"] = variables["CUDA_VISIBLE_DEVICES"]
    return place


def _refuse_drift(run: Run) -> None:
    """What runs must be what was planned: between the two, files may have been edited."""
    if changed := runs.changed_parts(run):
        raise InputError(
            f"changed since this run was planned: {', '.join(changed)}. Start again, and it is planned as it is now."
        )


def _progress(claim: store.Claim) -> Callable[[Progress], None]:
    """Report progress with the seconds that are left of its phase, by the pace since this process began with it."""
    first: dict[str, tuple[int, float]] = {}  # by phase: what was done at its first report, and when

    def say(progress: Progress) -> None:
        done, when = first.setdefault(progress.phase, (progress.done, time.monotonic()))
        pace = (time.monotonic() - when) / (progress.done - done) if progress.done > done else None
        left = None if pace is None else round(pace * (progress.total - progress.done), 1)
        claim.say("running", **progress._asdict(), left=left)

    return say


def _execute(run: Run, device: str, cache_gib: float, claim: store.Claim) -> None:
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(
            f"torch {torch.__version__} finds no GPU on {socket.gethostname()} (CUDA_VISIBLE_DEVICES="
            f"{os.environ.get('CUDA_VISIBLE_DEVICES')!r}). Ask for one by `executor.gpus`, mend its driver, or set "
            "`executor.device: cpu`."
        )
    dataset = datasets.load(run.dataset, run.root, run.categories)
    split = next(split for split in protocols.expand(run.protocol, dataset) if split.name == run.split)
    context = Context(
        seed=run.random_seed,
        device=device,
        **Compute(**run.compute).model_dump(),
        weights={name: Path(path) for name, path in run.weights.items()},
        cache=Path(platformdirs.user_cache_dir("proctor")) / f"{run.dataset}-{dataset.revision()[:16]}",
        cache_gib=cache_gib,
        checkpoint=store.checkpoint(run),
        judge=_judge(dataset, split) if run.evaluate_every else None,
        judge_every=run.evaluate_every or 1,
        progress=_progress(claim),
    )
    method = methods.create(run.method, **run.hyper_parameters)
    train = [dataset.sample(item) for item in split.train]
    validation = [dataset.sample(item) for item in split.validation]
    test = [dataset.sample(item) for items in split.test.values() for item in items]
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)

    begun = time.perf_counter()
    try:
        method.fit(train, validation, context)
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"out of GPU memory in training: {error}. Ask for a larger GPU, or run fewer on each (`executor.jobs`). "
            "A smaller batch would be another experiment: declare it as a variant."
        ) from error
    fitted = time.perf_counter()
    scores, maps, predict_batch = _predict(run, method, test, context)
    predicted = time.perf_counter()
    claim.say("running", phase="store", done=0, total=1, terms={})

    predictions, at = {}, 0
    for category, items in split.test.items():
        until = at + len(items)
        predictions[category] = ([item.key for item in items], scores[at:until], maps[at:until])
        at = until
    context = replace(context, predict_batch=predict_batch)
    probes: dict[str, tuple[list[str], np.ndarray, np.ndarray]] = {}
    for category in split.test if run.interference else ():
        drawn = interference.probes(dataset, category, **run.interference or {})
        samples = [interference.sample(dataset, probe) for probe in drawn]
        scores, maps, _ = _predict(run, method, samples, context)
        pasted = sum(probe.kind == "cut_paste" for probe in drawn)  # these come first; of a mixture the score will do
        probes[category] = ([probe.key for probe in drawn], scores, maps[:pasted].copy())
    private = {}
    for category in split.test:
        if unlabelled := dataset.private(category):
            scores, maps, _ = _predict(run, method, [dataset.sample(item) for item in unlabelled], context)
            private[category] = ([item.key for item in unlabelled], scores, maps)
    record = {
        "hyper_parameters": to_jsonable_python(asdict(method)),
        "paper": method.paper,
        "source": method.source,
        "deviations": list(method.deviations),
        "selection": "last",
        "data": {"revision": dataset.revision(split.test), "train": len(train), "validation": len(validation)},
        "compute": run.compute,
        **({"validation_pixels": _validation_pixels(run, method, dataset, split, context)} if private else {}),
        **method.record,
        "provenance": _provenance(device)
        | {
            "job": claim.facts.get("job"),
            "attempts": claim.facts["attempts"],
            "queue_seconds": claim.facts["waited"],
            "wall_seconds": round(claim.elapsed, 3),
            "predict_batch": predict_batch,
            "fit_seconds": round(fitted - begun, 3),
            "predict_seconds": round(predicted - fitted, 3),
            "test_images_per_second": round(len(test) / (predicted - fitted), 3),
        },
    }
    store.save(run, predictions, record, {"interference": probes, "private": private})


def _judge(dataset: Dataset, split: Split) -> Judge:
    from benchmarks.scoring import evaluation  # brings pandas, scipy and scikit-learn, which few runs need

    return evaluation.judge(dataset, split)


def _validation_pixels(
    run: Run, method: Method, dataset: Dataset, split: Split, context: Context
) -> dict[str, dict[str, float]]:
    """Of all pixels of a category's validation maps: mean and standard deviation, by which thresholds are set."""
    found = {}
    for category in split.test:
        if held_out := [dataset.sample(item) for item in split.validation if item.category == category]:
            _, maps, _ = _predict(run, method, held_out, context)
            mean, std = maps.mean(dtype=np.float64), maps.std(dtype=np.float64)
            found[category] = {"images": len(held_out), "mean": float(mean), "std": float(std)}
    return found


def _predict(
    run: Run, method: Method, samples: Sequence[Sample], context: Context
) -> tuple[NDArray[np.float32], NDArray[np.float32], int]:
    """Scores (N,), anomaly maps (N, h, w), and the batch size: smaller than asked for where a GPU's memory is short.

    Raises:
        ValueError: the method broke its contract.
    """
    try:
        answers = list(method.predict(samples, context))
    except torch.OutOfMemoryError:
        context = replace(context, predict_batch=max(1, context.predict_batch // 4))
        answers = []
    if not answers:  # outside of the handler, whose traceback holds on to the tensors
        torch.cuda.empty_cache()
        answers = list(method.predict(samples, context))
    scores = np.array([answer.score for answer in answers], np.float32)
    maps = np.stack([answer.anomaly_map.numpy() for answer in answers]).astype(np.float32)
    if len(answers) != len(samples) or maps.ndim != 3 or not (np.isfinite(scores).all() and np.isfinite(maps).all()):
        raise ValueError(
            f"{run.method}.predict gave {len(answers)} predictions for {len(samples)} images, maps of shape "
            f"{maps.shape}, {(~np.isfinite(scores)).sum()} scores and {(~np.isfinite(maps)).sum()} pixels that are no "
            "finite number"
        )
    return scores, maps, context.predict_batch


def _provenance(device: str) -> dict[str, Any]:
    """Where, when and with what a run was made."""
    cuda = device.startswith("cuda")
    kibibyte = 1 if sys.platform == "darwin" else 1024
    patch = _output("git", "diff", "HEAD", "--binary")
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": _output("git", "rev-parse", "HEAD").strip() or None,
        "git_dirty": bool(patch),
        "git_patch": hashlib.sha256(patch.encode()).hexdigest() if patch else None,
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
    """What a program prints; empty if it fails or is not installed, as git may be on a node."""
    if shutil.which(command[0]) is None:
        return ""
    answer = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return answer.stdout if answer.returncode == 0 else ""
