"""What the pipeline costs beside the runs themselves: `make bench-launch`.

Runs that only pause are executed in a copy of the project, eight at a time, on this machine and, where `squeue` is, on
SLURM. The same number of bare jobs, which start Python, import torch and pause, is what they are compared with.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NamedTuple

import psutil
import typer
import yaml

from benchmarks.datasets import toy
from benchmarks.execution.executors.slurm import max_array_size

ROOT = Path(__file__).parents[2]
SLOTS = 8
VARIANTS, CATEGORIES = 5, 3
METHOD = '''
"""Pauses, then says that every image is normal."""
import time
from dataclasses import dataclass
import torch
from methods.base import Method, Prediction

@dataclass(kw_only=True, eq=False)
class Pause(Method):
    paper = source = "none"
    seconds: float = 5.0
    number: int = 0

    def fit(self, train, validation, context):
        time.sleep(self.seconds)
        return self

    def predict(self, test, context):
        for sample in test:
            yield Prediction(0.0, torch.zeros(8, 8))
'''


class Cost(NamedTuple):
    """One row of the table; seconds."""

    executor: str
    runs: int
    pauses: float  # alone, eight at a time
    bare: float
    pipeline: float  # `proctor run`, from its start to the last result
    driver: float  # CPU seconds of `proctor run` itself, for each run
    repro: float  # `dvc repro` when all is done


def main(
    runs: Annotated[list[int] | None, typer.Option(help="How many runs; may be repeated.")] = None,
    seconds: Annotated[float, typer.Option(help="How long each pauses.")] = 5.0,
    executor: Annotated[list[str] | None, typer.Option(help="local or slurm; may be repeated.")] = None,
) -> None:
    """Print the table, in Markdown."""
    names = executor or ["local"] + ["slurm"] * (shutil.which("squeue") is not None)
    print("| executor | runs | pauses | bare jobs | pipeline | over bare | driver, CPU a run | `dvc repro`, all done |")
    print("|---|---|---|---|---|---|---|---|")
    for name in names:
        for count in runs or [60, 300]:
            with tempfile.TemporaryDirectory(prefix="proctor-bench-") as folder:
                cost = measure(Path(folder), name, count, seconds)
            print(
                f"| {cost.executor} | {cost.runs} | {cost.pauses:.1f} s | {cost.bare:.1f} s | {cost.pipeline:.1f} s "
                f"| {cost.pipeline / cost.bare - 1:+.0%} | {1000 * cost.driver:.0f} ms | {cost.repro:.1f} s |",
                flush=True,
            )


def measure(folder: Path, executor: str, runs: int, seconds: float) -> Cost:
    """Execute so many pausing runs, and as many bare jobs, in a copy of the project."""
    seeds = runs // (VARIANTS * CATEGORIES)
    _copy(folder, executor, seeds, seconds)
    os.environ["PYTHONPATH"] = str(folder)  # the copy's code, not that which is installed
    _quietly(folder, "proctor", "plan")  # compiles, and hashes the data set
    count = seeds * VARIANTS * CATEGORIES
    bare = _bare(folder, executor, count, seconds)
    started_at, driver = time.perf_counter(), 0.0
    log = folder / "driver.log"
    with log.open("w") as file:
        process = psutil.Popen(["proctor", "run"], cwd=folder, stdout=file, stderr=file)
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            driver = sum(process.cpu_times()[:2])  # its own, without its children's
        time.sleep(0.1)
    pipeline = time.perf_counter() - started_at
    if process.returncode:
        raise RuntimeError(f"proctor run ended with code {process.returncode}:\n{log.read_text()}")
    for _ in range(2):  # the first scores what there is
        started_at = time.perf_counter()
        _quietly(folder, "dvc", "repro")
    repro = time.perf_counter() - started_at
    return Cost(executor, count, count * seconds / SLOTS, bare, pipeline, driver / count, repro)


def _copy(folder: Path, executor: str, seeds: int, seconds: float) -> None:
    for name in ("methods", "benchmarks", "reports", ".dvc"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "cache", "tmp", "build")
        )
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, folder)
    (folder / "results" / "teachers").mkdir(parents=True)
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    (folder / "methods" / "pause.py").write_text(METHOD)
    toy.generate(folder / "data" / "toy", train=2, validation=1, good=2, anomalous=4)
    variants = {f"pause{n}": {"method": "pause", "number": n, "seconds": seconds} for n in range(VARIANTS)}
    suite = {
        "suite": "bench", "methods": list(variants), "variants": variants, "datasets": ["toy"],
        "protocols": ["one_class"], "seeds": list(range(seeds)), "pretrain": [], "conventions": ["default"],
        "allow": {"collapsed": "nothing is learned here"},
        "executor": {"name": executor, "device": "cpu", "jobs": SLOTS, "threads": 1, "gpus": 0, "memory_gib": 2},
    }  # fmt: skip
    (folder / "params.yaml").write_text(yaml.safe_dump(suite))


def _bare(folder: Path, executor: str, runs: int, seconds: float) -> float:
    python = [sys.executable, "-c", f"import torch, time; time.sleep({seconds})"]
    started_at = time.perf_counter()
    if executor == "slurm":
        jobs, most = [], max_array_size()
        for at in range(0, runs, most):
            size = min(most, runs - at)
            array = f"0-{size - 1}%{max(1, round(SLOTS * size / runs))}"  # its share of the slots
            options = ["--array", array, "--mem", "2G", "--output", "/dev/null"]
            jobs.append(_quietly(folder, "sbatch", "--parsable", *options, "--wrap", shlex.join(["srun", *python])))
        while _quietly(folder, "squeue", "--noheader", "--jobs", ",".join(jobs)):
            time.sleep(1)  # `sbatch --wait` looks only every 32 s
    else:
        with ThreadPoolExecutor(SLOTS) as pool:
            list(pool.map(lambda _: _quietly(folder, *python), range(runs)))
    return time.perf_counter() - started_at


def _quietly(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with code {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


if __name__ == "__main__":
    typer.run(main)
