"""What teacher-student methods share: frozen features, the training loop, selection, checkpoint, prediction.

A method subclasses `Distillation` and says what its paper says: `build_student`, `loss_terms` and `anomaly_map`, and
where the paper asks for it `make_optimiser`, `learning_rate_at`, `target` (a teacher made over) and `calibrate`.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from methods.base import Context, InputError, Method, Prediction, Progress, Sample
from methods.components import feature_cache, teachers, train_loop
from methods.components.teachers import Teacher

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# From what is measured after an epoch, the value that the kept epoch minimises.
SELECTIONS: dict[str, Callable[[Mapping[str, float]], float] | None] = {
    "last": None,
    "validation": lambda measured: measured["validation"],
    "oracle": lambda measured: -sum(measured.get(metric, 0.0) for metric in ("image_auroc", "pixel_auroc")),
}


@dataclass(kw_only=True, eq=False)
class Distillation(Method):
    """A student learns the features of a frozen teacher on normal images; where it fails to, the image is anomalous.

    Attributes:
        teacher: see `methods.teachers`.
        image_size: side in pixels to which every image is resized.
        selection: which epoch's student is kept: the last one, or the one with the lowest mean anomaly map on normal
            images that it did not train on (the data set's validation split, else 20 % of the training images), or,
            as a diagnostic that no result may rest on, the one that is best on the test images ("oracle").
    """

    student_input: ClassVar[Literal["features", "images"]] = "features"

    teacher: str = "wide_resnet50_2.tv_in1k"
    image_size: int = 256
    epochs: int = 200
    batch_size: int = 16
    learning_rate: float = 5e-3
    betas: tuple[float, float] = (0.5, 0.999)
    selection: Literal["last", "validation", "oracle"] = "last"

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

    def learning_rate_at(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 1."""
        return self.learning_rate

    def target(self, teacher: Teacher, images: feature_cache.Rows, context: Context) -> feature_cache.Network:
        """The frozen network whose features are learnt: the teacher, unless a method makes something of it first.

        Its images are those that the student trains on, without the ones that are held out to select with.
        """
        return teacher

    def calibrate(self, responses: Iterable[tuple[list[Tensor], Any]]) -> None:
        """Learn from the student's answers on normal images how `anomaly_map` scales; without answers, forget it."""

    def fit(self, train: Sequence[Sample], validation: Sequence[Sample], context: Context) -> Self:
        self._check(train, context)
        device = torch.device(context.device)
        train_loop.reproducible(context)
        teacher = teachers.load(self.teacher, context.weights)
        teacher.check(self.image_size)
        teacher = teacher.to(device)
        self.teacher_record_ = teacher.record
        pictures = feature_cache.images(train, self.image_size, context.cache)
        trained, held_out = self._hold_out(len(train), bool(validation))
        seen = feature_cache.Rows(pictures.parts, [pictures.places[index] for index in trained])
        self.target_ = self.target(teacher, seen, context)
        inputs = _Inputs(self, train, context, pictures)

        self.calibrate([])
        train_loop.seed(context.seed, 0)
        self.student_ = self.build_student(teacher).to(device)
        self.parameters_ = {
            "teacher": sum(parameter.numel() for parameter in teacher.parameters()),
            "student": sum(parameter.numel() for parameter in self.student_.parameters()),
        }
        if context.channels_last:
            self.student_ = self.student_.to(memory_format=torch.channels_last)

        def terms(batch: Sequence[int]) -> dict[str, Tensor]:
            return self.loss_terms(*inputs.pair([trained[index] for index in batch], self.student_))

        further = _Inputs(self, validation, context) if validation else None

        def normal() -> Iterator[tuple[list[Tensor], Any]]:
            """The student's answers on normal images: those of validation, else held out, else all it trains on."""
            return further.pairs(range(len(validation))) if further else inputs.pairs(held_out or trained)

        identity = [
            str(self),
            context.seed,
            context.evaluate_every,
            teacher.digest,
            _digest(train),
            _digest(validation),
        ]
        self.history_, self.epoch_ = train_loop.optimise(
            self.student_,
            self.make_optimiser(self.student_, fused=device.type in ("cpu", "cuda")),
            terms,
            len(trained),
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate_at,
            context=context,
            checkpoint=context.checkpoint,
            identity=json.dumps(identity),
            evaluate=lambda epoch: self._measure(epoch, normal, bool(further or held_out), context),
            keep=SELECTIONS[self.selection],
        )
        self.calibrate(normal())
        return self

    def _check(self, train: Sequence[Sample], context: Context) -> None:
        name = type(self).__name__
        if not train:
            raise InputError(f"{name} got no training image: look at the data set's train folder.")
        if self.selection == "oracle" and not context.evaluate_test:
            raise InputError(
                f"{name}: selection='oracle' looks at the test set every few epochs; say how many with "
                "`evaluate_every` in params.yaml, or set selection to 'last'."
            )

    def _measure(
        self, epoch: int, normal: Callable[[], Iterator[tuple[list[Tensor], Any]]], unseen: bool, context: Context
    ) -> dict[str, float]:
        """What selection and the course of training need to know after an epoch; `unseen`: `normal` was held out."""
        measured: dict[str, float] = {}
        judge = context.evaluate_test if epoch % context.evaluate_every == 0 or epoch == self.epochs else None
        if self.selection == "validation" or (judge and unseen):
            self.calibrate([])  # scaled by the very images that they are of, the maps' mean would never change
            maps = [self.anomaly_map(*pair) for pair in normal()]
            measured["validation"] = torch.cat(maps).mean().item()
        if judge:
            self.calibrate(normal())
            measured |= judge(lambda test: self._predict(test, context))
        return measured

    def predict(self, test: Sequence[Sample], context: Context) -> Iterator[Prediction]:
        if not test:
            return
        train_loop.reproducible(context)
        for done, prediction in enumerate(self._predict(test, context), 1):
            yield prediction
            if done % context.predict_batch == 0 or done == len(test):
                context.progress(Progress("predict", done, len(test)))

    def _predict(self, test: Sequence[Sample], context: Context) -> Iterator[Prediction]:
        for pair in _Inputs(self, test, context).pairs(range(len(test))):
            for anomaly_map in self.anomaly_map(*pair).cpu():  # (s, s)
                yield Prediction(anomaly_map.max().item(), anomaly_map)

    def _hold_out(self, images: int, validation: bool) -> tuple[list[int], list[int]]:
        """Indices to train on, and to select with: none if not needed or if there is a validation split."""
        if self.selection != "validation" or validation:
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
        size = self.context.predict_batch
        for at in range(0, len(indices), size):
            yield self.pair(indices[at : at + size], self.method.student_)


def _digest(samples: Sequence[Sample]) -> str:
    return hashlib.sha256("\n".join(sample.key for sample in samples).encode()).hexdigest()


def _float32(answer: Any) -> Any:
    return answer.float() if isinstance(answer, Tensor) else [_float32(part) for part in answer]
