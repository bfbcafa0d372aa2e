"""How much faster a training step is than written the way RD's official code writes it: `make bench-training`.

That way is: the teacher's forward pass at every step, with gradients flowing back into it though nothing uses them;
contiguous float32; an optimiser that is not fused; the loss read at every step. Its images already lie in memory.
Ours is `fit` as the pipeline calls it, on cached features, its time that of whole epochs. Both run in turn, epoch by
epoch, in one process; the times are medians. Memory is the growth of a fresh process that trains one way only.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import methods
from methods.base import Context, Progress, Sample
from methods.components import feature_cache, teachers
from methods.components.teachers import Teacher
from methods.distillation import Distillation

GOALS = {"rd": 1.8, "fd": 1.4}  # on a CPU with a ResNet-18, in float32
IMAGES, SIZE = 32, 256
Precision = Literal["float32", "bfloat16"]


class Setting(NamedTuple):
    """What is measured where."""

    method: str
    precision: Precision
    device: str
    teacher: str
    epochs: int

    def create(self) -> Distillation:
        """The method with the paper's batch size; AAND amplifies its teacher for one epoch."""
        values = {"teacher": self.teacher, "image_size": SIZE, "epochs": self.epochs, "selection": "last"}
        if "amplification_epochs" in methods.hyper_parameters(methods.load(self.method)):
            values["amplification_epochs"] = 1
        created = methods.create(self.method, **values)
        assert isinstance(created, Distillation)
        return created

    @property
    def context(self) -> Context:
        channels_last = self.device == "cuda"
        return Context(
            device=self.device, precision=self.precision, channels_last=channels_last, deterministic=False, cache_gib=16
        )


class Row(NamedTuple):
    """Medians, in images per second; memory in MiB; arithmetic in TFLOP/s."""

    method: str
    precision: Precision
    batch: int
    ours: float
    official: float
    ratio: float
    goal: float | None
    memory: float
    official_memory: float
    rate: float


def main() -> None:
    """Measure every method and print a table; the last line is JSON."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    teacher = "wide_resnet50_2.untrained" if device == "cuda" else "resnet18.untrained"
    precisions: list[Precision] = ["float32", "bfloat16"]
    settings = [Setting(name, p, device, teacher, 4) for name in methods.names() for p in precisions]
    rows = [compare(setting) for setting in settings]
    columns = (
        "method",
        "precision",
        "batch",
        "ours",
        "official way",
        "faster",
        "goal",
        "memory",
        "official",
        "TFLOP/s",
    )
    table = Table(*columns, title=f"{teacher} at {SIZE} px on {device}, {torch.get_num_threads()} threads")
    for row in rows:
        table.add_row(
            row.method, row.precision, str(row.batch), f"{row.ours:.1f} images/s", f"{row.official:.1f} images/s",
            f"{row.ratio:.2f} x", f"{row.goal} x" if row.goal else "", f"{row.memory:.0f} MiB",
            f"{row.official_memory:.0f} MiB", f"{row.rate:.3f}",
        )  # fmt: skip
    console = Console(width=160)
    console.print(table)
    for precision in precisions:
        console.print(f"Ceiling, a large matrix product in {precision}: {ceiling(device, precision):.3f} TFLOP/s")
    print(json.dumps([row._asdict() for row in rows]))


def compare(setting: Setting) -> Row:
    """Train both ways in turn; the first epoch of each is the warm-up."""
    method, official = setting.create(), OfficialWay(setting)
    seconds: list[float] = []

    def alternate(progress: Progress) -> None:
        if hasattr(method, "student_"):  # not while AAND amplifies its teacher
            seconds.append(official.epoch())

    method.fit(samples(), [], replace(setting.context, progress=alternate))
    ours = statistics.median(entry["seconds"] for entry in method.record["history"][1:])
    theirs = statistics.median(seconds[1:])
    memory = {way: _in_fresh_process(setting, way) for way in ("ours", "official")}
    goal = GOALS.get(setting.method) if (setting.device, setting.precision) == ("cpu", "float32") else None
    rate = official.operations() / ours / 1e12
    return Row(
        setting.method, setting.precision, method.batch_size, IMAGES / ours, IMAGES / theirs, theirs / ours, goal,
        memory["ours"] / 2**20, memory["official"] / 2**20, rate,
    )  # fmt: skip


class OfficialWay:
    """The same student, loss and optimiser, stepped the way RD's official code does it."""

    def __init__(self, setting: Setting) -> None:
        self.method, device = setting.create(), torch.device(setting.device)
        teacher = teachers.load(setting.teacher, {}).to(device)
        pixels = feature_cache.load_images(samples(), SIZE, None)
        self.frozen = self.method.build_target(teacher, pixels, setting.context)
        self.teacher: Callable[[Tensor], list[Tensor]] = self.frozen
        if isinstance(self.frozen, Teacher):  # what is built on a teacher is used without gradients there, too
            self.teacher = self.frozen.network.requires_grad_()
        self.student = self.method.build_student(teacher).to(device)
        self.optimiser = self.method.make_optimiser(self.student, fused=False)
        self.images = self.frozen.normalise(pixels[range(IMAGES)].to(device))

    def loss(self, teacher: Callable[[Tensor], list[Tensor]], images: Tensor) -> Tensor:
        features = teacher(images)
        output = self.student(features if self.method.student_input == "features" else images)
        return torch.stack(list(self.method.loss_terms(features, output).values())).sum()

    def epoch(self) -> float:
        """Seconds for one pass over the images."""
        self.student.train()
        started = time.perf_counter()
        for batch in torch.randperm(IMAGES).split(self.method.batch_size):
            loss = self.loss(self.teacher, self.images[batch.to(self.images.device)])
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            loss.item()
        return time.perf_counter() - started

    def operations(self) -> int:
        """Floating-point operations of the student's forward and backward pass and the loss, over all images."""
        images = self.images[: self.method.batch_size]
        features = [level.detach() for level in self.frozen(images)]
        with FlopCounterMode(display=False) as counter:
            self.loss(lambda images: features, images).backward()
        return counter.get_total_flops() * IMAGES // self.method.batch_size


def ceiling(device: str, precision: Precision) -> float:
    """TFLOP/s of a matrix product too large for any overhead to matter."""
    size = 16384 if device == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=getattr(torch, precision)) for _ in range(2))
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        (a @ b)[0, 0].item()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds) / 1e12


def _in_fresh_process(setting: Setting, way: str) -> int:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak_memory, setting._replace(epochs=2), way).result()


def peak_memory(setting: Setting, way: str) -> int:
    """Bytes by which this process grows at most when it trains; on a GPU, those of the GPU."""
    if setting.device == "cuda":
        torch.cuda.init()
        torch.cuda.reset_peak_memory_stats()
    before = _peak()
    if way == "ours":
        setting.create().fit(samples(), [], setting.context)
    else:
        OfficialWay(setting).epoch()
    if setting.device == "cuda":
        return torch.cuda.max_memory_allocated()
    return _peak() - before


def _peak() -> int:
    """The most bytes that this process has held. Linux's getrusage would count in the parent's."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def samples() -> list[Sample]:
    """Noise: what the images show does not matter here."""

    def read(seed: int) -> Tensor:
        return torch.randint(256, (3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))

    return [Sample(f"noise/train/{i:012x}", "noise", lambda i=i: read(i)) for i in range(IMAGES)]  # type: ignore[misc]


if __name__ == "__main__":
    main()
