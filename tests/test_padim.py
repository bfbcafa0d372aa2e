"""PaDiM against its equations, written with NumPy and SciPy one position at a time."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import mahalanobis
from test_methods import samples

import methods
from methods.base import Context, InputError
from methods.components import feature_cache, teachers

SIZE, SIDE = 64, 16  # of images, and of the teacher's finest map
SMALL: dict[str, Any] = {"teacher": "test_resnet.untrained", "image_size": SIZE}


def vectors(number: int, split: str, channels: list[int]) -> np.ndarray:
    """Features of some images at every position, (N, 16, 16, d), the coarser maps enlarged to the nearest position."""
    images = feature_cache.load_images(samples(number, split), SIZE, None)[range(number)]
    teacher = teachers.load(SMALL["teacher"], {})
    levels = [level.numpy() for level in teacher(teacher.normalise(images))]
    nearest = [np.kron(level, np.ones((1, 1, SIDE // level.shape[2], SIDE // level.shape[3]))) for level in levels]
    return np.concatenate(nearest, 1)[:, channels].transpose(0, 2, 3, 1)


@pytest.mark.parametrize("predict_batch", [2, 16])
def test_the_map_is_the_blurred_mahalanobis_distance_of_each_position(predict_batch: int) -> None:
    context = Context(seed=3, predict_batch=predict_batch)
    method = methods.create("padim", **SMALL, channels=9).fit(samples(7), [], context)
    kept = torch.cat(method.is_kept_).nonzero().flatten().tolist()
    assert len(kept) == 9
    train, test = vectors(7, "train", kept), vectors(3, "test", kept)
    distance = np.empty((3, SIDE, SIDE))
    for y, x in np.ndindex(SIDE, SIDE):
        covariance = np.cov(train[:, y, x], rowvar=False) + 0.01 * np.eye(9)  # equation 1
        for image in range(3):  # equation 2
            distance[image, y, x] = mahalanobis(test[image, y, x], train[:, y, x].mean(0), np.linalg.inv(covariance))
    enlarged = torch.nn.functional.interpolate(torch.from_numpy(distance)[None], SIZE, mode="bilinear")[0].numpy()
    for prediction, expected in zip(method.predict(samples(3, "test"), context), enlarged, strict=True):
        blurred = gaussian_filter(expected, 4)
        np.testing.assert_allclose(prediction.anomaly_map, blurred, rtol=1e-3)
        assert prediction.score == pytest.approx(blurred.max(), rel=1e-3)


def test_a_teacher_with_fewer_channels_gives_all_of_them() -> None:
    method = methods.create("padim", **SMALL, channels=1000).fit(samples(2), [], Context())
    assert method.mean_.shape == (SIDE**2, sum(method.teacher_.channels))


@pytest.mark.parametrize("values", [{"channels": 0}, {"epsilon": 0.0}, {"image_size": 0}])
def test_a_hyper_parameter_out_of_range_is_refused(values: dict[str, Any]) -> None:
    (name, value), *_ = values.items()
    with pytest.raises(InputError, match=f"{name}={value}"):
        methods.create("padim", **values)


def test_an_epsilon_that_is_too_small_is_named() -> None:
    method = methods.create("padim", **SMALL, epsilon=1e-30)
    with pytest.raises(InputError, match="epsilon=1e-30 is too small for the features"):
        method.fit(samples(3), [], Context())
