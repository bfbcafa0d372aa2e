"""What teacher-student methods share: frozen features, the training loop, selection, checkpoint, prediction.

A method subclasses `Distillation` and says what its paper says: `build_student`, `loss_terms` and `anomaly_map`, and
where the paper asks for it `make_optimiser`, `target` (a teacher made over) and `calibrate` (after training).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from methods import feature_cache, teachers
from methods.base import Context, InputError, Method, Prediction, Progress, Sample
from methods.teachers import Teacher

logger = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CHECKPOINT_SECONDS = 60
PREDICT_BATCH = 16


@dataclass(kw_only=True, eq=False)
class Distillation(Method):
    """A student learns the features of a frozen teacher on normal images; where it fails to, the image is anomalous.

    Attributes:
        teacher: see `methods.teachers`.
        image_size: side in pixels to which every image is resized.
        selection: which epoch's student is kept: the last one, or the one with the lowest mean anomaly map on normal
            images that it did not train on (the data set's validation split, else 20 % of the training images).
    """

    student_input: ClassVar[Literal["features", "images"]] = "features"

    teacher: str = "wide_resnet50_2.tv_in1k"
    image_size: int = 256
    epochs: int = 200
    batch_size: int = 16
    learning_rate: float = 5e-3
    betas: tuple[float, float] = (0.5, 0.999)
    selection: Literal["last", "validation"] = "last"

    def __post_init__(self) -> None:
        name = type(self).__name__
        for key in ("epochs", "batch_size", "learning_rate"):
            if getattr(self, key) <= 0:
                raise InputError(f"{name}: {key}={getattr(self, key)}; it must be above 0.")
        if self.image_size % 32 or self.image_size < 64:
            # Below 64 the bottleneck is one position, over which batch norm cannot normalise a batch of one.
            raise InputError(f"{name}: image_size={self.image_size}; it must be a multiple of 32, at least 64.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"{name}: betas={self.betas}; each must lie in [0, 1).")

    @abstractmethod
    def build_student(self, teacher: Teacher) -> nn.Module:
        """The trainable network. It is called with the teacher's features or the images, as `student_input` says."""

    @abstractmethod
    def loss_terms(self, teacher: list[Tensor], student: Any) -> dict[str, Tensor]:
        """The weighted terms whose sum is minimised, by name, from (B, C_l, h_l, w_l) maps and the student's answer."""

    @abstractmethod
    def anomaly_map(self, teacher: list[Tensor], student: Any) -> Tensor:
        """(B, s, s) from the same; the maximum is the image's score."""

    def make_optimiser(self, student: nn.Module, fused: bool) -> torch.optim.Optimizer:
        return torch.optim.Adam(student.parameters(), self.learning_rate, self.betas, fused=fused)

    def target(self, teacher: Teacher, images: feature_cache.Rows, context: Context) -> feature_cache.Network:
        """The frozen network whose features are learnt: the teacher, unless a method makes something of it first."""
        return teacher

    def calibrate(self, responses: Iterator[tuple[list[Tensor], Any]]) -> None:
        """Learn from the trained student's answers on normal images what `anomaly_map` needs; most need nothing."""

    def fit(self, train: Sequence[Sample], validation: Sequence[Sample], context: Context) -> Self:
        if not train:
            raise InputError(f"{type(self).__name__} got no training image: look at the data set's train folder.")
        device = torch.device(context.device)
        reproducible(context)
        teacher = teachers.load(self.teacher, context.weights)
        teacher.check(self.image_size)
        teacher = teacher.to(device)
        self.teacher_record_ = teacher.record
        pictures = feature_cache.images(train, self.image_size, context.cache)
        self.target_ = self.target(teacher, pictures, context)
        normal = _Inputs(self, train, context, pictures)
        trained, held_out = self._hold_out(len(train), bool(validation))
        judged, judged_indices = normal, held_out
        if validation:
            judged = _Inputs(self, validation, context)
            judged_indices = list(range(len(validation)))

        seed(context.seed, 0)
        self.student_ = self.build_student(teacher).to(device)
        self.parameters_ = {
            "teacher": sum(parameter.numel() for parameter in teacher.parameters()),
            "student": sum(parameter.numel() for parameter in self.student_.parameters()),
        }
        if context.channels_last:
            self.student_ = self.student_.to(memory_format=torch.channels_last)
        forward = torch.compile(self.student_) if context.compile else self.student_

        def terms(batch: Sequence[int]) -> dict[str, Tensor]:
            features, answer = normal.pair([trained[index] for index in batch], forward)
            return self.loss_terms(features, answer)

        def validate() -> float:
            maps = [self.anomaly_map(*pair) for pair in judged.pairs(judged_indices)]
            return torch.cat(maps).mean().item()

        identity = json.dumps([asdict(self), context.seed, teacher.digest, _digest(train), _digest(validation)])
        self.history_, self.epoch_ = optimise(
            self.student_,
            self.make_optimiser(self.student_, fused=device.type in ("cpu", "cuda")),
            terms,
            len(trained),
            epochs=self.epochs,
            batch_size=self.batch_size,
            context=context,
            checkpoint=context.checkpoint,
            identity=identity,
            validate=validate if self.selection == "validation" else None,
        )
        self.calibrate(judged.pairs(judged_indices or trained))
        return self

    def predict(self, test: Sequence[Sample], context: Context) -> Iterator[Prediction]:
        if not test:
            return
        reproducible(context)
        inputs = _Inputs(self, test, context)
        for done, pair in enumerate(inputs.pairs(range(len(test))), 1):
            maps = self.anomaly_map(*pair).cpu()  # (B, s, s)
            for anomaly_map in maps:
                yield Prediction(anomaly_map.max().item(), anomaly_map)
            context.progress(Progress("predict", min(done * PREDICT_BATCH, len(test)), len(test)))

    def _hold_out(self, images: int, validation: bool) -> tuple[list[int], list[int]]:
        """Indices to train on, and to select with: none if not needed or if there is a validation split."""
        if self.selection == "last" or validation:
            return list(range(images)), []
        if images < 2:
            raise InputError(
                f"{type(self).__name__}: selection='validation' holds back 20 % of the training images, but there is "
                "only one. Add images, or set selection to 'last'."
            )
        trained, held_out = train_test_split(range(images), test_size=0.2, random_state=0)
        return list(trained), list(held_out)

    @property
    def record(self) -> dict[str, Any]:
        return {
            "selection": self.selection,
            "epoch": self.epoch_,
            "history": self.history_,
            "teacher": self.teacher_record_,
            "image_size": self.image_size,
            "parameters": self.parameters_,
        }


class _Inputs:
    """Images and frozen features of some samples, and the student's answers to them."""

    def __init__(
        self,
        method: Distillation,
        samples: Sequence[Sample],
        context: Context,
        pictures: feature_cache.Rows | None = None,
    ) -> None:
        self.method, self.context = method, context
        self.pictures = pictures or feature_cache.images(samples, method.image_size, context.cache)
        self.features = feature_cache.Features(method.target_, samples, self.pictures, context)

    def pair(self, batch: Sequence[int], student: Callable[[Any], Any]) -> tuple[list[Tensor], Any]:
        """Frozen features and the student's answer, both float32."""
        device, precision = torch.device(self.context.device), self.context.precision
        layout = torch.channels_last if self.context.channels_last else torch.contiguous_format
        features = self.features(batch)
        if self.method.student_input == "images":
            images = self.pictures[batch].to(device, non_blocking=True)
            seen: Any = self.method.target_.normalise(images).contiguous(memory_format=layout)
        else:
            seen = [level.contiguous(memory_format=layout) for level in features]
        with torch.autocast(device.type, DTYPES[precision], enabled=precision != "float32"):
            answer = student(seen)
        return features, _float32(answer)

    @torch.no_grad()
    def pairs(self, indices: Sequence[int]) -> Iterator[tuple[list[Tensor], Any]]:
        """The same for many images, in order, in batches, by the student in evaluation mode."""
        self.method.student_.eval()
        for at in range(0, len(indices), PREDICT_BATCH):
            yield self.pair(indices[at : at + PREDICT_BATCH], self.method.student_)


def optimise(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    terms: Callable[[Sequence[int]], Mapping[str, Tensor]],
    images: int,
    *,
    epochs: int,
    batch_size: int,
    context: Context,
    checkpoint: Path | None,
    identity: str,
    validate: Callable[[], float] | None = None,
) -> tuple[list[dict[str, float]], int]:
    """Train a network, resuming from the checkpoint of the same fit if there is one.

    Everything random in an epoch follows from the seed and the epoch's number, so that a resumed fit gives the same
    bits as one that was never interrupted.

    Args:
        terms: the loss terms of a batch, given as indices below `images`.
        identity: tells this fit from others; a checkpoint with another identity is not resumed.
        validate: judged after each epoch; the network ends as it was at the lowest value. None: as it was at last.

    Returns:
        One entry per epoch (epoch, seconds, each term's mean, validation), and the epoch that was kept.

    Raises:
        InputError: a term is not finite.
    """
    scaler = torch.amp.GradScaler(context.device, enabled=context.precision == "float16" and "cuda" in context.device)
    state = _resume(checkpoint, identity) or {"history": [], "best": None}
    if state["history"]:
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        scaler.load_state_dict(state["scaler"])
    history, best = state["history"], state["best"]
    saved = time.monotonic()
    for epoch in range(len(history) + 1, epochs + 1):
        begun = time.perf_counter()
        means = _train_epoch(network, optimiser, scaler, terms, images, batch_size, context, epoch)
        entry = {"epoch": epoch, "seconds": 0.0, **means}
        if validate:
            entry["validation"] = validate()
            if best is None or entry["validation"] < best["value"]:
                kept = {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}
                best = {"value": entry["validation"], "epoch": epoch, "network": kept}
        entry["seconds"] = round(time.perf_counter() - begun, 3)
        history.append(entry)
        if checkpoint and (epoch == epochs or time.monotonic() - saved > CHECKPOINT_SECONDS):
            _save(checkpoint, {"identity": identity, "network": network.state_dict(), "scaler": scaler.state_dict(),
                               "optimiser": optimiser.state_dict(), "history": history, "best": best})  # fmt: skip
            saved = time.monotonic()
        losses = {name: value for name, value in entry.items() if name not in ("epoch", "seconds")}
        context.progress(Progress("fit", epoch, epochs, losses))
    if best:
        network.load_state_dict(best["network"])
    return history, best["epoch"] if best else epochs


def _train_epoch(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    terms: Callable[[Sequence[int]], Mapping[str, Tensor]],
    images: int,
    batch_size: int,
    context: Context,
    epoch: int,
) -> dict[str, float]:
    """One pass over all images in random order; the mean of each loss term."""
    network.train()
    seed(context.seed, epoch)
    log: list[Tensor] = []
    names: list[str] = []
    for batch in torch.randperm(images).split(batch_size):
        losses = terms(batch.tolist())
        names = list(losses)
        values = torch.stack(list(losses.values()))
        optimiser.zero_grad(set_to_none=True)
        scaler.scale(values.sum()).backward()
        scaler.step(optimiser)
        scaler.update()
        log.append(values.detach())
    steps = torch.stack(log).double().cpu()  # (steps, terms), read once per epoch: reading each step would stall a GPU
    wrong = (~steps.isfinite()).nonzero().tolist()
    if wrong:
        step, term = wrong[0]
        raise InputError(
            f"The loss is not finite: term {names[term]!r} is {steps[step, term].item()} in epoch {epoch}, "
            f"step {step + 1}. Lower learning_rate, or compute in float32 if precision is another."
        )
    return dict(zip(names, steps.mean(0).tolist(), strict=True))


def reproducible(context: Context) -> None:
    """Ask torch for deterministic algorithms, or let it choose the fastest; holds for the whole process."""
    if context.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(context.deterministic)
    torch.backends.cudnn.deterministic = context.deterministic
    torch.backends.cudnn.benchmark = not context.deterministic


def seed(number: int, epoch: int) -> None:
    """Seed torch, numpy and python for one epoch of a fit; epoch 0 draws the initial weights."""
    drawn = int(np.random.SeedSequence([number, epoch]).generate_state(1)[0])
    torch.manual_seed(drawn)
    np.random.seed(drawn)
    random.seed(drawn)


def _resume(checkpoint: Path | None, identity: str) -> dict[str, Any] | None:
    if not checkpoint or not checkpoint.exists():
        return None
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        logger.warning("The checkpoint %s cannot be read (%s): training starts anew.", checkpoint, error)
        return None
    if state.get("identity") != identity:
        logger.warning("The checkpoint %s is of another fit: training starts anew.", checkpoint)
        return None
    return state


def _save(checkpoint: Path, state: dict[str, Any]) -> None:
    """Write whole under another name, then rename: a checkpoint is never half a file."""
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    temporary = checkpoint.with_name(checkpoint.name + ".part")
    torch.save(state, temporary)
    os.replace(temporary, checkpoint)


def _digest(samples: Sequence[Sample]) -> str:
    return hashlib.sha256("\n".join(sample.key for sample in samples).encode()).hexdigest()


def _float32(answer: Any) -> Any:
    return answer.float() if isinstance(answer, Tensor) else [_float32(part) for part in answer]
