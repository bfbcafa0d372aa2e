"""RAA, residual anomaly amplification: stage 1 of AAND makes of a frozen teacher one that reacts to anomalies.

Beside each of the teacher's stages stands one amplifier. From the stage's feature F it computes a gate g in (0, 1), how
far a position resembles learnt abnormal prototypes, and a residual v, F with its channels scaled up or down. The
amplified feature is A = F + g v. The teacher's next stage still receives F: A is an output only.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from methods.base import InputError
from methods.components.anomaly_maps import resize
from methods.components.teachers import STRIDES, Teacher

WIDEST = 1024  # channels inside a perceptron, at most
FOCUS, BALANCE = 2.0, 0.8  # gamma and alpha of the focal loss; alpha weights the abnormal positions
COVERED = 0.3  # share of a feature's cell above which a mask covers it
MOST_NORMAL, MOST_ABNORMAL = 5000, 1000  # positions of a batch in the amplification loss


class Answer(NamedTuple):
    """What an amplifier says of one feature map."""

    logit: Tensor  # (B, h, w); the gate is its sigmoid
    residual: Tensor  # (B, C, h, w)


class Amplifier(nn.Module):
    """The amplifier of one stage: matching-guided residual gate and attribute-scaling residual generator.

    Args:
        channels: C of the stage.
        side: h = w of the stage.
        prototypes: number of normal, and of abnormal, prototypes.
        temperature: of the softmax over prototypes.
    """

    positions: Tensor

    def __init__(self, channels: int, side: int, prototypes: int, temperature: float) -> None:
        super().__init__()
        self.query, self.scale = perceptron(channels), perceptron(channels)
        self.prototypes = nn.Parameter(torch.randn(2 * prototypes, channels))  # the abnormal ones are the second half
        self.temperature = temperature
        self.register_buffer("positions", position_code(channels, side), persistent=False)

    def forward(self, feature: Tensor) -> Answer:
        # With the channels last, the official code's 1x1 convolutions are the matrix products that they amount to.
        feature = feature.movedim(1, -1)  # (B, h, w, C)
        query = F.normalize(self.query(feature + self.positions), dim=-1)
        cosines = query @ F.normalize(self.prototypes, dim=1).T  # (B, h, w, 2 prototypes)
        matching = cosines.to(feature.dtype) / self.temperature  # not in the lower precision of autocast
        normal, abnormal = matching.chunk(2, dim=-1)
        # The abnormal half of a softmax over both halves is the sigmoid of this difference.
        logit = abnormal.logsumexp(-1) - normal.logsumexp(-1)
        residual = self.scale(feature).tanh() * feature
        return Answer(logit, residual.movedim(-1, 1))


def perceptron(channels: int) -> nn.Sequential:
    """Three layers over the channels of each position."""
    width = min(2 * channels, WIDEST)
    return nn.Sequential(
        nn.Linear(channels, width), nn.ReLU(inplace=True),
        nn.Linear(width, width), nn.ReLU(inplace=True),
        nn.Linear(width, channels),
    )  # fmt: skip


def position_code(channels: int, side: int) -> Tensor:
    """The 2-D sine code: the first half of the channels codes x, the second y, sine and cosine in turn.

    Channel 2i of a half of D channels is sin(p / 10000^(2i / D)) at position p = 0, 1, …, channel 2i + 1 its cosine.

    Returns:
        (side, side, channels) float32 in [-1, 1].

    Raises:
        InputError: the channels cannot be divided by 4.
    """
    if channels % 4:
        raise InputError(
            f"AAND: the teacher has a stage of {channels} channels; the position code needs a multiple of 4. "
            "Name another teacher."
        )
    half = channels // 2
    period = 10000 ** (torch.arange(0, half, 2, dtype=torch.float64) / half)
    phase = torch.arange(side)[:, None] / period  # (side, C/4)
    code = torch.stack([phase.sin(), phase.cos()], -1).flatten(1).float()  # (side, C/2)
    return torch.cat([code[None].expand(side, -1, -1), code[:, None].expand(-1, side, -1)], -1)


class Amplification(nn.Module):
    """One amplifier per stage of a teacher, for images of a given size."""

    def __init__(self, teacher: Teacher, image_size: int, prototypes: int, temperature: float) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            Amplifier(channels, image_size // stride, prototypes, temperature)
            for channels, stride in zip(teacher.channels, STRIDES, strict=True)
        )

    def forward(self, features: list[Tensor]) -> list[Answer]:
        return [stage(feature) for stage, feature in zip(self.stages, features, strict=True)]


class AmplifiedTeacher(nn.Module):
    """Teacher and trained amplification as one frozen network, whose features stage 2 learns."""

    digest: str | None = None  # it belongs to one fit: its features are not worth a place on the disk

    def __init__(self, teacher: Teacher, amplification: Amplification) -> None:
        super().__init__()
        self.teacher, self.amplification = teacher, amplification
        self.channels, self.normalise = teacher.channels, teacher.normalise
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images, (B, 3, s, s), to the amplified features A = F + g v, shaped like the teacher's."""
        features = self.teacher(images)
        answers = self.amplification(features)
        return [f + a.logit.sigmoid()[:, None] * a.residual for f, a in zip(features, answers, strict=True)]


@torch.no_grad()
def gate_map(answers: list[Answer], size: int) -> Tensor:
    """(B, size, size): the gates, up-sampled and summed over stages; where stage 1 alone sees anomalies."""
    return torch.stack([resize(answer.logit.sigmoid(), size, align_corners=True) for answer in answers]).sum(0)


def losses(
    features: list[Tensor], answers: list[Answer], masks: Tensor, inside: Tensor, margin: float
) -> tuple[Tensor, Tensor]:
    """The focal and the amplification loss of stage 1, each summed over the teacher's stages.

    Args:
        features: of the teacher, (B, C_k, h_k, w_k).
        masks: (B, s, s) bool, of the anomalies.
        inside: (B, h, w) bool, of the foregrounds.
    """
    focal, amplify = [], []
    for feature, (logit, residual) in zip(features, answers, strict=True):
        abnormal, foreground = (covered(mask, feature.shape[-1]) for mask in (masks, inside))  # (B, h_k, w_k)
        amplified = feature + abnormal[:, None] * residual  # in training the true mask stands for the gate
        focal.append(focal_loss(logit, abnormal))
        amplify.append(amplify_loss(feature, amplified, abnormal, foreground, margin))
    return torch.stack(focal).sum(), torch.stack(amplify).sum()


def covered(masks: Tensor, side: int) -> Tensor:
    """(B, s, s) masks to (B, side, side) bool: true where they cover more than 0.3 of a cell."""
    return F.adaptive_avg_pool2d(masks[:, None].float(), side)[:, 0] > COVERED


def focal_loss(logit: Tensor, abnormal: Tensor) -> Tensor:
    """Mean over positions of -alpha_t (1 - p_t)^gamma log p_t, with p_t the gate's probability of what is true.

    Args:
        logit: (B, h, w), of the gate.
        abnormal: (B, h, w) bool.
    """
    return sigmoid_focal_loss(logit, abnormal.to(logit.dtype), BALANCE, FOCUS, reduction="mean")


def amplify_loss(feature: Tensor, amplified: Tensor, abnormal: Tensor, foreground: Tensor, margin: float) -> Tensor:
    """Mean over pairs of relu(cos(F_n, A_a) - (cos(F_n, F_a) - margin)): amplified, an anomaly is further from normal.

    n are normal positions of the foreground, a abnormal ones, of the whole batch, at most 5000 and 1000 at random.

    Args:
        feature, amplified: (B, C, h, w).
        abnormal, foreground: (B, h, w) bool.

    Returns:
        A scalar at least 0; 0 for a batch without a pair.
    """
    n, a = _drawn(foreground & ~abnormal, MOST_NORMAL), _drawn(abnormal, MOST_ABNORMAL)
    normal, before, after = (_unit_vectors(*at) for at in ((feature, n), (feature, a), (amplified, a)))
    gaps = F.relu(normal @ (after - before).T + margin)  # (n, a): the two cosines share F_n
    return gaps.sum() / max(gaps.numel(), 1)


def _drawn(mask: Tensor, most: int) -> tuple[Tensor, ...]:
    """Indices of true places, at most so many, drawn at random; on the CPU, so that every device draws the same."""
    places = mask.nonzero()  # (n, 3)
    return places[torch.randperm(len(places))[:most].to(places.device)].unbind(1)


def _unit_vectors(maps: Tensor, places: tuple[Tensor, ...]) -> Tensor:
    return F.normalize(maps.movedim(1, -1)[places], dim=1)  # (n, C)
