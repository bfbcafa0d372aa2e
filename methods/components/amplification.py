"""RAA, residual anomaly amplification: stage 1 of AAND turns a frozen teacher into one that reacts more to anomalies.

One amplifier runs beside each stage of the teacher. From the stage's feature F it computes a gate g in (0, 1), how
similar a position is to learned abnormal prototypes, and a residual v, which is F with its channels scaled up or down.
The amplified feature is A = F + g v. The teacher's next stage still receives F: A is an output only.

Source: Tang et al., IEEE TIP 2026, arXiv 2405.02068, and models/recons_net.py in Hui-design/AAND @376c4e4.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from methods.base import InputError
from methods.components.anomaly_maps import resize
from methods.components.teachers import STRIDES, Teacher

MAX_WIDTH = 1024  # hidden channels of a perceptron
FOCAL_GAMMA, FOCAL_ALPHA = 2.0, 0.8  # alpha weights the abnormal positions
MIN_COVERAGE = 0.3  # a feature position is abnormal if the mask covers more than this share of its cell
MAX_NORMAL, MAX_ABNORMAL = 5000, 1000  # positions of a batch in the amplification loss
Init = Literal["kaiming", "default"]  # see `perceptron`


class AmplifierOutput(NamedTuple):
    """Gate and residual for the feature map of one stage."""

    logit: Tensor  # (B, h, w); the gate is its sigmoid
    residual: Tensor  # (B, C, h, w)


class Amplifier(nn.Module):
    """The amplifier of one stage: matching-guided residual gate and attribute-scaling residual generator.

    Args:
        channels: C of the stage.
        side: h = w of the stage.
        prototypes: number of normal prototypes, and of abnormal ones.
        temperature: of the softmax over prototypes.
        init: see `perceptron`.
    """

    position_code: Tensor

    def __init__(self, channels: int, side: int, prototypes: int, temperature: float, init: Init = "kaiming") -> None:
        super().__init__()
        self.query, self.scale = perceptron(channels, init), perceptron(channels, init)
        self.prototypes = nn.Parameter(torch.randn(2 * prototypes, channels))  # the abnormal ones are the second half
        self.temperature = temperature
        self.register_buffer("position_code", position_code(channels, side), persistent=False)

    def forward(self, feature: Tensor) -> AmplifierOutput:
        # With channels last, the official code's 1x1 convolutions are matrix products.
        feature = feature.movedim(1, -1)  # (B, h, w, C)
        query = F.normalize(self.query(feature + self.position_code), dim=-1)
        cosines = query @ F.normalize(self.prototypes, dim=1).T  # (B, h, w, 2 prototypes)
        matching = cosines.to(feature.dtype) / self.temperature  # not in the lower precision of autocast
        normal, abnormal = matching.chunk(2, dim=-1)
        # The abnormal half of a softmax over both halves is the sigmoid of this difference.
        logit = abnormal.logsumexp(-1) - normal.logsumexp(-1)
        residual = self.scale(feature).tanh() * feature
        return AmplifierOutput(logit, residual.movedim(-1, 1))


def perceptron(channels: int, init: Init = "kaiming") -> nn.Sequential:
    """Three layers over the channels of each position.

    Args:
        init: of the weights. "kaiming" is normal with variance 2 / (output channels), as the official code initialises
            all of its convolutions (models/resnet_rar.py); "default" is torch's. Biases are torch's in both.
    """
    width = min(2 * channels, MAX_WIDTH)
    layers = [nn.Linear(channels, width), nn.Linear(width, width), nn.Linear(width, channels)]
    if init == "kaiming":
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(layers[0], nn.ReLU(inplace=True), layers[1], nn.ReLU(inplace=True), layers[2])


def position_code(channels: int, side: int) -> Tensor:
    """The 2-D sine position code: the first half of the channels encodes x, the second y, sine and cosine in turn.

    Channel 2i of a half of D channels is sin(p / 10000^(2i / D)) at position p = 0, 1, …, channel 2i + 1 its cosine.

    Returns:
        (side, side, channels) float32 in [-1, 1].

    Raises:
        InputError: the channels cannot be divided by 4.
    """
    if channels % 4:
        raise InputError(
            f"AAND: the teacher has a stage of {channels} channels; the position code needs a multiple of 4. "
            "Choose another teacher."
        )
    half = channels // 2
    period = 10000 ** (torch.arange(0, half, 2, dtype=torch.float64) / half)
    phase = torch.arange(side)[:, None] / period  # (side, C/4)
    code = torch.stack([phase.sin(), phase.cos()], -1).flatten(1).float()  # (side, C/2)
    return torch.cat([code[None].expand(side, -1, -1), code[:, None].expand(-1, side, -1)], -1)


class Amplifiers(nn.Module):
    """One amplifier per stage of a teacher, for images of a given size."""

    def __init__(
        self, teacher: Teacher, image_size: int, prototypes: int, temperature: float, init: Init = "kaiming"
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            Amplifier(channels, image_size // stride, prototypes, temperature, init)
            for channels, stride in zip(teacher.channels, STRIDES, strict=True)
        )

    def forward(self, features: list[Tensor]) -> list[AmplifierOutput]:
        return [stage(feature) for stage, feature in zip(self.stages, features, strict=True)]


class AmplifiedTeacher(nn.Module):
    """Teacher and trained amplifiers as one frozen network, whose features are distilled in stage 2."""

    digest: str | None = None  # the network belongs to one fit: storing its features would not pay

    def __init__(self, teacher: Teacher, amplifiers: Amplifiers) -> None:
        super().__init__()
        self.teacher, self.amplifiers = teacher, amplifiers
        self.channels, self.normalise = teacher.channels, teacher.normalise
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images, (B, 3, s, s), to the amplified features A = F + g v, shaped like the teacher's."""
        features = self.teacher(images)
        outputs = self.amplifiers(features)
        return [f + o.logit.sigmoid()[:, None] * o.residual for f, o in zip(features, outputs, strict=True)]


@torch.no_grad()
def gate_map(outputs: list[AmplifierOutput], size: int) -> Tensor:
    """(B, size, size): the gates, up-sampled and summed over stages; the anomaly map of stage 1 alone."""
    return torch.stack([resize(output.logit.sigmoid(), size, align_corners=True) for output in outputs]).sum(0)


def losses(
    features: list[Tensor], outputs: list[AmplifierOutput], masks: Tensor, foregrounds: Tensor, margin: float
) -> tuple[Tensor, Tensor]:
    """The focal and the amplification loss of stage 1, each summed over the teacher's stages.

    Args:
        features: of the teacher, (B, C_k, h_k, w_k) per stage.
        masks: (B, s, s) bool, of the anomalies.
        foregrounds: (B, h, w) bool, of the objects.
    """
    focal, amplification = [], []
    for feature, (logit, residual) in zip(features, outputs, strict=True):
        abnormal, foreground = (pool_mask(mask, feature.shape[-1]) for mask in (masks, foregrounds))  # (B, h_k, w_k)
        amplified = feature + abnormal[:, None] * residual  # in training the true mask replaces the gate
        focal.append(focal_loss(logit, abnormal))
        amplification.append(amplification_loss(feature, amplified, abnormal, foreground, margin))
    return torch.stack(focal).sum(), torch.stack(amplification).sum()


def pool_mask(masks: Tensor, side: int) -> Tensor:
    """(B, s, s) masks to (B, side, side) bool: true where a mask covers more than 0.3 of a cell.

    >>> pool_mask(torch.tensor([[[1, 1, 0, 0], [0, 0, 0, 1]]]).bool(), 2)  # shares .5, 0, 0, .5 of 1x2 cells
    tensor([[[ True, False],
             [False,  True]]])
    """
    return F.adaptive_avg_pool2d(masks[:, None].float(), side)[:, 0] > MIN_COVERAGE


def focal_loss(logit: Tensor, abnormal: Tensor) -> Tensor:
    """Mean over positions of -alpha_t (1 - p_t)^gamma log p_t, with p_t the probability of the true class.

    Args:
        logit: (B, h, w), of the gate.
        abnormal: (B, h, w) bool.
    """
    return sigmoid_focal_loss(logit, abnormal.to(logit.dtype), FOCAL_ALPHA, FOCAL_GAMMA, reduction="mean")


def amplification_loss(
    feature: Tensor, amplified: Tensor, abnormal: Tensor, foreground: Tensor, margin: float
) -> Tensor:
    """Mean over pairs of relu(cos(F_n, A_a) - (cos(F_n, F_a) - margin)): amplified, an anomaly is less like normal.

    n are normal positions of the foreground, a abnormal ones, of the whole batch, at most 5000 and 1000 at random.

    Args:
        feature, amplified: (B, C, h, w).
        abnormal, foreground: (B, h, w) bool.

    Returns:
        A scalar at least 0; 0 for a batch without a pair.
    """
    n = _sample_positions(foreground & ~abnormal, MAX_NORMAL)
    a = _sample_positions(abnormal, MAX_ABNORMAL)
    normal, before, after = _unit_vectors(feature, n), _unit_vectors(feature, a), _unit_vectors(amplified, a)
    gaps = F.relu(normal @ (after - before).T + margin)  # (n, a): the two cosines share F_n
    return gaps.sum() / max(gaps.numel(), 1)


def _sample_positions(mask: Tensor, number: int) -> tuple[Tensor, ...]:
    """Indices of at most `number` random true positions; drawn on the CPU, so that every device draws the same."""
    positions = mask.nonzero()  # (n, 3)
    return positions[torch.randperm(len(positions))[:number].to(positions.device)].unbind(1)


def _unit_vectors(maps: Tensor, positions: tuple[Tensor, ...]) -> Tensor:
    return F.normalize(maps.movedim(1, -1)[positions], dim=1)  # (n, C)
