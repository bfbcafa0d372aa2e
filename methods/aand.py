"""AAND, advancing anomaly detection: first make the teacher react more to anomalies, then distil what is normal.

Stage 1, anomaly amplification: beside the frozen teacher, residual amplifiers (amplification.py) learn on synthetic
anomalies (anomaly_synthesis.py) to find abnormal positions and to move their features away from normal ones.
Stage 2, normality distillation: an RD student learns to reconstruct the amplified features of normal images, with the
weight on the positions where that is hardest. It never learns to reconstruct an amplified anomaly.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from methods.base import Context, InputError, Prediction, Sample
from methods.components import feature_cache, textures, train_loop
from methods.components.amplification import Amplification, AmplifiedTeacher, Answer, gate_map, losses
from methods.components.anomaly_maps import cosine_distance
from methods.components.anomaly_synthesis import foreground, synthesise
from methods.components.teachers import Teacher
from methods.distillation import DTYPES
from methods.rd import RD


@dataclass(kw_only=True, eq=False)
class AAND(RD):
    """Anomaly amplification, then normality distillation. Student and anomaly map are RD's.

    Attributes:
        epochs: of stage 2.
        amplification_epochs: of stage 1; None: 100 for every 120 of stage 2, as published; 0: no stage 1.
        texture_folder: images for synthetic anomalies, such as DTD's; None: computed textures.
        prototypes: normal ones, and as many abnormal ones, in each amplifier.
        temperature: of the gate's softmax over prototypes.
        margin: by which amplified anomalies should differ more from normal features, in cosine.
        amplify_weight: of that loss, beside the gate's focal loss.
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
        "Without texture_folder the textures are computed, not DTD's.",
        "Foregrounds are estimated per image from the colour of its border; the official masks come from a script of "
        "its own. Where no object stands out the whole image counts. Foregrounds are pooled as the masks are.",
        "Texture augmentations are torchvision's, in ranges like those of DRAEM's imgaug.",
        "Images are resized bilinearly, as for every method here; the official code does so bicubically.",
        "The last training batch is kept however small; batches are drawn by our own seed.",
    )

    epochs: int = 120
    amplification_epochs: int | None = None
    texture_folder: Path | None = None
    prototypes: int = 50
    temperature: float = 0.2
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
                raise InputError(f"AAND: {key}={getattr(self, key)}; it must not be below 0.")
        if not 0 <= self.margin <= 2:
            raise InputError(f"AAND: margin={self.margin}; cosines differ by at most 2: it must lie in [0, 2].")

    def learning_rate_at(self, epoch: int) -> float:
        return _stepped(self.learning_rate, epoch, self.epochs)

    def target(self, teacher: Teacher, images: feature_cache.Rows, context: Context) -> feature_cache.Network:
        """Stage 1: the teacher with amplifiers that have learnt from synthetic anomalies on the images."""
        published = max(1, self.epochs * 100 // 120)
        epochs = published if self.amplification_epochs is None else self.amplification_epochs
        self.amplification_record_: dict[str, Any] = {}
        if not epochs:
            return teacher
        device = torch.device(context.device)
        drawn_from = textures.load(self.texture_folder, self.image_size, context.cache)
        foregrounds = torch.stack([foreground(images[[row]][0]) for row in range(len(images))])  # (N, s/4, s/4)
        train_loop.seed(context.seed, 0)
        network = Amplification(teacher, self.image_size, self.prototypes, self.temperature).to(device)
        answer = _answering(teacher, network, context)

        def terms(batch: Sequence[int]) -> dict[str, Tensor]:
            rng = np.random.default_rng(int(torch.randint(2**62, ())))  # follows from the epoch's seed
            inside = foregrounds[batch].to(device)
            pictures, masks = synthesise(images[batch].to(device), inside, drawn_from, rng)
            focal, amplify = losses(*answer(pictures), masks, inside, self.margin)
            return {"focal": focal, "amplify": self.amplify_weight * amplify}

        def evaluate(epoch: int) -> Mapping[str, float]:
            if context.evaluate_test and (epoch % context.evaluate_every == 0 or epoch == epochs):
                return context.evaluate_test(lambda test: self._gate_maps(test, answer, context))
            return {}

        history, kept = train_loop.optimise(
            network,
            self.make_optimiser(network, fused=device.type in ("cpu", "cuda")),
            terms,
            len(images),
            epochs=epochs,
            batch_size=self.batch_size,
            learning_rate=lambda epoch: _stepped(self.learning_rate, epoch, epochs),
            context=replace(context, progress=lambda report: context.progress(report._replace(phase="amplify"))),
            checkpoint=context.checkpoint and context.checkpoint.with_name("checkpoint-amplification.pt"),
            identity=json.dumps([str(self), context.seed, context.evaluate_every, teacher.digest, _checksum(images)]),
            evaluate=evaluate,
            keep=(lambda measured: -measured.get("pixel_ap", 0.0)) if self.selection == "oracle" else None,
        )
        objects = int((~foregrounds.flatten(1).all(1)).sum())
        self.amplification_record_ = {
            "epoch": kept,
            "history": history,
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "textures": f"{len(drawn_from)} of {self.texture_folder}"
            if self.texture_folder
            else f"{len(drawn_from)} computed (no folder given)",
            "foregrounds": f"estimated in {objects} of {len(images)} images, the whole image in the others",
        }
        return AmplifiedTeacher(teacher, network)

    def _gate_maps(self, test: Sequence[Sample], answer: Answering, context: Context) -> Iterator[Prediction]:
        """What the gates alone say of images: by this the oracle chooses the epoch of stage 1."""
        pictures = feature_cache.images(test, self.image_size, context.cache)
        for at in range(0, len(test), context.predict_batch):
            batch = list(range(len(test)))[at : at + context.predict_batch]
            with torch.no_grad():
                _, answers = answer(pictures[batch].to(context.device))
                maps = gate_map(answers, self.image_size).cpu()
            for anomaly_map in maps:  # (s, s)
                yield Prediction(anomaly_map.max().item(), anomaly_map)

    def loss_terms(self, teacher: list[Tensor], student: list[Tensor]) -> dict[str, Tensor]:
        """Stage 2, hard knowledge distillation: RD's loss, and per level the hardest positions of each image."""
        terms = super().loss_terms(teacher, student)
        if self.hardest:
            for number, maps in enumerate(zip(teacher, student, strict=True), 1):
                terms[f"hard{number}"] = hardest_distance(*maps, self.hardest)
        return terms

    @property
    def record(self) -> dict[str, Any]:
        return super().record | {"amplification": self.amplification_record_}


Answering = Callable[[Tensor], tuple[list[Tensor], list[Answer]]]


def _answering(teacher: Teacher, network: Amplification, context: Context) -> Answering:
    """From (B, 3, s, s) uint8 images to the teacher's features and the amplifiers' answers, both float32."""

    def answer(images: Tensor) -> tuple[list[Tensor], list[Answer]]:
        features = teacher(teacher.normalise(images))
        with torch.autocast(images.device.type, DTYPES[context.precision], enabled=context.precision != "float32"):
            return features, network(features)

    return answer


def hardest_distance(teacher: Tensor, student: Tensor, number: int) -> Tensor:
    """Mean over images and over the positions of each with the largest cosine distances; all, if there are fewer."""
    distance = cosine_distance(teacher, student).flatten(1)  # (B, h w)
    return distance.topk(min(number, distance.shape[1]), sorted=False).values.mean()


def _stepped(rate: float, epoch: int, epochs: int) -> float:
    """The learning rate of an epoch, counted from 1: a fifth after 80 % of the epochs, a fifth of that after 90 %."""
    passed = sum(10 * (epoch - 1) >= tenths * epochs for tenths in (8, 9))
    return rate * 0.2**passed


def _checksum(images: feature_cache.Rows) -> int:
    checksum = 0
    for row in range(len(images)):
        checksum = zlib.crc32(images[[row]].numpy().data, checksum)
    return checksum
