"""SNL, structural normality learning: structural losses for the student, and CRAM, a module in it.

A teacher-student network that learns many categories at once becomes too tolerant: it imitates the teacher where it
should fail. SNL makes the student match structure as well: where in the image each channel responds, how similar the
positions of an image are to each other (intra-affinity) and how similar the images of a batch are (inter-affinity).
`snl` applies it to RD and `snl_fd` to FD.

A reconstruction. The paper's abstract and figure captions state the four differences per block, that only the
channel-wise distance and the intra-affinity are used in testing, and that CRAM follows each block of the student. All
formulas, weights and constants below are ours, so none has an equation number of the paper.

Deng and Li, arXiv 2402.17091; no official code found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.base import Context, InputError
from methods.components.anomaly_maps import BLUR, mean_and_deviation, resize
from methods.distillation import BatchNorm, Distillation, Outputs


class CRAM(nn.Module):
    """Central residual aggregation: each position's residual to its soft nearest of K learned centres of normality.

    With the assignments a_j = softmax_j(w_j x + b_j) as in NetVLAD, the residuals aggregate to z = sum_j a_j (x - c_j)
    and the output is x + BN(W z). Maps keep their shape, (B, C, h, w). BN's scale starts at 0, so that training starts
    from the baseline itself: every loss term then fell faster than with a scale of 1.
    """

    def __init__(self, channels: int, centres: int) -> None:
        super().__init__()
        self.assign = nn.Conv2d(channels, centres, 1)
        self.centres = nn.Conv2d(centres, channels, 1, bias=False)  # its K columns are the centres
        norm = nn.BatchNorm2d(channels)
        self.project = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), norm)
        nn.init.zeros_(norm.weight)
        nn.init.normal_(self.centres.weight, std=channels**-0.5)  # centres of unit length, on average

    def forward(self, features: Tensor) -> Tensor:
        assignment = self.assign(features).softmax(1)  # (B, K, h, w)
        residual = features - self.centres(assignment)  # as the assignments sum to 1, x moves out of the sum
        return features + self.project(residual)


def spatial_cosine_distance(teacher_features: Tensor, student_features: Tensor) -> Tensor:
    """1 - cos over positions for each channel: whether the channel responds at the same places, at any scale.

    Args:
        teacher_features, student_features: maps of one level, (B, C, h, w).

    Returns:
        (B, C) in [0, 2].
    """
    return 1 - F.cosine_similarity(teacher_features.flatten(2), student_features.flatten(2), dim=2)


def spatial_divergence(teacher_features: Tensor, student_features: Tensor, temperature: float) -> Tensor:
    """tau^2 KL between the distributions of a channel over positions, the softmax of x / tau, teacher against student.

    Args:
        teacher_features, student_features: maps of one level, (B, C, h, w).

    Returns:
        (B, C), at least 0.
    """
    t, s = (F.log_softmax(maps.flatten(2) / temperature, 2) for maps in (teacher_features, student_features))
    return temperature**2 * F.kl_div(s, t, reduction="none", log_target=True).sum(2)  # of (B, C, N)


def intra_affinity_distance(teacher_features: Tensor, student_features: Tensor) -> Tensor:
    """||A_T - A_S||^2 / N^2 in the Frobenius norm; A_ij is the cosine of the features at positions i and j of N.

    If a level has fewer channels than positions, no (N, N) matrix is formed: with unit columns T and S of shape
    (C, N), it is the norm of T'T - S'S, whose square is ||TT'||^2 + ||SS'||^2 - 2 ||TS'||^2 exactly.

    Args:
        teacher_features, student_features: maps of one level, (B, C, h, w).

    Returns:
        (B,) in [0, 4], to rounding.
    """
    t, s = _unit_columns(teacher_features), _unit_columns(student_features)  # (B, C, N)
    _, channels, positions = t.shape
    if channels >= positions:
        return (t.mT @ t - s.mT @ s).square().mean((1, 2))
    tt, ss, ts = (gram.square().sum((1, 2)) for gram in (t @ t.mT, s @ s.mT, t @ s.mT))  # of (B, C, C)
    return (tt + ss - 2 * ts) / positions**2


def intra_affinity_map(teacher_features: Tensor, student_features: Tensor) -> Tensor:
    """The share of each position in the distance above, ||(A_T - A_S)_i||^2 / N, by the same identity row by row.

    Args:
        teacher_features, student_features: maps of one level, (B, C, h, w).

    Returns:
        (B, h, w) in [0, 4], to rounding; its mean over positions is `intra_affinity_distance`.
    """
    t, s = _unit_columns(teacher_features), _unit_columns(student_features)  # (B, C, N)
    _, channels, positions = t.shape
    if channels >= positions:
        rows = (t.mT @ t - s.mT @ s).square().sum(2)
    else:
        rows = (t * (t @ t.mT @ t) + s * (s @ s.mT @ s) - 2 * t * (t @ s.mT @ s)).sum(1)
    return (rows / positions).unflatten(1, teacher_features.shape[2:])


def _unit_columns(maps: Tensor) -> Tensor:
    return F.normalize(maps.flatten(2), dim=1)


def inter_affinity_distance(teacher_features: Tensor, student_features: Tensor) -> Tensor:
    """||G_T - G_S||^2 / B^2 in the Frobenius norm; G holds the cosines between the B images, each map as one vector.

    Args:
        teacher_features, student_features: maps of one level, (B, C, h, w).

    Returns:
        A scalar in [0, 4]; 0 for a batch of one.
    """
    t, s = (F.normalize(maps.flatten(1), dim=1) for maps in (teacher_features, student_features))  # (B, C h w)
    return (t @ t.mT - s @ s.mT).square().mean()


@dataclass(kw_only=True, eq=False)
class Structural(Distillation):
    """SNL's losses and anomaly map. The class after this one in a method's bases is the baseline.

    Attributes:
        channel_weight: of the channel-wise distance, which is the baseline's own loss.
        spatial_weight, intra_weight, inter_weight: of the other three terms. A weight of 0 leaves a term out. The
            anomaly map leaves out what no term trains: the affinity without `intra_weight`, the baseline's map without
            both `channel_weight` and `spatial_weight`.
        spatial: the spatial term: "cosine" of each channel over positions, or "divergence", the KL divergence between
            softmaxes over positions, which also compares the features' magnitudes.
        temperature: tau of the divergence.
        affinity_scale: the deviation of the affinity's map relative to that of the baseline's map, on normal images.
        centres: K of the CRAM after each of the student's three blocks; 0: no CRAM.
    """

    paper: ClassVar[str] = (
        "Deng and Li, Structural Teacher-Student Normality Learning for Multi-Class Anomaly Detection and "
        "Localization, arXiv 2402.17091, 2024"
    )
    source: ClassVar[str] = "none found"
    deviations: ClassVar[tuple[str, ...]] = (
        "A reconstruction: only the paper's abstract and figure captions could be read, and no code of its authors is "
        "public. They state the four loss terms of each block, the two maps used in testing and that CRAM follows each "
        "block of the student; every formula, weight and constant is ours.",
        "The anomaly map is the baseline's plus lambda times the intra-affinity's; lambda gives the latter a quarter "
        "of the standard deviation of the former on normal images: those held out of training if there are any, else "
        "the training images. With a larger share, synthetic anomalies in held-out images were found less well.",
        "The spatial term is a cosine. The other reading, a KL divergence between softmaxes over positions, as in two "
        "public codes by others, began with 5 to 12 times the gradient of the channel-wise distance.",
        "Batch norms are recalibrated for testing. With running averages single seeds failed on a whole category that "
        "they had learned.",
    )

    channel_weight: float = 1.0
    spatial_weight: float = 1.0
    intra_weight: float = 1.0
    inter_weight: float = 1.0
    spatial: Literal["cosine", "divergence"] = "cosine"
    temperature: float = 1.0
    affinity_scale: float = 0.25
    batch_norm: BatchNorm = "recalibrated"
    centres: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        self.lambda_ = 1.0
        name = type(self).__name__
        for key in ("channel_weight", "spatial_weight", "intra_weight", "inter_weight", "centres"):
            if not getattr(self, key) >= 0:
                raise InputError(f"{name}: {key}={getattr(self, key)}; it must be at least 0, and 0 disables it.")
        if not self.channel_weight + self.spatial_weight + self.intra_weight > 0:
            raise InputError(
                f"{name}: channel_weight, spatial_weight and intra_weight are all 0, so that no loss term trains what "
                "the anomaly map compares. Set one of them above 0."
            )
        for key in ("temperature", "affinity_scale"):
            if not getattr(self, key) > 0:
                raise InputError(f"{name}: {key}={getattr(self, key)}; it must be above 0.")

    def loss_terms(self, teacher_features: list[Tensor], student_output: list[Tensor]) -> dict[str, Tensor]:
        """Per level the channel-wise, spatial, intra-affinity and inter-affinity term, each times its weight."""
        terms = {}
        if self.channel_weight:
            # The baseline's, which follows in the method resolution order.
            baseline = super().loss_terms(teacher_features, student_output)  # type: ignore[safe-super]
            terms = {f"channel_{level}": self.channel_weight * term for level, term in baseline.items()}
        for number, (t, s) in enumerate(zip(teacher_features, student_output, strict=True), 1):
            if self.spatial_weight:
                terms[f"spatial_level{number}"] = self.spatial_weight * self._spatial_distance(t, s).mean()
            if self.intra_weight:
                terms[f"intra_level{number}"] = self.intra_weight * intra_affinity_distance(t, s).mean()
            if self.inter_weight:
                terms[f"inter_level{number}"] = self.inter_weight * inter_affinity_distance(t, s)
        return terms

    def _spatial_distance(self, teacher_features: Tensor, student_features: Tensor) -> Tensor:
        if self.spatial == "cosine":
            return spatial_cosine_distance(teacher_features, student_features)
        return spatial_divergence(teacher_features, student_features, self.temperature)

    def anomaly_map(self, teacher_features: list[Tensor], student_output: list[Tensor]) -> Tensor:
        maps = self._maps(teacher_features, student_output)
        return maps[0] + self.lambda_ * maps[1] if len(maps) == 2 else maps[0]

    def _maps(self, teacher_features: list[Tensor], student_output: list[Tensor]) -> list[Tensor]:
        """The baseline's map and the affinity's, without those that no loss term trains; each (B, s, s)."""
        maps = []
        if self.channel_weight or self.spatial_weight:
            maps.append(super().anomaly_map(teacher_features, student_output))  # type: ignore[safe-super]
        if self.intra_weight:
            levels = zip(teacher_features, student_output, strict=True)
            distances = [intra_affinity_map(*features) for features in levels]  # each (B, h_l, w_l)
            resized = [resize(distance, self.image_size, align_corners=True, sigma=BLUR) for distance in distances]
            maps.append(torch.stack(resized).sum(0))
        return maps

    def calibrate(self, outputs: Iterable[Outputs]) -> None:
        """lambda_ = affinity_scale std(M_baseline) / std(M_affinity) over pixels of normal images; 1 without images."""
        self.lambda_ = 1.0
        _, deviations = mean_and_deviation(torch.stack(self._maps(*batch)) for batch in outputs)
        if len(deviations) == 2 and min(deviations) > 0:  # a single map needs no weight
            baseline, affinity = deviations
            self.lambda_ = self.affinity_scale * baseline / affinity

    def state(self) -> dict[str, Tensor]:
        return super().state() | {"lambda": torch.tensor(self.lambda_, dtype=torch.float64)}

    def load_state(self, state: Mapping[str, Tensor], context: Context) -> Self:
        self.lambda_ = state["lambda"].item()
        return super().load_state(state, context)

    @property
    def record(self) -> dict[str, Any]:
        return super().record | {"lambda": self.lambda_}
