"""RD, reverse distillation: the student restores the teacher's features from a code too narrow for anomalies.

A bottleneck condenses the three feature maps of the teacher (decoders.py), and a decoder, the teacher in reverse,
restores them from coarse to fine. It has not learned to restore anomalies: there its features differ.

Deng and Li, CVPR 2022; official code hq-deng/RD4AD @6554076.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn import functional as F

from methods.components.anomaly_maps import BLUR, cosine_distance, resize
from methods.components.decoders import Decoder, OneClassBottleneck, ReverseStudent
from methods.components.teachers import Teacher
from methods.distillation import Distillation


@dataclass(kw_only=True, eq=False)
class RD(Distillation):
    """Reverse distillation from a one-class embedding.

    Attributes:
        loss: "flat" is the official code's, one cosine distance per image and level between the maps as vectors;
            "pixel" is the paper's equations 1 and 2, the mean of the cosine distances at each position.
        bottleneck_width: "teacher" builds the fourth residual stage as wide inside as the teacher's stages, as the
            official code does; "narrow" with 64 channels per 64 planes, as ADer does. They differ for wide ResNets.
    """

    paper: ClassVar[str] = "Deng and Li, Anomaly Detection via Reverse Distillation from One-Class Embedding, CVPR 2022"
    source: ClassVar[str] = "hq-deng/RD4AD @6554076"
    deviations: ClassVar[tuple[str, ...]] = (
        "The default loss is the official code's (flat), not the paper's (pixel): it gives the published numbers.",
        "The last training batch is kept even if it is small; batches follow Proctor's seed.",
    )

    loss: Literal["flat", "pixel"] = "flat"
    bottleneck_width: Literal["teacher", "narrow"] = "teacher"

    def build_student(self, teacher: Teacher) -> ReverseStudent:
        bottleneck = OneClassBottleneck(teacher, base_width=64 if self.bottleneck_width == "narrow" else None)
        return ReverseStudent(bottleneck, Decoder(teacher))

    def loss_terms(self, teacher_features: list[Tensor], student_output: list[Tensor]) -> dict[str, Tensor]:
        """One term per level, summed with weight 1 (equation 2)."""
        distance = _flat_distance if self.loss == "flat" else cosine_distance
        levels = zip(teacher_features, student_output, strict=True)
        return {f"level{number}": distance(*features).mean() for number, features in enumerate(levels, 1)}

    def anomaly_map(self, teacher_features: list[Tensor], student_output: list[Tensor]) -> Tensor:
        """Equation 3: distance maps, up-sampled and summed over levels, then blurred."""
        levels = zip(teacher_features, student_output, strict=True)
        distances = [cosine_distance(*features) for features in levels]  # each (B, h_l, w_l)
        maps = [resize(distance, self.image_size, align_corners=True, sigma=BLUR) for distance in distances]
        return sum(maps[1:], maps[0])


def _flat_distance(teacher_features: Tensor, student_features: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(teacher_features.flatten(1), student_features.flatten(1))  # (B,)
