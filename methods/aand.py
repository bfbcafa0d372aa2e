"""AAND, advancing anomaly detection: make the teacher more sensitive to anomalies, then distil its normal features.

Stage 1, anomaly amplification: residual amplifiers (amplification.py) beside the frozen teacher learn from synthetic
anomalies (anomaly_synthesis.py) to detect abnormal positions and to move their features away from normal ones.
Stage 2, normality distillation: an RD student learns to reconstruct the amplified features of normal images, with
extra weight on the positions where that is hardest. It never learns to reconstruct an amplified anomaly.

Tang et al., IEEE TIP 2026, arXiv 2405.02068; official code Hui-design/AAND @376c4e4.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from methods.base import Context, InputError, Prediction, Sample
from methods.components import feature_cache, textures, train_loop
from methods.components.amplification import AmplifiedTeacher, AmplifierOutput, Amplifiers, gate_map, losses
from methods.components.anomaly_maps import cosine_distance
from methods.components.anomaly_synthesis import estimate_foreground, synthesise
from methods.components.teachers import Teacher
from methods.distillation import DTYPES, part
from methods.rd import RD


@dataclass(kw_only=True, eq=False)
class AAND(RD):
    """Anomaly amplification, then normality distillation. Student and anomaly map are RD's.

    Attributes:
        epochs: of stage 2.
        amplification_epochs: of stage 1; None: 100 for every 120 of stage 2, as published; 0: no stage 1.
        texture_folder: images for synthetic anomalies, such as DTD's; None: procedural textures.
        prototypes: number of normal prototypes, and of abnormal ones, in each amplifier.
        temperature: of the gate's softmax over prototypes.
        amplifier_init: of the amplifiers' weights: "kaiming" is the official code's, "default" torch's.
        margin: by which amplified anomalies should differ more from normal features, in cosine.
        amplify_weight: of that loss, relative to the gate's focal loss.
        hardest: positions per image and level in the hard distillation loss; 0: RD's loss alone.
    """

    paper: ClassVar[str] = (
        "Tang et al., Advancing Pre-trained Teacher: Towards Robust Feature Discrepancy for Anomaly Detection, "
        "IEEE TIP 2026, arXiv 2405.02068"
    )
    source: ClassVar[str] = "Hui-design/AAND @376c4e4"
    deviations: ClassVar[tuple[str, ...]] = (
        "Both stages keep the last epoch. The official code keeps the best on the test set, and stops early by it; "
        "selection 'oracle' does the first, in stage 1 by the gates' pixel AP instead of their precision.",
        "The hard loss is the official code's: the 10 hardest positions of each level, plus RD's flat distance; the "
        "paper writes of its K_h hardest patches.",
        "Without texture_folder the textures are procedural, not DTD's.",
        "Textures are RGB, resized with antialiasing; the official code reads them as BGR and resizes them without.",
        "Foregrounds are estimated per image from the colour of its border; the official masks come from a separate "
        "script. If no object stands out, the whole image counts. Foregrounds are pooled as the masks are.",
        "Texture augmentations are torchvision's, in the ranges of the official imgaug ones; saturation is multiplied "
        "instead of shifted, brightness changes in RGB and autocontrast has no cutoff.",
        "Images are resized bilinearly, as for every method here; the official code resizes them bicubically.",
        "The last training batch is kept even if it is small; batches follow Proctor's seed.",
    )

    epochs: int = 120
    amplification_epochs: int | None = None
    texture_folder: Path | None = None
    prototypes: int = 50
    temperature: float = 0.2
    amplifier_init: Literal["kaiming", "default"] = "kaiming"
    margin: float = 0.3
    amplify_weight: float = 0.1
    hardest: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("prototypes", "temperature"):
            if not getattr(self, key) > 0:
                raise InputError(f"AAND: {key}={getattr(self, key)}; it must be above 0.")
        for key in ("amplification_epochs", "amplify_weight", "hardest"):
            if not (getattr(self, key) or 0) >= 0:
                raise InputError(f"AAND: {key}={getattr(self, key)}; it must be at least 0.")
        if not 0 <= self.margin <= 2:
            raise InputError(f"AAND: margin={self.margin}; cosines differ by at most 2: it must lie in [0, 2].")

    def learning_rate_at(self, epoch: int) -> float:
        return _step_schedule(self.learning_rate, epoch, self.epochs)

    def build_target(self, teacher: Teacher, images: feature_cache.Rows, context: Context) -> feature_cache.Network:
        """Stage 1: the teacher with amplifiers, trained on synthetic anomalies in the images."""
        published = max(1, self.epochs * 100 // 120)
        epochs = published if self.amplification_epochs is None else self.amplification_epochs
        self.amplification_record_: dict[str, Any] = {}
        if not epochs:
            return teacher
        bank = textures.load(self.texture_folder, self.image_size, context.cache)
        foregrounds = torch.stack([estimate_foreground(images[[row]][0]) for row in range(len(images))])  # (N, h, w)
        train_loop.seed(context.seed, 0)
        amplifiers = self._amplifiers(teacher, context)
        history, epoch = self._train(amplifiers, teacher, images, foregrounds, bank, epochs, context)
        objects = int((~foregrounds.flatten(1).all(1)).sum())
        self.amplification_record_ = {
            "epoch": epoch,
            "history": history,
            "parameters": sum(parameter.numel() for parameter in amplifiers.parameters()),
            "textures": f"{len(bank)} "
            + (f"of {self.texture_folder}" if self.texture_folder else "procedural (no folder given)"),
            "foregrounds": f"estimated in {objects} of {len(images)} images, the whole image in the others",
        }
        return AmplifiedTeacher(teacher, amplifiers)

    def load_target(self, teacher: Teacher, state: Mapping[str, Tensor], context: Context) -> feature_cache.Network:
        weights = part(state, "amplifiers.")
        if not weights:
            return teacher
        amplifiers = self._amplifiers(teacher, context)
        amplifiers.load_state_dict(weights)
        return AmplifiedTeacher(teacher, amplifiers)

    def state(self) -> dict[str, Tensor]:
        if not isinstance(self.target_, AmplifiedTeacher):
            return super().state()
        weights = self.target_.amplifiers.state_dict()
        return super().state() | {f"amplifiers.{name}": value for name, value in weights.items()}

    def _amplifiers(self, teacher: Teacher, context: Context) -> Amplifiers:
        amplifiers = Amplifiers(teacher, self.image_size, self.prototypes, self.temperature, self.amplifier_init)
        return amplifiers.to(torch.device(context.device))

    def _train(
        self,
        amplifiers: Amplifiers,
        teacher: Teacher,
        images: feature_cache.Rows,
        foregrounds: Tensor,
        bank: feature_cache.Rows,
        epochs: int,
        context: Context,
    ) -> tuple[list[train_loop.Epoch], int]:
        """Train the amplifiers; for the result see `train_loop.optimise`."""
        device = torch.device(context.device)
        forward = _forward(teacher, amplifiers, context)

        def terms(batch: Sequence[int]) -> dict[str, Tensor]:
            rng = np.random.default_rng(int(torch.randint(2**62, ())))  # follows from the seed of the step
            foreground = foregrounds[batch].to(device)
            synthetic, masks = synthesise(images[batch].to(device), foreground, bank, rng)
            focal, amplify = losses(*forward(synthetic), masks, foreground, self.margin)
            return {"focal": focal, "amplify": self.amplify_weight * amplify}

        def evaluate(epoch: int) -> Mapping[str, float]:
            if context.evaluate_test and (epoch % context.evaluate_every == 0 or epoch == epochs):
                return context.evaluate_test(lambda test: self._gate_predictions(test, forward, context))
            return {}

        return train_loop.optimise(
            amplifiers,
            self.make_optimiser(amplifiers, fused=device.type in ("cpu", "cuda")),
            terms,
            len(images),
            epochs=epochs,
            batch_size=self.batch_size,
            learning_rate=lambda epoch: _step_schedule(self.learning_rate, epoch, epochs),
            context=replace(context, progress=lambda report: context.progress(report._replace(phase="amplify"))),
            checkpoint=context.checkpoint and context.checkpoint.with_name("checkpoint-amplification.pt"),
            fit_id=json.dumps([str(self), context.seed, context.evaluate_every, teacher.digest, _checksum(images)]),
            evaluate=evaluate,
            criterion=(lambda measured: -measured.get("pixel_ap", 0.0)) if self.selection == "oracle" else None,
        )

    def _gate_predictions(self, test: Sequence[Sample], forward: Forward, context: Context) -> Iterator[Prediction]:
        """Predictions of the gates alone, by which the oracle selects the epoch of stage 1."""
        images = feature_cache.load_images(test, self.image_size, context.cache)
        for start in range(0, len(test), context.predict_batch):
            batch = range(len(test))[start : start + context.predict_batch]
            with torch.no_grad():
                _, outputs = forward(images[batch].to(context.device))
                maps = gate_map(outputs, self.image_size).cpu()
            for anomaly_map in maps:  # (s, s)
                yield Prediction(anomaly_map.max().item(), anomaly_map)

    def loss_terms(self, teacher_features: list[Tensor], student_output: list[Tensor]) -> dict[str, Tensor]:
        """Stage 2, hard knowledge distillation: RD's loss, and per level the hardest positions of each image."""
        terms = super().loss_terms(teacher_features, student_output)
        if self.hardest:
            for number, features in enumerate(zip(teacher_features, student_output, strict=True), 1):
                terms[f"hard{number}"] = hardest_distance(*features, self.hardest)
        return terms

    @property
    def record(self) -> dict[str, Any]:
        return super().record | {"amplification": self.amplification_record_}


Forward = Callable[[Tensor], tuple[list[Tensor], list[AmplifierOutput]]]


def _forward(teacher: Teacher, amplifiers: Amplifiers, context: Context) -> Forward:
    """From (B, 3, s, s) uint8 images to the teacher's features, float32, and the amplifiers' outputs."""

    def forward(images: Tensor) -> tuple[list[Tensor], list[AmplifierOutput]]:
        features = teacher(teacher.normalise(images))
        with torch.autocast(images.device.type, DTYPES[context.precision], enabled=context.precision != "float32"):
            return features, amplifiers(features)

    return forward


def hardest_distance(teacher_features: Tensor, student_features: Tensor, number: int) -> Tensor:
    """Mean over images and over the positions of each with the largest cosine distances; all, if there are fewer.

    Args:
        teacher_features, student_features: maps of one level, (B, C, h, w).
        number: of positions per image.
    """
    distance = cosine_distance(teacher_features, student_features).flatten(1)  # (B, h w)
    return distance.topk(min(number, distance.shape[1]), sorted=False).values.mean()


def _step_schedule(rate: float, epoch: int, epochs: int) -> float:
    """The learning rate of an epoch, counted from 1: a fifth after 80 % of the epochs, a fifth of that after 90 %.

    >>> [round(_step_schedule(1.0, epoch, 10), 2) for epoch in (8, 9, 10)]
    [1.0, 0.2, 0.04]
    """
    steps = sum(10 * (epoch - 1) >= tenths * epochs for tenths in (8, 9))
    return rate * 0.2**steps


def _checksum(images: feature_cache.Rows) -> int:
    checksum = 0
    for row in range(len(images)):
        checksum = zlib.crc32(images[[row]].numpy().data, checksum)
    return checksum
