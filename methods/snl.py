"""SNL on RD: the reverse decoder with CRAM after each stage, taught the structure of the teacher's features as well.

The losses, the map and CRAM are in structural.py; the student, the optimiser and the rest of the recipe are RD's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from methods.components.decoders import ReverseStudent
from methods.components.structural import CRAM, RECONSTRUCTION, Structural
from methods.components.teachers import Teacher
from methods.rd import RD


@dataclass(kw_only=True, eq=False)
class SNL(Structural, RD):
    """Structural normality learning with RD's student. What CRAM gives is distilled and feeds the next stage.

    Attributes:
        loss: of the channel-wise distance; "pixel" is one at each position, as the paper's caption calls it local.
    """

    paper: ClassVar[str] = (
        "Deng and Li, Structural Teacher-Student Normality Learning for Multi-Class Anomaly Detection and "
        "Localization, arXiv 2402.17091, 2024"
    )
    source: ClassVar[str] = "none found"
    deviations: ClassVar[tuple[str, ...]] = (
        *RECONSTRUCTION,
        "Optimiser, epochs, batch size and image size are RD's; what the paper uses could not be read.",
    )

    loss: Literal["flat", "pixel"] = "pixel"

    def build_student(self, teacher: Teacher) -> ReverseStudent:
        student = super().build_student(teacher)
        if self.centres:
            stages = student.decoder.stages
            for index, channels in enumerate(reversed(teacher.channels)):  # the stages come coarsest first
                stages[index] = nn.Sequential(stages[index], CRAM(channels, self.centres))
        return student
