"""The one function that is submitted: fit a run's method, predict its test images, store the result."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
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
from benchmarks import datasets, interference, protocols, store, trajectory
from benchmarks.params import Compute
from benchmarks.runs import Run
from methods.base import Context, InputError, Method, Progress, Sample


def execute(run: Run, device: str, threads: int, cache_gib: float) -> None:
    """Carry a run from its data to its stored result. What it does, and how it fails, is in its status file.

    Raises:
        Exception: whatever the method raised, once it is in the status file.
    """
    torch.set_num_threads(threads)
    started = time.time()

    def say(progress: Progress) -> None:
        store.report(run, "running", started=started, **progress._asdict())

    try:
        say(Progress("fit", 0, 1))
        _execute(run, device, cache_gib, say)
    except Exception as error:  # an interrupt is none: such a run resumes
        message = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        store.report(run, "failed", started=started, error=message, traceback=traceback.format_exc())
        raise


def _execute(run: Run, device: str, cache_gib: float, say: Any) -> None:
    dataset = datasets.load(run.dataset, run.root, run.categories)
    split = next(split for split in protocols.expand(run.protocol, dataset) if split.name == run.split)
    context = Context(
        seed=run.random_seed,
        device=device,
        **Compute(**run.compute).model_dump(),
        weights={name: Path(path) for name, path in run.weights.items()},
        cache=Path(platformdirs.user_cache_dir("proctor")) / f"{run.dataset}-{dataset.revision()[:16]}",
        cache_gib=cache_gib,
        checkpoint=store.scratch_dir(run) / "checkpoint.pt",
        judge=trajectory.judge(dataset, split) if run.evaluate_every else None,
        judge_every=run.evaluate_every or 1,
        progress=say,
    )
    method = methods.create(run.method, **run.hyper_parameters)
    train = [dataset.sample(item) for item in split.train]
    validation = [dataset.sample(item) for item in split.validation]
    test = [dataset.sample(item) for items in split.test.values() for item in items]
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)

    begun = time.perf_counter()
    method.fit(train, validation, context)
    fitted = time.perf_counter()
    scores, maps = _predict(run, method, test, context)
    predicted = time.perf_counter()

    predictions, at = {}, 0
    for category, items in split.test.items():
        until = at + len(items)
        predictions[category] = ([item.key for item in items], scores[at:until], maps[at:until])
        at = until
    probes: dict[str, tuple[list[str], np.ndarray, np.ndarray]] = {}
    for category in split.test if run.interference else ():
        drawn = interference.probes(dataset, category, **run.interference or {})
        scores, maps = _predict(run, method, [interference.sample(dataset, probe) for probe in drawn], context)
        pasted = sum(probe.kind == "cut_paste" for probe in drawn)  # these come first; of a mixture the score will do
        probes[category] = ([probe.key for probe in drawn], scores, maps[:pasted].copy())
    record = {
        "hyper_parameters": to_jsonable_python(asdict(method)),
        "paper": method.paper,
        "source": method.source,
        "deviations": list(method.deviations),
        "selection": "last",
        "data": {"revision": dataset.revision(split.test), "train": len(train), "validation": len(validation)},
        "compute": run.compute,
        **method.record,
        "provenance": _provenance(device)
        | {
            "fit_seconds": round(fitted - begun, 3),
            "predict_seconds": round(predicted - fitted, 3),
            "test_images_per_second": round(len(test) / (predicted - fitted), 3),
        },
    }
    store.save(run, predictions, record, probes)


def _predict(
    run: Run, method: Method, samples: Sequence[Sample], context: Context
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scores (N,) and anomaly maps (N, h, w).

    Raises:
        ValueError: the method broke its contract.
    """
    answers = list(method.predict(samples, context))
    scores = np.array([answer.score for answer in answers], np.float32)
    maps = np.stack([answer.anomaly_map.numpy() for answer in answers]).astype(np.float32)
    if len(answers) != len(samples) or maps.ndim != 3 or not (np.isfinite(scores).all() and np.isfinite(maps).all()):
        raise ValueError(
            f"{run.method}.predict gave {len(answers)} predictions for {len(samples)} images, maps of shape "
            f"{maps.shape}, {(~np.isfinite(scores)).sum()} scores and {(~np.isfinite(maps)).sum()} pixels that are no "
            "finite number"
        )
    return scores, maps


def _provenance(device: str) -> dict[str, Any]:
    """Where, when and with what a run was made."""

    def git(*arguments: str) -> str:
        answer = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
        return answer.stdout.strip() if answer.returncode == 0 else ""

    cuda = device.startswith("cuda")
    kibibyte = 1 if sys.platform == "darwin" else 1024
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git("rev-parse", "HEAD") or None,
        "git_dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        "host": platform.node(),
        "device": torch.cuda.get_device_name(device) if cuda else f"{platform.machine()} CPU, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("proctor", "torch", "torchvision", "timm", "numpy", "scikit-learn")},
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kibibyte,
        "peak_device_memory_bytes": torch.cuda.max_memory_allocated(device) if cuda else None,
    }
