"""Textures for synthetic anomalies: the images of a folder, or procedural ones.

The folder of DRAEM and AAND is DTD (Cimpoi et al., Describing Textures in the Wild, CVPR 2014). Without a folder,
patterns of five kinds are generated. They are our own; no published number was obtained with them.
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

PROCEDURAL = 256  # number of procedural textures
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")


def load(folder: Path | None, size: int, cache: Path | None) -> Rows:
    """The textures of a folder and its subfolders, resized to size x size; without a folder, procedural ones.

    Args:
        cache: where the resized images of the folder are stored for further runs; None: in memory.

    Raises:
        InputError: there is no such folder, no image in it, or one that cannot be decoded.
    """
    if folder is None:
        return _procedural_textures(size)
    if not folder.is_dir():
        raise InputError(
            f"texture_folder={str(folder)!r} is not a folder. Give one with images, such as DTD's 'images', "
            "or null for procedural textures."
        )
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise InputError(
            f"texture_folder={str(folder)!r} contains no image ({', '.join(SUFFIXES)}). Give one with images, such as "
            "DTD's 'images', or null for procedural textures."
        )
    content = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    digest = hashlib.sha256(repr(content).encode()).hexdigest()[:16]
    samples = [Sample(f"textures/{digest}/{row:06d}", "", partial(_decode, path)) for row, path in enumerate(paths)]
    return feature_cache.load_images(samples, size, cache)


def _decode(path: Path) -> Tensor:
    try:
        with Image.open(path) as image:
            return T.pil_to_tensor(image.convert("RGB"))
    except OSError as error:
        raise InputError(f"The texture {path} cannot be decoded ({error}). Repair or remove it.") from error


@lru_cache(maxsize=1)
def _procedural_textures(size: int) -> Rows:
    """A fixed set, like a folder of images: the seed of a run decides only which of them are drawn."""
    rng = np.random.default_rng(0)
    images = torch.stack([procedural_texture(size, rng) for _ in range(PROCEDURAL)])
    return Rows([images], [(0, row) for row in range(PROCEDURAL)])


def procedural_texture(size: int, rng: np.random.Generator) -> Tensor:
    """(3, size, size) uint8: one of five kinds of pattern, warped by noise, in random colours, with grain."""
    y, x = np.mgrid[:size, :size] / size
    angle, frequency = rng.uniform(0, np.pi), 2 ** rng.uniform(1, 5)
    clouds = _clouds(size, rng)
    warp = rng.uniform(0, 0.3) * clouds
    u, v = x * np.cos(angle) + y * np.sin(angle) + warp, y * np.cos(angle) - x * np.sin(angle) + warp
    waves = np.sin(2 * np.pi * frequency * u)
    patterns: Sequence[Callable[[], np.ndarray]] = (
        lambda: clouds,
        lambda: waves,  # stripes
        lambda: np.sign(waves * np.sin(2 * np.pi * frequency * v)),  # checks
        lambda: _cells(size, frequency, rng),
        lambda: ndimage.gaussian_filter(rng.standard_normal((size, size)), size / 2 ** rng.uniform(4, 8)),  # speckles
    )
    pattern = patterns[int(rng.integers(len(patterns)))]()
    pattern = (pattern - pattern.min()) / max(np.ptp(pattern), 1e-9)  # (size, size) in [0, 1]
    colours = rng.uniform(0, 255, (3, rng.integers(2, 6)))  # per channel, at equal steps of the pattern
    steps = np.linspace(0, 1, colours.shape[1])
    image = np.stack([np.interp(pattern, steps, channel) for channel in colours])
    image += rng.uniform(0, 20) * rng.standard_normal((1, size, size))
    return torch.from_numpy(image.clip(0, 255).astype(np.uint8))


def _clouds(size: int, rng: np.random.Generator) -> np.ndarray:
    """(size, size): octaves of Perlin noise, each of half the amplitude of the previous one."""
    octaves = perlin_noise(np.repeat(CELLS[1:], 2).reshape(-1, 2), size, rng)  # (5, size, size)
    return np.tensordot(0.5 ** np.arange(len(octaves)), octaves.numpy(), 1)


def _cells(size: int, frequency: float, rng: np.random.Generator) -> np.ndarray:
    """(size, size): the distance to the nearest of random points, which gives cells or blobs."""
    background = np.ones((size, size), bool)
    background[tuple(rng.integers(size, size=(2, 2 + int(frequency**2))))] = False
    return ndimage.distance_transform_edt(background)
