"""What teacher-student methods share: frozen features, the training loop, selection, checkpoints, prediction.

A method subclasses `Distillation` and implements what its paper defines: `build_student`, `loss_terms` and
`anomaly_map`, and where the paper asks for it `make_optimiser`, `learning_rate_at`, `build_target` (the network to
distil, if it is not the plain teacher) and `calibrate`.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from methods.base import Context, InputError, Method, Prediction, Progress, Sample
from methods.components import batch_norm, feature_cache, teachers, train_loop
from methods.components.teachers import Teacher

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Selection = Literal["last", "validation", "oracle"]
BatchNorm = Literal["running", "recalibrated"]
# From what is measured after an epoch to the value that the selected epoch minimises.
CRITERIA: dict[str, Callable[[Mapping[str, float]], float] | None] = {
    "last": None,
    "validation": lambda measured: measured["validation"],
    "oracle": lambda measured: -sum(measured.get(metric, 0.0) for metric in ("image_auroc", "pixel_auroc")),
}


class Outputs(NamedTuple):
    """What a loss and an anomaly map compare, for a batch."""

    teacher_features: list[Tensor]  # per level (B, C_l, h_l, w_l) float32, finest first
    student_output: Any  # as the student returns it, float32


@dataclass(kw_only=True, eq=False)
class Distillation(Method):
    """A student learns the features of a frozen teacher on normal images; where they differ, the image is anomalous.

    Attributes:
        teacher: see `methods.components.teachers`.
        image_size: side in pixels to which every image is resized.
        selection: which epoch's student is kept: "last"; "validation", the one with the lowest mean anomaly map on
            normal images that it was not trained on (the data set's validation split, else 20 % of the training
            images); or "oracle", the one that is best on the test images, a diagnostic and not a valid result.
        batch_norm: statistics of the student's batch norms in testing. "running" averages over the last steps, as the
            official codes do; "recalibrated" averages over the training images with the final weights (batch_norm.py).
    """

    student_input: ClassVar[Literal["features", "images"]] = "features"

    teacher: str = "wide_resnet50_2.tv_in1k"
    image_size: int = 256
    epochs: int = 200
    batch_size: int = 16
    learning_rate: float = 5e-3
    betas: tuple[float, float] = (0.5, 0.999)
    selection: Selection = "last"
    batch_norm: BatchNorm = "running"

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
        """The trainable network, to be called with the teacher's features or the images, see `student_input`."""

    @abstractmethod
    def loss_terms(self, teacher_features: list[Tensor], student_output: Any) -> dict[str, Tensor]:
        """The weighted scalar terms whose sum is minimised, by name; for the arguments see `Outputs`."""

    @abstractmethod
    def anomaly_map(self, teacher_features: list[Tensor], student_output: Any) -> Tensor:
        """(B, s, s) anomaly maps; the maximum of a map is the image's score."""

    def make_optimiser(self, student: nn.Module, fused: bool) -> torch.optim.Optimizer:
        return torch.optim.Adam(student.parameters(), self.learning_rate, self.betas, fused=fused)

    def learning_rate_at(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 1."""
        return self.learning_rate

    def build_target(self, teacher: Teacher, images: feature_cache.Rows, context: Context) -> feature_cache.Network:
        """The frozen network whose features are distilled: the teacher, unless a method derives another from it.

        Args:
            images: those that the student trains on, (3, s, s) uint8 each; none that is held out for selection.
        """
        return teacher

    def load_target(self, teacher: Teacher, state: Mapping[str, Tensor], context: Context) -> feature_cache.Network:
        """What `build_target` returned when this `state` was learned."""
        return teacher

    def calibrate(self, outputs: Iterable[Outputs]) -> None:
        """Learn from outputs on normal images how `anomaly_map` scales; without outputs, reset it."""

    def fit(self, train: Sequence[Sample], validation: Sequence[Sample], context: Context) -> Self:
        self._check(train, context)
        train_loop.set_determinism(context)
        teacher = self._load_teacher(context)
        images = feature_cache.load_images(train, self.image_size, context.cache)
        training, held_out = self._hold_out(len(train), bool(validation))
        self.target_ = self.build_target(teacher, images.select(training), context)
        data = _Data(self, train, images, context)
        self.calibrate([])
        self._create_student(teacher, context)

        def terms(batch: Sequence[int]) -> dict[str, Tensor]:
            return self.loss_terms(*data.outputs([training[index] for index in batch], self.student_))

        held_out_data = _Data.load(self, validation, context) if validation else None

        def normal() -> Iterator[Outputs]:
            """Outputs on normal images: the validation split's, else those held out, else the training images."""
            if held_out_data:
                return held_out_data.evaluate(range(len(validation)))
            return data.evaluate(held_out or training)

        recalibrate = partial(self._recalibrate, data, training, context)
        splits = [[sample.key for sample in samples] for samples in (train, validation)]
        self.history_, self.epoch_ = train_loop.optimise(
            self.student_,
            self.make_optimiser(self.student_, fused=torch.device(context.device).type in ("cpu", "cuda")),
            terms,
            len(training),
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate_at,
            context=context,
            checkpoint=context.checkpoint,
            fit_id=_digest([str(self), context.seed, context.evaluate_every, teacher.digest, splits]),
            evaluate=lambda epoch: self._evaluate(epoch, recalibrate, normal, bool(validation or held_out), context),
            criterion=CRITERIA[self.selection],
        )
        recalibrate()
        self.calibrate(normal())
        return self

    def _check(self, train: Sequence[Sample], context: Context) -> None:
        name = type(self).__name__
        if not train:
            raise InputError(f"{name} got no training image: check the data set's train folder.")
        if self.selection == "oracle" and not context.evaluate_test:
            raise InputError(
                f"{name}: selection='oracle' looks at the test set every few epochs; say how many with "
                "`evaluate_every` in params.yaml, or set selection to 'last'."
            )

    def _load_teacher(self, context: Context) -> Teacher:
        teacher = teachers.load(self.teacher, context.weights)
        teacher.check(self.image_size)
        self.teacher_record_ = teacher.record
        return teacher.to(torch.device(context.device))

    def _create_student(self, teacher: Teacher, context: Context) -> None:
        """Build the student with the weights of the seed."""
        train_loop.seed(context.seed, 0)
        self.student_ = self.build_student(teacher).to(torch.device(context.device))
        self.parameters_ = {
            "teacher": sum(parameter.numel() for parameter in teacher.parameters()),
            "student": sum(parameter.numel() for parameter in self.student_.parameters()),
        }
        if context.channels_last:
            self.student_ = self.student_.to(memory_format=torch.channels_last)

    def _recalibrate(self, data: _Data, training: list[int], context: Context) -> None:
        """Give the student's batch norms their statistics for testing; the training images are drawn in one order."""
        if self.batch_norm == "recalibrated":
            order = torch.randperm(len(training), generator=torch.Generator().manual_seed(context.seed))
            batches = [[training[index] for index in batch] for batch in order.split(self.batch_size)]
            batch_norm.recalibrate(self.student_, batches, lambda batch: data.outputs(batch, self.student_))

    def _evaluate(
        self,
        epoch: int,
        recalibrate: Callable[[], None],
        normal: Callable[[], Iterator[Outputs]],
        has_held_out: bool,
        context: Context,
    ) -> dict[str, float]:
        """What selection and the history need after an epoch; `has_held_out`: `normal` was not trained on."""
        measured: dict[str, float] = {}
        is_due = epoch % context.evaluate_every == 0 or epoch == self.epochs
        evaluate_test = context.evaluate_test if is_due else None
        if self.selection == "validation" or evaluate_test:
            recalibrate()
        if self.selection == "validation" or (evaluate_test and has_held_out):
            self.calibrate([])  # calibrated on the images whose maps are averaged, their mean would be constant
            maps = [self.anomaly_map(*outputs) for outputs in normal()]
            measured["validation"] = torch.cat(maps).mean().item()
        if evaluate_test:
            self.calibrate(normal())
            measured |= evaluate_test(lambda test: self._predict(test, context))
        return measured

    def predict(self, test: Sequence[Sample], context: Context) -> Iterator[Prediction]:
        if not test:
            return
        train_loop.set_determinism(context)
        for done, prediction in enumerate(self._predict(test, context), 1):
            yield prediction
            if done % context.predict_batch == 0 or done == len(test):
                context.progress(Progress("predict", done, len(test)))

    def _predict(self, test: Sequence[Sample], context: Context) -> Iterator[Prediction]:
        for outputs in _Data.load(self, test, context).evaluate(range(len(test))):
            for anomaly_map in self.anomaly_map(*outputs).cpu():  # (s, s)
                yield Prediction(anomaly_map.max().item(), anomaly_map)

    def state(self) -> dict[str, Tensor]:
        return {f"student.{name}": value for name, value in self.student_.state_dict().items()}

    def load_state(self, state: Mapping[str, Tensor], context: Context) -> Self:
        teacher = self._load_teacher(context)
        self.target_ = self.load_target(teacher, state, context)
        self._create_student(teacher, context)
        self.student_.load_state_dict(part(state, "student."))
        return self

    def network(self) -> nn.Module:
        return _Network(self).eval()

    def held_out(self, train: Sequence[Sample], validation: Sequence[Sample]) -> list[Sample]:
        return [train[index] for index in self._hold_out(len(train), bool(validation))[1]]

    def _hold_out(self, images: int, validation: bool) -> tuple[list[int], list[int]]:
        """Indices to train on, and to select with: none if not needed or if there is a validation split."""
        if self.selection != "validation" or validation:
            return list(range(images)), []
        if images < 2:
            raise InputError(
                f"{type(self).__name__}: selection='validation' holds back 20 % of the training images, but there is "
                "only one. Add images, or set selection to 'last'."
            )
        training, held_out = train_test_split(range(images), test_size=0.2, random_state=0)
        return list(training), list(held_out)

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


class _Data:
    """Images and target features of some samples, and what the student makes of them."""

    def __init__(
        self, method: Distillation, samples: Sequence[Sample], images: feature_cache.Rows, context: Context
    ) -> None:
        self.method, self.images, self.context = method, images, context
        self.features = feature_cache.Features(method.target_, samples, images, context)

    @classmethod
    def load(cls, method: Distillation, samples: Sequence[Sample], context: Context) -> Self:
        return cls(method, samples, feature_cache.load_images(samples, method.image_size, context.cache), context)

    def outputs(self, batch: Sequence[int], student: Callable[[Any], Any]) -> Outputs:
        """Target features and the student's output for a batch of indices."""
        device, precision = torch.device(self.context.device), self.context.precision
        layout = torch.channels_last if self.context.channels_last else torch.contiguous_format
        features = self.features(batch)
        if self.method.student_input == "images":
            images = self.images[batch].to(device, non_blocking=True)
            student_input: Any = self.method.target_.normalise(images).contiguous(memory_format=layout)
        else:
            student_input = [level.contiguous(memory_format=layout) for level in features]
        with torch.autocast(device.type, DTYPES[precision], enabled=precision != "float32"):
            output = student(student_input)
        return Outputs(features, _float32(output))

    @torch.no_grad()
    def evaluate(self, indices: Sequence[int]) -> Iterator[Outputs]:
        """The same batch by batch for many indices, in order, with the student in evaluation mode."""
        self.method.student_.eval()
        size = self.context.predict_batch
        for start in range(0, len(indices), size):
            yield self.outputs(indices[start : start + size], self.method.student_)


class _Network(nn.Module):
    """Target, student and anomaly map as one network, in float32; see `Method.network`."""

    def __init__(self, method: Distillation) -> None:
        super().__init__()
        self.method, self.target, self.student = method, method.target_, method.student_

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        normalised = self.target.normalise(255 * images)
        features = self.target(normalised)
        output = self.student(normalised if self.method.student_input == "images" else features)
        maps = self.method.anomaly_map(features, output)  # (B, s, s)
        return maps.amax((1, 2)), maps


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries of a state whose names begin with `prefix`, without it.

    >>> part({"student.weight": torch.ones(1), "lambda": torch.ones(1)}, "student.")
    {'weight': tensor([1.])}
    """
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _float32(output: Any) -> Any:
    return output.float() if isinstance(output, Tensor) else [_float32(part) for part in output]
