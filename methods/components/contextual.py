"""DSKD's contextual affinity: how similar each feature of a map is to all features of the teacher's map.

Let t_i and s_i be the features of the teacher and of a student at position i of N, scaled to length 1, and d_j = t_j
minus the mean of all t_j. As a softmax over j is the same for the affinities s_i t_j / tau and s_i d_j / tau, equations
3 to 6 are

    KL_i = tau^2 (L(s_i) - s_i A(t_i) / tau) - tau^2 (L(t_i) - t_i A(t_i) / tau)

with L(x) = log mean_j exp(x d_j / tau) and A(x) = sum_j softmax_j(x d_j / tau) d_j, which is an attention and tau times
the gradient of L. So one attention gives a student's divergence and its gradient, without storing N x N affinities, and
what depends on the teacher alone is computed once per image. With d_j, whose L and A are small, rounding is small too.

Zhang, Suganuma and Okatani, arXiv 2307.03101; no official code found. Equation numbers are the paper's.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.components.teachers import Teacher

PADDING = 4  # channels, see `_attention`


class ContextualTeacher(nn.Module):
    """A frozen teacher that returns the context of its features as well, to be cached with them.

    Args:
        temperature: tau.
    """

    def __init__(self, teacher: Teacher, temperature: float) -> None:
        super().__init__()
        self.teacher, self.temperature = teacher, temperature
        # Cached features bear this name: a change of what `context` computes needs another one.
        self.digest = f"{teacher.digest}, contextual affinity at temperature {temperature}"

    def normalise(self, images: Tensor) -> Tensor:
        return self.teacher.normalise(images)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images, (B, 3, s, s), to the teacher's maps, (B, C_l, h_l, w_l), then the `context` of each."""
        levels = self.teacher(images)
        return [*levels, *(context(level, self.temperature) for level in levels)]


def context(teacher_features: Tensor, temperature: float) -> Tensor:
    """What the divergence needs of the teacher alone.

    Args:
        teacher_features: map of one level, (B, C, h, w).
        temperature: tau.

    Returns:
        (B, C + 1, h, w): A(t_i) and, as the last channel, L(t_i) - t_i A(t_i) / tau.
    """
    t = _unit_vectors(teacher_features)
    mean, log_mean_exp = _attention(t.mT, t.mT, temperature)
    constant = log_mean_exp - (t.mT * mean).sum(2) / temperature  # (B, N)
    return torch.cat([mean, constant[..., None]], 2).mT.unflatten(2, teacher_features.shape[2:])


def contextual_divergence(
    teacher_features: Tensor, teacher_context: Tensor, student_features: Tensor, temperature: float
) -> Tensor:
    """KL divergence of a student's affinities to all teacher features from the teacher's own (equation 6).

    Args:
        teacher_features, student_features: maps of one level, (B, C, h, w); the gradient is the student's alone.
        teacher_context: `context` of the teacher's.
        temperature: tau.

    Returns:
        (B, h, w), at least 0 up to rounding.
    """
    t, s = _unit_vectors(teacher_features), _unit_vectors(student_features)  # (B, C, N)
    mean, constant = teacher_context.flatten(2).tensor_split([-1], 1)
    log_mean_exp = _LogMeanExp.apply(s.mT, t.mT, temperature)
    divergence = temperature**2 * (log_mean_exp - (s * mean).sum(1) / temperature - constant.squeeze(1))  # (B, N)
    return divergence.unflatten(1, teacher_features.shape[2:])


def _unit_vectors(maps: Tensor) -> Tensor:
    return F.normalize(maps.flatten(2), dim=1)


class _LogMeanExp(torch.autograd.Function):
    """L(x) of `_attention`, with its gradient by x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, t: Tensor, temperature: float) -> Tensor:
        mean, log_mean_exp = _attention(x, t, temperature)
        ctx.save_for_backward(mean / temperature)
        return log_mean_exp

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (derivative,) = ctx.saved_tensors
        return gradient[..., None] * derivative, None, None


def _attention(x: Tensor, t: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """A(x_i), (B, N, C), and L(x_i), (B, N), of vectors of length 1, (B, N, C).

    torch's attention does not return the sum of its exponentials. Therefore a last key stands for N more d_j of zero,
    by its affinity log N, and has a channel of its own, which receives its weight, 1 / (1 + exp(L)). That is at most
    1/2, because the d_j have a mean of zero.
    """
    _, positions, channels = t.shape
    # GPU kernels that do not store the affinities need a dimension for heads, and a multiple of 4 channels in float32.
    keys = F.pad(t - t.mean(1, keepdim=True), (0, PADDING, 0, 1))[:, None]  # (B, 1, N + 1, C + PADDING)
    keys[..., -1, channels] = 1
    queries = F.pad(x, (0, PADDING))[:, None]
    queries[..., channels] = temperature * math.log(positions)
    attended = F.scaled_dot_product_attention(queries, keys, keys, scale=1 / temperature)[:, 0]
    weight = attended[..., channels]
    return attended[..., :channels] / (1 - weight[..., None]), -weight.logit()
