"""PaDiM, patch distribution modeling: a Gaussian of the teacher's features at each position, without any training.

The three feature maps, brought to the size of the finest, give one vector for each position; a random choice of its
channels is kept. Their mean and covariance over the training images are the whole model, and the Mahalanobis distance
from them is the anomaly map. Objects must be aligned, because each position has a Gaussian of its own.

This is also the example of a method that is no distillation: it has a teacher, but neither student, epochs nor loss.

Defard et al., ICPR 2021 workshops, arXiv 2011.08785.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from methods.base import Context, InputError, Method, Prediction, Progress, Sample
from methods.components import feature_cache, teachers
from methods.components.anomaly_maps import resize
from methods.components.teachers import Teacher
from methods.components.train_loop import set_determinism

BLUR = 4.0  # standard deviation of the Gaussian blur in pixels, the paper's


@dataclass(kw_only=True, eq=False)
class PaDiM(Method):
    """Patch distribution modeling. The covariances take 4 (image_size / 4)² channels² bytes: 164 MB by default.

    Attributes:
        teacher: see `methods.components.teachers`. The paper's larger model is wide_resnet50_2 with 550 channels.
        image_size: side in pixels to which every image is resized.
        channels: how many of the teacher's are kept, drawn by the seed; all if it has no more than these.
        epsilon: added to the variances, so that a covariance of few images can be inverted.
    """

    paper: ClassVar[str] = "Defard et al., PaDiM: a Patch Distribution Modeling Framework, ICPR 2021 workshops"
    source: ClassVar[str] = "none found; from the paper"
    deviations: ClassVar[tuple[str, ...]] = (
        "The whole image is used: the paper crops the central 224 of 256 px, which leaves the margin without a map.",
        "Anomaly maps are enlarged bilinearly.",
    )

    teacher: str = "resnet18.tv_in1k"
    image_size: int = 256
    channels: int = 100
    epsilon: float = 0.01

    def __post_init__(self) -> None:
        for key in ("channels", "epsilon"):
            if getattr(self, key) <= 0:
                raise InputError(f"PaDiM: {key}={getattr(self, key)}; it must be above 0.")
        if self.image_size % 32 or self.image_size <= 0:
            raise InputError(f"PaDiM: image_size={self.image_size}; it must be a multiple of 32.")

    def fit(self, train: Sequence[Sample], validation: Sequence[Sample], context: Context) -> Self:
        if not train:
            raise InputError("PaDiM got no training image: check the data set's train folder.")
        set_determinism(context)
        teacher = self._load_teacher(context)
        order = torch.randperm(sum(teacher.channels), generator=torch.Generator().manual_seed(context.seed))
        is_kept = order.argsort() < self.channels
        self.is_kept_ = is_kept.to(context.device).split(teacher.channels)  # per level (C_l,)

        positions, kept_channels = (self.image_size // teachers.STRIDES[0]) ** 2, int(is_kept.sum())  # P, d
        images, mean = 0, torch.zeros(positions, kept_channels, device=context.device)
        scatter = torch.zeros(positions, kept_channels, kept_channels, device=context.device)
        for vectors in self._vectors(train, context):  # (P, B, d)
            # Means and scatters of two sets merge exactly (Chan et al. 1979), so that one pass is enough.
            batch, of_batch = vectors.shape[1], vectors.mean(1)  # (P, d)
            centred, shift = vectors - of_batch[:, None], (of_batch - mean)[:, None]  # (P, B, d), (P, 1, d)
            share = batch / (images + batch)
            scatter += centred.mT @ centred + shift.mT @ shift * (images * share)
            mean += shift[:, 0] * share
            images += batch
            context.progress(Progress("fit", images, len(train)))
        self.mean_ = mean  # (P, d)
        self.cholesky_ = self._cholesky(scatter / max(images - 1, 1))  # a single image has no scatter
        return self

    def _load_teacher(self, context: Context) -> Teacher:
        teacher = teachers.load(self.teacher, context.weights)
        teacher.check(self.image_size)
        self.teacher_ = teacher.to(torch.device(context.device))
        return teacher

    def _cholesky(self, covariance: Tensor) -> Tensor:
        """The Cholesky factor (P, d, d) of equation 1: the covariances with epsilon on their diagonals."""
        covariance.diagonal(dim1=1, dim2=2).add_(self.epsilon)
        try:
            return torch.linalg.cholesky(covariance)
        except torch.linalg.LinAlgError:
            raise InputError(
                f"PaDiM: epsilon={self.epsilon} is too small for the features of {self.teacher!r}: a covariance "
                "cannot be inverted in float32. Raise epsilon."
            ) from None

    @torch.no_grad()
    def _vectors(self, samples: Sequence[Sample], context: Context) -> Iterator[Tensor]:
        """Batch by batch the kept features of all P = h_1 w_1 positions, (P, B, d)."""
        images = feature_cache.load_images(samples, self.image_size, context.cache)
        features = feature_cache.Features(self.teacher_, samples, images, context)
        for batch in torch.arange(len(samples)).split(context.predict_batch):
            yield self._kept(features(batch.tolist()))

    def _kept(self, levels: list[Tensor]) -> Tensor:
        """The kept channels of feature maps (B, C_l, h_l, w_l) at all positions of the finest, (P, B, d)."""
        levels = [level[:, kept] for level, kept in zip(levels, self.is_kept_, strict=True)]
        scales = [levels[0].shape[-1] // level.shape[-1] for level in levels]  # 1, 2, 4
        levels = [
            level.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
            for level, scale in zip(levels, scales, strict=True)
        ]  # each (B, d_l, h_1, w_1)
        return torch.cat(levels, 1).flatten(2).permute(2, 0, 1)

    def predict(self, test: Sequence[Sample], context: Context) -> Iterator[Prediction]:
        if not test:
            return
        set_determinism(context)
        done = 0
        for vectors in self._vectors(test, context):
            # Equation 2, the Mahalanobis distance: with Σ = L Lᵀ it is the norm of L⁻¹ (x - μ).
            difference = (vectors - self.mean_[:, None]).mT  # (P, d, B)
            distance = torch.linalg.solve_triangular(self.cholesky_, difference, upper=False).norm(dim=1)  # (P, B)
            for anomaly_map in (maps := self._maps(distance)).cpu():  # (s, s)
                yield Prediction(anomaly_map.max().item(), anomaly_map)
            done += len(maps)
            context.progress(Progress("predict", done, len(test)))

    def _maps(self, distance: Tensor) -> Tensor:
        """Anomaly maps (B, s, s) of the distances at all positions, (P, B)."""
        side = self.image_size // teachers.STRIDES[0]
        return resize(distance.T.unflatten(1, (side, side)), self.image_size, align_corners=False, sigma=BLUR)

    def state(self) -> dict[str, Tensor]:
        return {"is_kept": torch.cat(self.is_kept_), "mean": self.mean_, "cholesky": self.cholesky_}

    def load_state(self, state: Mapping[str, Tensor], context: Context) -> Self:
        teacher = self._load_teacher(context)
        is_kept, self.mean_, self.cholesky_ = (
            state[name].to(context.device) for name in ("is_kept", "mean", "cholesky")
        )
        self.is_kept_ = is_kept.split(teacher.channels)
        positions, kept_channels = (self.image_size // teachers.STRIDES[0]) ** 2, int(is_kept.sum())
        if self.cholesky_.shape != (positions, kept_channels, kept_channels):
            raise RuntimeError(f"covariances {tuple(self.cholesky_.shape)} for {positions} positions")
        return self

    def network(self) -> nn.Module:
        return _Network(self).eval()

    @property
    def record(self) -> dict[str, Any]:
        return {
            "teacher": self.teacher_.record,
            "image_size": self.image_size,
            "parameters": {"teacher": sum(parameter.numel() for parameter in self.teacher_.parameters())},
        }


class _Network(nn.Module):
    """Teacher and distances as one network, see `Method.network`; with L⁻¹, as exporters know no triangular solver."""

    inverse: Tensor

    def __init__(self, method: PaDiM) -> None:
        super().__init__()
        self.method, self.teacher = method, method.teacher_
        identity = torch.eye(method.cholesky_.shape[-1], device=method.cholesky_.device)
        self.register_buffer("inverse", torch.linalg.solve_triangular(method.cholesky_, identity, upper=False))

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        vectors = self.method._kept(self.teacher(self.teacher.normalise(255 * images)))  # (P, B, d)
        distance = (self.inverse @ (vectors - self.method.mean_[:, None]).mT).norm(dim=1)  # (P, B)
        maps = self.method._maps(distance)
        return maps.amax((1, 2)), maps
