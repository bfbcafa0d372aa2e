"""SNL on RD: the reverse decoder with CRAM after each stage, trained to match the structure of the features as well.

The losses, the anomaly map and CRAM are in structural.py; the student, the optimiser and the other settings are RD's.

Deng and Li, arXiv 2402.17091; no official code found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from methods.components.decoders import ReverseStudent
from methods.components.structural import CRAM, Structural
from methods.components.teachers import Teacher
from methods.rd import RD


@dataclass(kw_only=True, eq=False)
class SNL(Structural, RD):
    """Structural normality learning with RD's student. CRAM's output is distilled and is the next stage's input.

    Attributes:
        loss: of the channel-wise distance; "pixel" is one at each position, as the paper's caption calls it local.
    """

    deviations: ClassVar[tuple[str, ...]] = (
        *Structural.deviations,
        "Optimiser, epochs, batch size and image size are RD's; the paper's could not be read.",
    )

    loss: Literal["flat", "pixel"] = "pixel"

    def build_student(self, teacher: Teacher) -> ReverseStudent:
        student = super().build_student(teacher)
        if self.centres:
            stages = student.decoder.stages
            for index, channels in enumerate(reversed(teacher.channels)):  # the stages come coarsest first
                stages[index] = nn.Sequential(stages[index], CRAM(channels, self.centres))
        return student
