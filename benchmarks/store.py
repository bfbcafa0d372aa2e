"""Where results lie, and what state a run is in: read from the disk, never remembered.

A run at work owns `results/scratch/FINGERPRINT/` and writes its record there last; whole and finished, the folder's
`result` is moved to `results/predictions/GROUP/SPLIT-seedK/`.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import psutil

from benchmarks.runs import Run

# By category: the images' keys (N,), their scores (N,) and the anomaly maps (N, h, w); of probes, of the first M only.
Predictions: TypeAlias = Mapping[str, tuple[Sequence[str], np.ndarray, np.ndarray]]

RESULTS = Path("results")
SCHEMA = 1


class Busy(RuntimeError):
    """Another driver is launching runs in this folder."""


class State(StrEnum):
    DONE = "done"
    MISSING = "missing"
    STALE = "stale"
    RUNNING = "running"
    FAILED = "failed"
    UNSUPPORTED = "unsupported"


class Status(NamedTuple):
    """The state of a run and the reason for it, in words."""

    state: State
    reason: str = ""


def group_dir(group: str) -> Path:
    return RESULTS / "predictions" / group


def result_dir(run: Run) -> Path:
    return RESULTS / "predictions" / run.name


def scratch_dir(run: Run) -> Path:
    return RESULTS / "scratch" / run.fingerprint


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole: a reader sees the old content or the new, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file, or None if it is absent or no JSON."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def save(run: Run, predictions: Predictions, record: Mapping[str, Any], probes: Predictions | None = None) -> None:
    """Store a finished run in its scratch folder, the record last.

    Args:
        predictions: of the test images.
        record: what else `record.json` must say; see results/README.md.
        probes: of the probes of cross-class interference, if the run makes any.
    """
    partial = scratch_dir(run) / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    _write(partial, predictions)
    if probes:
        _write(partial / "interference", probes)
        listed = {category: {"keys": list(keys), "maps": len(maps)} for category, (keys, _, maps) in probes.items()}
        record = {**record, "interference": listed}
    write_json(
        partial / "record.json",
        {
            "schema": SCHEMA,
            **{k: getattr(run, k) for k in ("variant", "method", "dataset", "protocol", "split", "seed")},
            "fingerprint": run.fingerprint,
            "fingerprint_parts": run.fingerprint_parts,
            "categories": {category: {"keys": list(keys)} for category, (keys, _, _) in predictions.items()},
            **record,
        },
    )
    shutil.rmtree(scratch_dir(run) / "result", ignore_errors=True)
    partial.replace(scratch_dir(run) / "result")


def _write(folder: Path, predictions: Predictions) -> None:
    folder.mkdir(parents=True)
    for category, (_, scores, maps) in predictions.items():
        np.save(folder / f"{category}.scores.npy", np.asarray(scores, np.float32))
        np.save(folder / f"{category}.maps.npy", np.asarray(maps, np.float32))


def collect(run: Run) -> None:
    """Move a finished run from its scratch folder to where it belongs, over an older one; nothing if it is there."""
    finished, target = scratch_dir(run) / "result", result_dir(run)
    if not finished.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(finished, target)
    shutil.rmtree(scratch_dir(run))


def load(folder: Path) -> tuple[dict[str, Any], dict[str, tuple[list[str], np.ndarray, np.ndarray]]]:
    """The record of a stored run and, by category, its keys, scores (N,) and maps (N, h, w; memory-mapped).

    Raises:
        ValueError: a file is missing, cut short, or does not fit the record; the message names it.
    """
    record = read_json(folder / "record.json")
    if record is None or record.get("schema") != SCHEMA:
        raise ValueError(f"{folder}/record.json is missing, damaged or not of schema {SCHEMA}")
    return record, _read(folder, record["categories"])


def load_probes(folder: Path) -> dict[str, tuple[list[str], np.ndarray, np.ndarray]]:
    """The probes of a stored run as `load` gives its test images, but with maps of the first M only; empty if none.

    Raises:
        ValueError: as `load`.
    """
    return _read(folder / "interference", (read_json(folder / "record.json") or {}).get("interference", {}))


def _read(folder: Path, listed: Mapping[str, Any]) -> dict[str, tuple[list[str], np.ndarray, np.ndarray]]:
    predictions = {}
    for category, entry in listed.items():
        keys, arrays = entry["keys"], []
        for kind, count in (("scores", len(keys)), ("maps", entry.get("maps", len(keys)))):
            path = folder / f"{category}.{kind}.npy"
            try:
                arrays.append(np.load(path, mmap_mode="r"))
            except (OSError, ValueError, EOFError) as error:
                raise ValueError(f"{path} is missing or damaged: {error}") from None
            if len(arrays[-1]) != count:
                raise ValueError(f"{path} holds {len(arrays[-1])} images, the record names {count}")
        predictions[category] = (keys, arrays[0], arrays[1])
    return predictions


def status(run: Run) -> Status:
    """The state of a run, from the disk alone."""
    for folder in (scratch_dir(run) / "result", result_dir(run)):
        record = read_json(folder / "record.json")
        if record is not None and record.get("fingerprint") == run.fingerprint:
            try:
                load(folder)
                load_probes(folder)
            except ValueError as error:
                return Status(State.STALE, str(error))
            return Status(State.DONE)
    report = read_json(scratch_dir(run) / "status.json")
    if report is not None and report["state"] == "failed":
        return Status(State.FAILED, report["error"])
    if report is not None:
        if alive(report):
            return Status(State.RUNNING, f"process {report['pid']} on {report['host']}")
        return Status(State.MISSING, "its process ended without a result; it resumes from its last checkpoint")
    record = read_json(result_dir(run) / "record.json")
    if record is None:
        return Status(State.MISSING)
    before = record.get("fingerprint_parts", {})
    changed = [part for part, value in run.fingerprint_parts.items() if before.get(part) != value]
    return Status(State.STALE, "changed: " + ", ".join(changed))


def failed_at(run: Run) -> float:
    """When a failed run failed, in seconds since the epoch."""
    return (scratch_dir(run) / "status.json").stat().st_mtime


def alive(report: Mapping[str, Any]) -> bool:
    """Whether the process that wrote a status still exists; if on another host, whether it wrote lately."""
    if report["host"] != socket.gethostname():
        return time.time() - report["updated"] < 300
    try:
        return abs(psutil.Process(report["pid"]).create_time() - report["process_started"]) < 1
    except psutil.NoSuchProcess:
        return False


def report(run: Run, state: str, pid: int | None = None, **more: Any) -> None:
    """Write what a run is doing, for `proctor status` and other drivers; `pid` is the run's process, or this one."""
    process = psutil.Process(pid)
    write_json(
        scratch_dir(run) / "status.json",
        {
            "run": run.name,
            "state": state,
            "host": socket.gethostname(),
            "pid": process.pid,
            "process_started": process.create_time(),
            "updated": time.time(),
            **more,
        },
    )
