"""Distances and maps against slow references: loops, float64, SciPy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from methods.components.anomaly_maps import cosine_distance, mean_and_deviation, resize


def random(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_cosine_distance_is_one_minus_the_cosine_at_each_position() -> None:
    teacher, student = random(2, 5, 3, 4), random(2, 5, 3, 4).flip(1)
    measured = cosine_distance(teacher, student)
    for b, y, x in np.ndindex(2, 3, 4):
        t, s = teacher[b, :, y, x].double().numpy(), student[b, :, y, x].double().numpy()
        assert measured[b, y, x].item() == pytest.approx(1 - t @ s / np.linalg.norm(t) / np.linalg.norm(s), abs=1e-6)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(
    ("source", "target", "sigma"), [(16, 64, 4.0), (8, 64, 4.0), (64, 64, 4.0), (16, 64, 0.0), (9, 32, 1.5)]
)
def test_two_matrix_products_equal_interpolation_then_blur(
    source: int, target: int, sigma: float, align_corners: bool
) -> None:
    maps = random(3, source, source)
    plain = F.interpolate(maps[:, None], target, mode="bilinear", align_corners=align_corners)[:, 0].numpy()
    if sigma:
        plain = np.stack([gaussian_filter(one, sigma) for one in plain])
    np.testing.assert_allclose(resize(maps, target, align_corners=align_corners, sigma=sigma).numpy(), plain, atol=1e-6)


@given(st.floats(0.0, 10.0), st.integers(2, 12))
def test_a_constant_map_stays_constant_and_no_value_leaves_the_range(constant: float, source: int) -> None:
    torch.testing.assert_close(
        resize(torch.full((1, source, source), constant), 24, align_corners=True, sigma=2.0),
        torch.full((1, 24, 24), constant),
        atol=1e-5, rtol=1e-5,
    )  # fmt: skip
    varied = random(1, source, source)
    resized = resize(varied, 24, align_corners=False, sigma=2.0)
    assert varied.min() - 1e-6 <= resized.min() <= resized.max() <= varied.max() + 1e-6


def test_mean_and_deviation_are_those_of_all_pixels_together() -> None:
    batches = [random(2, count, 5, 5) * 3 + 7 for count in (4, 1)]
    pixels = torch.cat([batch.flatten(1) for batch in batches], 1).double().numpy()
    means, deviations = mean_and_deviation(batches)
    np.testing.assert_allclose(means, pixels.mean(1), rtol=1e-12)
    np.testing.assert_allclose(deviations, pixels.std(1), rtol=1e-9)
    assert mean_and_deviation([]) == ([], [])
