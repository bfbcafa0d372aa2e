"""FD, forward distillation: a student of the teacher's own architecture sees the image and learns the feature maps.

This is STFPM, student-teacher feature pyramid matching, which papers on reverse distillation call forward distillation.
The recipe matched to RD is a variant: optimiser adam, learning_rate 0.005, batch_size 16, selection last, combine sum.

Wang et al., BMVC 2021; official code gdwang08/STFPM @2598a5e.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from methods.base import InputError
from methods.components.anomaly_maps import BLUR, cosine_distance, resize
from methods.components.teachers import Teacher
from methods.distillation import Distillation, Selection


@dataclass(kw_only=True, eq=False)
class FD(Distillation):
    """Student-teacher feature pyramid matching.

    Attributes:
        optimiser: "sgd" with momentum and weight decay (official), or "adam" with `betas` and no weight decay.
        combine: "product" of the levels' maps at a quarter of the image size, without blur (official), or "sum" at
            image size with Gaussian blur, as in RD.
    """

    paper: ClassVar[str] = "Wang et al., Student-Teacher Feature Pyramid Matching for Anomaly Detection, BMVC 2021"
    source: ClassVar[str] = "gdwang08/STFPM @2598a5e"
    deviations: ClassVar[tuple[str, ...]] = (
        "200 epochs, as in the official README's command; the code's default is 100.",
        "The loss is without the paper's factor 1/2, as in the official code.",
        "The epoch is selected on the data set's validation split if it has one, else on the official hold-out.",
        "That 'FD' in the SNL paper means STFPM is our reading: the accessible parts of that paper do not say so.",
    )
    student_input: ClassVar[Literal["features", "images"]] = "images"

    teacher: str = "resnet18.tv_in1k"
    optimiser: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.4
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_size: int = 32
    selection: Selection = "validation"
    combine: Literal["product", "sum"] = "product"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise InputError(f"FD: momentum={self.momentum}; it must lie in [0, 1).")
        if self.weight_decay < 0:
            raise InputError(f"FD: weight_decay={self.weight_decay}; it must be at least 0.")

    def build_student(self, teacher: Teacher) -> nn.Module:
        return teacher.untrained_copy()

    def make_optimiser(self, student: nn.Module, fused: bool) -> torch.optim.Optimizer:
        if self.optimiser == "adam":
            return super().make_optimiser(student, fused)
        return torch.optim.SGD(
            student.parameters(), self.learning_rate, self.momentum, weight_decay=self.weight_decay, fused=fused
        )

    def loss_terms(self, teacher_features: list[Tensor], student_output: list[Tensor]) -> dict[str, Tensor]:
        """Per level the mean over positions of the squared distance of unit feature vectors, which is 2 - 2 cos."""
        levels = zip(teacher_features, student_output, strict=True)
        return {f"level{number}": 2 * cosine_distance(*features).mean() for number, features in enumerate(levels, 1)}

    def anomaly_map(self, teacher_features: list[Tensor], student_output: list[Tensor]) -> Tensor:
        levels = zip(teacher_features, student_output, strict=True)
        distances = [2 * cosine_distance(*features) for features in levels]  # each (B, h_l, w_l)
        if self.combine == "sum":
            maps = [resize(distance, self.image_size, align_corners=True, sigma=BLUR) for distance in distances]
            return torch.stack(maps).sum(0)
        quarter = [resize(distance, self.image_size // 4, align_corners=False) for distance in distances]
        return resize(torch.stack(quarter).prod(0), self.image_size, align_corners=False)
