"""Synthetic anomalies, for methods that train with them: textures blended into normal images inside Perlin masks.

The recipe is that of DRAEM (Zavrtanik et al., ICCV 2021), which AAND takes over. A mask is Perlin noise above a
threshold, within the object; in it the image is blended with an augmented texture (textures.py).

Whatever is random is drawn from the generator that the caller gives, on the CPU: every device sees the same anomalies.
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

NORMAL_SHARE = 0.2  # probability with which an image stays as it is
LARGEST_BETA = 0.8  # how much of the image may remain visible in an anomaly
CELLS = tuple(2**power for power in range(6))  # grid cells of the Perlin noise per axis
THRESHOLD = 0.5  # of the Perlin noise, which lies in [-1, 1]
ANGLES = (-90.0, 90.0)  # degrees by which the noise is rotated
FEWEST_PIXELS = 4  # a mask must have more
DRAWS = 10  # attempts to get such a mask
FINEST = 4  # side in pixels of a foreground mask's cell: the stride of a teacher's finest map


def synthesise(images: Tensor, foregrounds: Tensor, textures: Rows, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Put an anomaly into most images, and leave the others normal.

    Args:
        images: (B, 3, s, s) uint8.
        foregrounds: (B, h, w) bool, of any resolution: where anomalies may be.
        textures: (3, s, s) uint8 each.

    Returns:
        (B, 3, s, s) uint8, and (B, s, s) bool, true where an anomaly was put.
    """
    size = images.shape[-1]
    where = F.interpolate(foregrounds[:, None].float(), (size, size))[:, 0] > 0  # (B, s, s)
    abnormal = torch.from_numpy(rng.random(len(images)) >= NORMAL_SHARE)
    masks = anomaly_masks(where, rng) & abnormal.to(where.device)[:, None, None]
    beta = torch.from_numpy(rng.uniform(0, LARGEST_BETA, len(images)).astype(np.float32)).to(images.device)
    drawn = textures[rng.integers(len(textures), size=len(images)).tolist()].to(images.device)
    drawn = torch.stack([_augmented(texture, rng) for texture in drawn])
    return blend(images, drawn, masks, beta), masks


def blend(images: Tensor, textures: Tensor, masks: Tensor, beta: Tensor) -> Tensor:
    """(1 - beta) texture + beta image inside the masks, rounded; the image outside.

    Args:
        images, textures: (B, 3, s, s) uint8.
        masks: (B, s, s) bool.
        beta: (B,) in [0, 1].
    """
    mixed = torch.lerp(textures.float(), images.float(), beta[:, None, None, None]).round().to(torch.uint8)
    return torch.where(masks[:, None], mixed, images)


def anomaly_masks(foregrounds: Tensor, rng: np.random.Generator) -> Tensor:
    """Perlin masks inside (B, s, s) bool foregrounds, one each; drawn anew while they have next to no pixel."""
    masks = _perlin_masks(len(foregrounds), foregrounds, rng) & foregrounds
    for _ in range(DRAWS - 1):
        small = (masks.flatten(1).sum(1) <= FEWEST_PIXELS).nonzero()[:, 0]
        if not len(small):
            break
        masks[small] = _perlin_masks(len(small), foregrounds, rng) & foregrounds[small]
    return masks


def _perlin_masks(number: int, like: Tensor, rng: np.random.Generator) -> Tensor:
    """(number, s, s) bool: Perlin noise with a random number of cells per axis, rotated, above the threshold."""
    size = like.shape[-1]
    noise = perlin_noise(rng.choice(CELLS, (number, 2)), size, rng).to(like.device)
    angle = np.deg2rad(rng.uniform(*ANGLES, number))
    turn = np.stack([np.cos(angle), -np.sin(angle), 0 * angle, np.sin(angle), np.cos(angle), 0 * angle], 1)
    matrices = torch.from_numpy(turn.reshape(number, 2, 3).astype(np.float32)).to(like.device)
    grid = F.affine_grid(matrices, [number, 1, size, size], align_corners=False)
    # What the rotation brings in from outside is 0, thus normal, as in DRAEM.
    return F.grid_sample(noise[:, None], grid, align_corners=False)[:, 0] > THRESHOLD


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


def foreground(image: Tensor) -> Tensor:
    """Where the object is: what differs in colour from the border of the image, by Otsu's threshold.

    The whole image where that finds no object on a plain background: colours without two clear groups, much that
    differs on the border itself, or a mask that covers next to nothing or nearly all. So it is for textures.

    Args:
        image: (3, s, s) uint8, s a multiple of 4.

    Returns:
        (s/4, s/4) bool.
    """
    small = F.avg_pool2d(image[None].float(), FINEST)[0]  # (3, s/4, s/4)
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


def _augmented(texture: Tensor, rng: np.random.Generator) -> Tensor:
    """Three different augmentations of DRAEM's ten, each at random strength."""
    for chosen in rng.choice(len(AUGMENTATIONS), 3, replace=False):
        texture = AUGMENTATIONS[chosen](texture, rng)
    return texture


def _hue_and_saturation(image: Tensor, rng: np.random.Generator) -> Tensor:
    return T.adjust_saturation(T.adjust_hue(image, rng.uniform(-0.2, 0.2)), rng.uniform(0.6, 1.4))


# imgaug's ranges in DRAEM, where torchvision has the same parameter, else of like strength.
AUGMENTATIONS: tuple[Callable[[Tensor, np.random.Generator], Tensor], ...] = (
    lambda image, rng: T.adjust_gamma(image, rng.uniform(0.5, 2)),
    lambda image, rng: T.adjust_brightness(image, rng.uniform(0.7, 1.3)),
    lambda image, rng: T.adjust_sharpness(image, rng.uniform(0, 2)),
    _hue_and_saturation,
    lambda image, rng: T.solarize(image, rng.uniform(32, 128)),
    lambda image, rng: T.posterize(image, int(rng.integers(1, 9))),
    lambda image, rng: T.invert(image),
    lambda image, rng: T.autocontrast(image),
    lambda image, rng: T.equalize(image),
    lambda image, rng: T.rotate(image, rng.uniform(-45, 45)),
)
