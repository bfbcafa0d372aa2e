"""Synthetic anomalies, for methods that train with them: textures blended into normal images inside Perlin masks.

The recipe is that of DRAEM (Zavrtanik et al., ICCV 2021), in the form of AAND's official code (datasets/database.py in
Hui-design/AAND @376c4e4). A mask is Perlin noise above a threshold, within the object; inside it the image is blended
with an augmented texture (textures.py).

All random numbers come from the caller's generator, on the CPU: every device gets the same anomalies.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as T

from methods.components.feature_cache import Rows

NORMAL_PROBABILITY = 0.2  # that an image stays as it is
MAX_BETA = 0.8  # largest weight of the image inside an anomaly
CELLS = tuple(2**power for power in range(6))  # grid cells of the Perlin noise per axis
THRESHOLD = 0.5  # of the Perlin noise, which lies in [-1, 1]
ANGLES = (-90.0, 90.0)  # degrees by which the noise is rotated
MIN_PIXELS = 4  # a mask must have more
MAX_DRAWS = 11  # attempts to get such a mask
FOREGROUND_STRIDE = 4  # side in pixels of a foreground mask's cell: the stride of a teacher's finest map


def synthesise(images: Tensor, foregrounds: Tensor, textures: Rows, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Add an anomaly to most images, and leave the others normal.

    Args:
        images: (B, 3, s, s) uint8.
        foregrounds: (B, h, w) bool, of any resolution: where anomalies may be.
        textures: (3, s, s) uint8 each.

    Returns:
        (B, 3, s, s) uint8, and (B, s, s) bool, true inside the anomalies.
    """
    size = images.shape[-1]
    allowed = F.interpolate(foregrounds[:, None].float(), (size, size))[:, 0] > 0  # (B, s, s)
    abnormal = torch.from_numpy(rng.random(len(images)) >= NORMAL_PROBABILITY)
    masks = anomaly_masks(allowed, rng) & abnormal.to(allowed.device)[:, None, None]
    beta = torch.from_numpy(rng.uniform(0, MAX_BETA, len(images)).astype(np.float32)).to(images.device)
    chosen = textures[rng.integers(len(textures), size=len(images)).tolist()].to(images.device)
    augmented = torch.stack([_augment(texture, rng) for texture in chosen])
    return blend(images, augmented, masks, beta), masks


def blend(images: Tensor, textures: Tensor, masks: Tensor, beta: Tensor) -> Tensor:
    """(1 - beta) texture + beta image inside the masks, rounded; the image outside.

    Args:
        images, textures: (B, 3, s, s) uint8.
        masks: (B, s, s) bool.
        beta: (B,) in [0, 1].

    >>> image, texture = (torch.full((1, 3, 1, 2), value, dtype=torch.uint8) for value in (100, 200))
    >>> blend(image, texture, torch.tensor([[[True, False]]]), torch.tensor([0.25]))[0, 0]
    tensor([[175, 100]], dtype=torch.uint8)
    """
    mixed = torch.lerp(textures.float(), images.float(), beta[:, None, None, None]).round().to(torch.uint8)
    return torch.where(masks[:, None], mixed, images)


def anomaly_masks(foregrounds: Tensor, rng: np.random.Generator) -> Tensor:
    """Perlin masks inside (B, s, s) bool foregrounds, one each; drawn again, at the same scale, if they are tiny."""
    cells = rng.choice(CELLS, (len(foregrounds), 2))
    masks = _perlin_masks(cells, foregrounds, rng)
    for _ in range(MAX_DRAWS - 1):
        tiny = (masks.flatten(1).sum(1) <= MIN_PIXELS).nonzero()[:, 0]
        if not len(tiny):
            break
        masks[tiny] = _perlin_masks(cells[tiny.cpu().numpy()], foregrounds[tiny], rng)
    return masks


def _perlin_masks(cells: np.ndarray, foregrounds: Tensor, rng: np.random.Generator) -> Tensor:
    """(B, s, s) bool: Perlin noise of (B, 2) cells, randomly rotated, above the threshold, in the foregrounds."""
    number, size = len(cells), foregrounds.shape[-1]
    noise = perlin_noise(cells, size, rng).to(foregrounds.device)
    angle = np.deg2rad(rng.uniform(*ANGLES, number))
    rotation = np.stack([np.cos(angle), -np.sin(angle), 0 * angle, np.sin(angle), np.cos(angle), 0 * angle], 1)
    matrices = torch.from_numpy(rotation.reshape(number, 2, 3).astype(np.float32)).to(foregrounds.device)
    grid = F.affine_grid(matrices, [number, 1, size, size], align_corners=False)
    # What the rotation moves in from outside is 0, thus normal, as in DRAEM.
    return (F.grid_sample(noise[:, None], grid, align_corners=False)[:, 0] > THRESHOLD) & foregrounds


def perlin_noise(cells: np.ndarray, size: int, rng: np.random.Generator) -> Tensor:
    """Perlin's gradient noise with unit gradients and quintic fading, times the square root of 2 as in DRAEM.

    At (y, x) it is the sum over grid points (a, b) of f(y - a) f(x - b) (g_y (y - a) + g_x (x - b)), with f the fading
    weight and g the point's gradient. Both terms are separable, so that the noise is two products of small matrices.

    Args:
        cells: (B, 2) grid cells along y and x, each at most 32.

    Returns:
        (B, size, size) float32 in [-1, 1].
    """
    points = max(CELLS) + 1
    angle = rng.uniform(0, 2 * np.pi, (len(cells), points, points))
    along_y, along_x = (torch.from_numpy(part(angle).astype(np.float32)) for part in (np.sin, np.cos))  # (B, 33, 33)
    rows = torch.stack([_fading(size, int(number)) for number in cells[:, 0]])  # (B, 2, size, 33)
    columns = torch.stack([_fading(size, int(number)) for number in cells[:, 1]]).mT  # (B, 2, 33, size)
    return 2**0.5 * (rows[:, 1] @ along_y @ columns[:, 0] + rows[:, 0] @ along_x @ columns[:, 1])


@lru_cache
def _fading(size: int, cells: int) -> Tensor:
    """(2, size, 33): each grid point's weight f(d) at each pixel, and f(d) d; d is the signed distance in cells."""
    pixels = torch.arange(size)
    distance = (pixels * cells / size)[:, None] - torch.arange(max(CELLS) + 1)  # (size, 33)
    t = 1 - distance.abs().clamp(max=1)
    weight = t**3 * (t * (6 * t - 15) + 10)
    return torch.stack([weight, weight * distance])


def estimate_foreground(image: Tensor) -> Tensor:
    """Where the object is: what differs in colour from the border of the image, by Otsu's threshold.

    The whole image if there is no object on a plain background: if the colours have no two clear groups, if much of
    the border itself differs, or if the mask covers next to nothing or nearly all. This is the case for textures.

    Args:
        image: (3, s, s) uint8, s a multiple of 4.

    Returns:
        (s/4, s/4) bool.
    """
    small = F.avg_pool2d(image[None].float(), FOREGROUND_STRIDE)[0]  # (3, s/4, s/4)
    border = torch.ones_like(small[0], dtype=torch.bool)
    border[1:-1, 1:-1] = False
    distance = (small - small[:, border].median(1).values[:, None, None]).norm(dim=0)  # (s/4, s/4)
    threshold, separation = otsu(distance.flatten())
    differs = distance > threshold
    filled = ndimage.binary_fill_holes(ndimage.binary_opening(differs.numpy()))
    mask = torch.from_numpy(ndimage.binary_dilation(filled))
    is_object = separation > 0.75 and differs[border].float().mean() < 0.15 and 0.01 < mask.float().mean() < 0.9
    return mask if is_object else torch.ones_like(mask)


def otsu(values: Tensor) -> tuple[float, float]:
    """Otsu's threshold of (n,) values: values above it are one class, the others the other.

    Returns:
        The threshold, and the share of the variance that lies between the classes, in [0, 1] (0 for equal values).
        It is 0.64 for a normal distribution, 0.75 for a uniform one, and near 1 for two separate groups.

    >>> otsu(torch.tensor([0.0, 0.0, 1.0, 1.0]))
    (0.0, 1.0)
    """
    ordered = values.double().sort().values
    below = torch.arange(1, len(ordered), dtype=torch.float64) / len(ordered)  # share of the lower class
    lower, mean = ordered.cumsum(0)[:-1] / len(ordered), ordered.mean()
    between = (mean * below - lower) ** 2 / (below * (1 - below))
    variance = ordered.var(correction=0)
    if variance == 0:
        return float(mean), 0.0
    best = int(between.argmax())
    return float(ordered[best]), float(between[best] / variance)


def _augment(texture: Tensor, rng: np.random.Generator) -> Tensor:
    """Three different augmentations of DRAEM's ten, each at random strength."""
    for number in rng.choice(len(AUGMENTATIONS), 3, replace=False):
        texture = AUGMENTATIONS[number](texture, rng)
    return texture


def _gamma(image: Tensor, rng: np.random.Generator) -> Tensor:
    return torch.cat([T.adjust_gamma(channel, rng.uniform(0.5, 2)) for channel in image[:, None]])


def _brightness(image: Tensor, rng: np.random.Generator) -> Tensor:
    return (image * rng.uniform(0.8, 1.2) + rng.uniform(-30, 30)).clamp(0, 255).to(torch.uint8)


def _hue_and_saturation(image: Tensor, rng: np.random.Generator) -> Tensor:
    return T.adjust_saturation(T.adjust_hue(image, rng.uniform(-0.2, 0.2)), rng.uniform(0.6, 1.4))


def _solarise(image: Tensor, rng: np.random.Generator) -> Tensor:
    threshold = rng.uniform(32, 128)
    return T.solarize(image, threshold) if rng.random() < 0.5 else image


# imgaug's ranges in DRAEM, where torchvision has the same parameter, else of like strength.
AUGMENTATIONS: tuple[Callable[[Tensor, np.random.Generator], Tensor], ...] = (
    _gamma,
    _brightness,
    lambda image, rng: T.adjust_sharpness(image, rng.uniform(0, 2)),
    _hue_and_saturation,
    _solarise,
    lambda image, rng: T.posterize(image, int(rng.integers(1, 9))),
    lambda image, rng: T.invert(image),
    lambda image, rng: T.autocontrast(image),
    lambda image, rng: T.equalize(image),
    lambda image, rng: T.rotate(image, rng.uniform(-45, 45)),
)
