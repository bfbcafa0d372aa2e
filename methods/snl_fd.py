"""SNL on FD: FD's student with CRAM after each stage, trained to match the structure of the features as well.

The losses, the anomaly map and CRAM are in structural.py; student and distance are FD's, the recipe is matched to RD.

Deng and Li, arXiv 2402.17091; no official code found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from methods.base import InputError
from methods.components.structural import CRAM, Structural
from methods.components.teachers import Teacher
from methods.distillation import Selection
from methods.fd import FD


@dataclass(kw_only=True, eq=False)
class SNLFD(Structural, FD):
    """Structural normality learning with FD's student. CRAM's output is distilled and is the next stage's input."""

    deviations: ClassVar[tuple[str, ...]] = (
        *Structural.deviations,
        "That 'FD', the paper's second baseline, means STFPM is our reading: its accessible parts do not say so.",
        "The recipe is RD's and not STFPM's: Adam, learning rate 0.005, batches of 16, the last epoch, the sum of the "
        "levels' maps. So both forms of SNL differ in the student only.",
        "The channel-wise distance is STFPM's squared one, 2 - 2 cos, as is its map.",
    )

    optimiser: Literal["sgd", "adam"] = "adam"
    learning_rate: float = 5e-3
    batch_size: int = 16
    selection: Selection = "last"
    combine: Literal["product", "sum"] = "sum"

    def build_student(self, teacher: Teacher) -> nn.Module:
        student: Any = super().build_student(teacher)
        if not self.centres:
            return student
        try:
            for name, channels in zip(student.feature_info.module_name(), teacher.channels, strict=True):
                stage = student.model.get_submodule(name)
                student.model.set_submodule(name, nn.Sequential(stage, CRAM(channels, self.centres)))
            with torch.no_grad():
                student.eval()(torch.zeros(1, 3, self.image_size, self.image_size))
        except (AttributeError, TypeError, RuntimeError, ValueError) as error:  # timm's networks differ in structure
            raise InputError(
                f"SNLFD: CRAM cannot be put after the stages of {teacher.architecture} ({error}). Choose a teacher "
                "whose stages are modules that return (B, C, h, w) maps, such as a ResNet, or set centres to 0."
            ) from error
        return student
