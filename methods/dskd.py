"""DSKD, contextual affinity distillation: a local student for structural anomalies, a global one for logical anomalies.

The local student is that of reverse distillation. The global student restores the teacher's features from a code
without positions, which represents the whole image; it is compared with the teacher by the similarities of each of its
features to all of the teacher's (the contextual affinity), which tolerates that it restores details only roughly.

Zhang, Suganuma and Okatani, arXiv 2307.03101; no official code found. Equation numbers are the paper's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from methods.base import Context, InputError
from methods.components import feature_cache
from methods.components.anomaly_maps import BLUR, cosine_distance, mean_and_deviation, resize
from methods.components.contextual import ContextualTeacher, contextual_divergence
from methods.components.decoders import Blocks, Decoder, OneClassBottleneck, ReverseStudent, initialise, residual_stage
from methods.components.teachers import Teacher
from methods.distillation import Distillation, Outputs

MIN_TEMPERATURE = 0.05  # for which float32 holds the sums of equation 4
LEVELS = 3


@dataclass(kw_only=True, eq=False)
class DSKD(Distillation):
    """Dual-student knowledge distillation.

    Attributes:
        local_loss, global_loss: the loss and anomaly map of each student: "pixel", the cosine distance at each
            position (equations 1 and 2), or "contextual" (equations 3 to 7); "none" leaves the student out.
        gccb_channels: g, the channels of the code in the global context condensing block; 0 leaves the block out.
        condense: how the block removes and restores positions, which the paper leaves open: see
            `GlobalContextCondensing`. The default did better than "pool" on the toy data set's logical anomalies: image
            AUROC 1.00 against 0.67 on cog, 1.00 against 0.93 on tray (one-class, 20 epochs, one seed).
        temperature: tau of equation 4, at least 0.05.
    """

    paper: ClassVar[str] = (
        "Zhang, Suganuma and Okatani, Contextual Affinity Distillation for Image Anomaly Detection, arXiv 2307.03101"
    )
    source: ClassVar[str] = "none found; built from the paper"
    deviations: ClassVar[tuple[str, ...]] = (
        "How the condensing block removes and restores positions is ours: the paper gives only the sizes.",
        "The global student's fourth residual stage starts from random weights, as RD's bottleneck does: the paper "
        "leaves open whether it starts from ImageNet's.",
        "The local student's loss is the paper's equation 2, at each position; that nothing of RD is changed could "
        "also mean the flat loss of RD's code.",
        "The mean and standard deviation of equation 8 are taken over all pixels of all images, before the blur: the "
        "paper does not say.",
        "Maps are up-sampled with align_corners=True, as in RD's code: the paper only calls it bilinear.",
        "The Gaussian blur has RD's standard deviation of 4 pixels, and the map for localisation is blurred as well as "
        "the one whose maximum is the image's score: the paper leaves both open.",
        "No augmentation: on LOCO the paper uses those of another method, which it does not list.",
    )

    local_loss: Literal["pixel", "contextual", "none"] = "pixel"
    global_loss: Literal["pixel", "contextual", "none"] = "contextual"
    gccb_channels: int = 1024
    condense: Literal["conv", "pool"] = "conv"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gccb_channels < 0:
            raise InputError(f"DSKD: gccb_channels={self.gccb_channels}; it must be above 0, or 0 for no block.")
        if not self.temperature >= MIN_TEMPERATURE:
            raise InputError(f"DSKD: temperature={self.temperature}; it must be at least {MIN_TEMPERATURE}.")
        if not self._losses:
            raise InputError("DSKD: local_loss and global_loss are both 'none': there must be at least one student.")

    @property
    def _losses(self) -> dict[str, str]:
        """The loss of each student that is not left out."""
        losses = {"local": self.local_loss, "global": self.global_loss}
        return {student: loss for student, loss in losses.items() if loss != "none"}

    def build_target(self, teacher: Teacher, images: feature_cache.Rows, context: Context) -> feature_cache.Network:
        """The teacher, with the context of its features if a loss compares them with it."""
        return self.load_target(teacher, {}, context)

    def load_target(self, teacher: Teacher, state: Mapping[str, Tensor], context: Context) -> feature_cache.Network:
        return ContextualTeacher(teacher, self.temperature) if "contextual" in self._losses.values() else teacher

    def build_student(self, teacher: Teacher) -> nn.Module:
        students = {}
        for name in self._losses:
            bottleneck = OneClassBottleneck(teacher) if name == "local" else self._global_bottleneck(teacher)
            # `global` alone is a keyword of Python, which torch.export cannot name in the code that it writes.
            students[f"{name}_student"] = ReverseStudent(bottleneck, Decoder(teacher))
        return Students(students)

    def _global_bottleneck(self, teacher: Teacher) -> nn.Module:
        """OCBE_glo: a fourth residual stage on the third level alone, with the condensing block at its end."""
        blocks, coarse = Blocks.of(teacher), teacher.channels[2]
        stage = residual_stage(blocks, blocks.depths[0], coarse, 2 * coarse, "halve")
        condense: nn.Module = nn.Identity()
        if self.gccb_channels:
            condense = GlobalContextCondensing(2 * coarse, self.gccb_channels, self.image_size // 32, self.condense)
        bottleneck = nn.Sequential(LastLevel(), stage, condense)
        initialise(bottleneck)
        return bottleneck

    def _distances(self, target_features: list[Tensor], student_output: list[list[Tensor]]) -> dict[str, list[Tensor]]:
        """For each student M^l of equation 1 or 6 at every level, (B, h_l, w_l)."""
        teacher_features, contexts = target_features[:LEVELS], target_features[LEVELS:]
        distances = {}
        for (name, loss), student_features in zip(self._losses.items(), student_output, strict=True):
            if loss == "pixel":
                levels = zip(teacher_features, student_features, strict=True)
                distances[name] = [cosine_distance(*features) for features in levels]
            else:
                with_context = zip(teacher_features, contexts, student_features, strict=True)
                distances[name] = [contextual_divergence(*features, self.temperature) for features in with_context]
        return distances

    def loss_terms(self, teacher_features: list[Tensor], student_output: list[list[Tensor]]) -> dict[str, Tensor]:
        """Equations 2 and 7: for each student and level, the mean over positions.

        Args:
            teacher_features: as `build_target` returns them, contexts included; so in `anomaly_map`.
        """
        distances = self._distances(teacher_features, student_output)
        return {f"{name}{number}": m.mean() for name, maps in distances.items() for number, m in enumerate(maps, 1)}

    def anomaly_map(self, teacher_features: list[Tensor], student_output: list[list[Tensor]]) -> Tensor:
        """Equation 8, then blur. The order does not matter: blur keeps a constant and is linear."""
        maps = []
        for name, summed in self._maps(teacher_features, student_output, BLUR).items():
            mean, deviation = self.scales_[name]
            maps.append((summed - mean) / deviation)
        return sum(maps[1:], maps[0])

    def _maps(
        self, teacher_features: list[Tensor], student_output: list[list[Tensor]], sigma: float
    ) -> dict[str, Tensor]:
        """For each student the sum over levels of the up-sampled distances, (B, s, s)."""
        return {
            name: torch.stack([resize(m, self.image_size, align_corners=True, sigma=sigma) for m in levels]).sum(0)
            for name, levels in self._distances(teacher_features, student_output).items()
        }

    def calibrate(self, outputs: Iterable[Outputs]) -> None:
        """Mean and standard deviation of equation 8, over all pixels of all normal images."""
        maps = (torch.stack(list(self._maps(*batch, sigma=0).values())) for batch in outputs)
        means, deviations = mean_and_deviation(maps)
        self.scales_ = dict.fromkeys(self._losses, (0.0, 1.0))
        for name, mean, deviation in zip(self._losses, means, deviations, strict=False):
            self.scales_[name] = mean, deviation or 1.0  # 0 if all maps are constant

    def state(self) -> dict[str, Tensor]:
        scales = [self.scales_[name] for name in self._losses]
        return super().state() | {"scales": torch.tensor(scales, dtype=torch.float64)}  # (students, 2)

    def load_state(self, state: Mapping[str, Tensor], context: Context) -> Self:
        scales = [(mean, deviation) for mean, deviation in state["scales"].tolist()]
        self.scales_ = dict(zip(self._losses, scales, strict=True))
        return super().load_state(state, context)

    @property
    def record(self) -> dict[str, Any]:
        names = ("mean", "standard_deviation")
        return super().record | {"scales": {name: dict(zip(names, v, strict=True)) for name, v in self.scales_.items()}}


class GlobalContextCondensing(nn.Module):
    """GCCB: from (B, C, h, w) to a code of 1 x 1 x g, and back.

    Channels are reduced and restored by 1x1 convolutions, none if g is C already. Batch norm comes before the positions
    are removed: at 1 x 1 it could not normalise a batch of one.

    Args:
        channels: C.
        code: g.
        size: h = w.
        condense: "conv" removes the positions by a convolution as large as the map, one filter per channel, and
            restores them by a transposed one; "pool" takes the mean over positions and repeats it at each, so that the
            decoder knows positions from its padding alone.
    """

    def __init__(self, channels: int, code: int, size: int, condense: Literal["conv", "pool"]) -> None:
        super().__init__()
        reduce = [nn.Conv2d(channels, code, 1, bias=False), nn.BatchNorm2d(code), nn.ReLU(inplace=True)]
        self.reduce = nn.Sequential(*(reduce if code != channels else ()))
        if condense == "conv":
            self.condense: nn.Module = nn.Conv2d(code, code, size, groups=code)
            self.restore: nn.Module = nn.ConvTranspose2d(code, code, size, groups=code)
        else:
            self.condense, self.restore = nn.AdaptiveAvgPool2d(1), nn.Upsample(scale_factor=size)
        self.expand = nn.Conv2d(code, channels, 1) if code != channels else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        code = self.condense(self.reduce(features))  # (B, g, 1, 1)
        return self.expand(self.restore(code))  # (B, C, h, w)


class LastLevel(nn.Module):
    """Selects the coarsest feature map."""

    def forward(self, features: list[Tensor]) -> Tensor:
        return features[-1]


class Students(nn.ModuleDict):
    """Students of the same teacher's maps; returns their outputs in order."""

    def forward(self, features: list[Tensor]) -> list[Any]:
        """Features as `DSKD.build_target` returns them: contexts are only compared."""
        return [student(features[:LEVELS]) for student in self.values()]
