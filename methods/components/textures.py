"""Textures for synthetic anomalies: the images of a folder, or computed ones.

The folder of DRAEM and AAND is DTD (Cimpoi et al., Describing Textures in the Wild, CVPR 2014). Where there is none,
patterns of five kinds are computed. They are our own, and no source's numbers rest on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torchvision.transforms.v2 import functional as T

from methods.base import InputError, Sample
from methods.components import feature_cache
from methods.components.anomaly_synthesis import CELLS, perlin_noise
from methods.components.feature_cache import Rows

NUMBER = 256  # of computed textures
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")


def load(folder: Path | None, size: int, cache: Path | None) -> Rows:
    """The textures of a folder and all folders in it, resized to size x size; without a folder, computed ones.

    Args:
        cache: where the resized images of the folder are kept for further runs; None: in memory.

    Raises:
        InputError: there is no such folder, no image in it, or one that cannot be decoded.
    """
    if folder is None:
        return _all_computed(size)
    if not folder.is_dir():
        raise InputError(
            f"texture_folder={str(folder)!r} is not a folder. Name one with images, such as DTD's 'images', "
            "or none for computed textures."
        )
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise InputError(
            f"texture_folder={str(folder)!r} holds no image ({', '.join(SUFFIXES)}). Name one with images, such as "
            "DTD's 'images', or none for computed textures."
        )
    content = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    digest = hashlib.sha256(repr(content).encode()).hexdigest()[:16]
    samples = [Sample(f"textures/{digest}/{row:06d}", "", partial(_decoded, path)) for row, path in enumerate(paths)]
    return feature_cache.images(samples, size, cache)


@lru_cache(maxsize=1)
def _all_computed(size: int) -> Rows:
    """A fixed set, like a folder of images: what a seed draws from is always the same."""
    rng = np.random.default_rng(0)
    images = torch.stack([computed(size, rng) for _ in range(NUMBER)])
    return Rows([images], [(0, row) for row in range(NUMBER)])


def _decoded(path: Path) -> Tensor:
    try:
        with Image.open(path) as image:
            return T.pil_to_tensor(image.convert("RGB"))
    except OSError as error:
        raise InputError(f"The texture {path} cannot be decoded ({error}). Mend it, or take it away.") from error


def computed(size: int, rng: np.random.Generator) -> Tensor:
    """(3, size, size) uint8: one of five kinds of pattern, bent by noise, in random colours, with grain."""
    y, x = np.mgrid[:size, :size] / size
    angle, frequency = rng.uniform(0, np.pi), 2 ** rng.uniform(1, 5)
    clouds = _clouds(size, rng)
    bent = rng.uniform(0, 0.3) * clouds
    u, v = x * np.cos(angle) + y * np.sin(angle) + bent, y * np.cos(angle) - x * np.sin(angle) + bent
    waves = np.sin(2 * np.pi * frequency * u)
    patterns: Sequence[Callable[[], np.ndarray]] = (
        lambda: clouds,
        lambda: waves,  # stripes
        lambda: np.sign(waves * np.sin(2 * np.pi * frequency * v)),  # checks
        lambda: _cells(size, frequency, rng),
        lambda: ndimage.gaussian_filter(rng.standard_normal((size, size)), size / 2 ** rng.uniform(4, 8)),  # speckles
    )
    field = patterns[int(rng.integers(len(patterns)))]()
    field = (field - field.min()) / max(np.ptp(field), 1e-9)
    colours = rng.uniform(0, 255, (3, rng.integers(2, 6)))  # per channel, at equal steps of the field
    steps = np.linspace(0, 1, colours.shape[1])
    image = np.stack([np.interp(field, steps, channel) for channel in colours])
    image += rng.uniform(0, 20) * rng.standard_normal((1, size, size))
    return torch.from_numpy(image.clip(0, 255).astype(np.uint8))


def _clouds(size: int, rng: np.random.Generator) -> np.ndarray:
    """(size, size): octaves of Perlin noise, each of half the amplitude of the one before."""
    octaves = perlin_noise(np.repeat(CELLS[1:], 2).reshape(-1, 2), size, rng)  # (5, size, size)
    return np.tensordot(0.5 ** np.arange(len(octaves)), octaves.numpy(), 1)


def _cells(size: int, frequency: float, rng: np.random.Generator) -> np.ndarray:
    """(size, size): the distance to the nearest of random points, which gives cells or blobs."""
    empty = np.ones((size, size), bool)
    empty[tuple(rng.integers(size, size=(2, 2 + int(frequency**2))))] = False
    return ndimage.distance_transform_edt(empty)
