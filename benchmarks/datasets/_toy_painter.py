"""Paints the images of `toy`: a machined cog, a woven fabric, a tray with bolts, nuts and rings.

Everything is drawn from signed distances (negative inside, in image pixels) on a grid of twice the resolution, which is
then averaged: smooth edges without a renderer. A painter returns the image and the annotated regions of its defect.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.random import Generator

SIZE, SCALE = 128, 2
Y, X = (np.mgrid[: SIZE * SCALE, : SIZE * SCALE] + 0.5) / SCALE  # (S, S) pixel coordinates of the fine grid
LIGHT = (-0.6, -0.8)  # from the upper left

STEEL, BRASS, RED, BLUE = (168, 172, 178), (196, 156, 84), (186, 58, 48), (52, 92, 168)


class Region(NamedTuple):
    """One annotated region."""

    defect: str  # its type
    mask: np.ndarray  # (SIZE, SIZE) bool


def paint(category: str, defect: str, rng: Generator) -> tuple[np.ndarray, list[Region]]:
    """One image, (SIZE, SIZE, 3) uint8, and the regions of its defect; "good" has none."""
    canvas, regions = {"cog": _cog, "fabric": _fabric, "tray": _tray}[category](defect, rng)
    # The camera: uneven light, exposure, sensor noise.
    tilt, turn = rng.uniform(0, 0.08), rng.uniform(0, 2 * np.pi)
    falloff = 1 + tilt * ((X - SIZE / 2) * np.cos(turn) + (Y - SIZE / 2) * np.sin(turn)) / (SIZE / 2)
    canvas = canvas * (falloff * rng.uniform(0.95, 1.05))[..., None]
    image = canvas.reshape(SIZE, SCALE, SIZE, SCALE, 3).mean(axis=(1, 3)) + rng.normal(0, 2.0, (SIZE, SIZE, 3))
    return np.rint(image).clip(0, 255).astype(np.uint8), regions


def _cog(defect: str, rng: Generator) -> tuple[np.ndarray, list[Region]]:
    ribs = 6 * np.cos((Y + rng.uniform(0, 8)) * 2 * np.pi / 8)  # a ribbed rubber belt
    canvas = np.array([46, 50, 54]) + (ribs + 3 * _noise(rng, 0.7))[..., None]
    x, y, turn = SIZE / 2 + rng.uniform(-4, 4), SIZE / 2 + rng.uniform(-4, 4), rng.uniform(-0.3, 0.3)
    radius, angle = np.hypot(X - x, Y - y), np.arctan2(Y - y, X - x) - turn

    def hole(at: float) -> np.ndarray:
        return _circle(x + 31 * np.cos(at + turn), y + 31 * np.sin(at + turn), 6.5)

    solid = radius - 49 - 4 * np.tanh(3 * np.cos(14 * angle))
    keyway = _box(x + 13 * np.cos(turn), y + 13 * np.sin(turn), 4.5, 3, turn)
    solid = np.maximum(solid, -np.minimum(radius - 12, keyway))
    blank = rng.integers(6) if defect == "missing_hole" else -1
    for k in range(6):
        if k != blank:
            solid = np.maximum(solid, -hole(k * np.pi / 3))
    regions = [_region(defect, hole(blank * np.pi / 3))] if defect == "missing_hole" else []
    if defect == "extra_hole":
        extra = hole((rng.integers(6) + 0.5) * np.pi / 3)
        solid, regions = np.maximum(solid, -extra), [_region(defect, extra)]
    if defect == "chipped_tooth":
        at = turn + rng.integers(14) * 2 * np.pi / 14
        chip = _blob(x + 53 * np.cos(at), y + 53 * np.sin(at), rng.uniform(8, 11), rng)
        tooth, solid = solid, np.maximum(solid, -chip)
        regions = [_region(defect, np.maximum(chip, tooth))]

    rings = np.interp(radius, np.arange(0, 100, 0.5), rng.normal(0, 1, 200))  # turned on a lathe
    sheen = 1 + 0.16 * np.cos(2 * (np.arctan2(Y - y, X - x) + 0.9)) + 0.035 * rings + 0.01 * _noise(rng, 0.6)
    for groove in (19.0, 42.0):
        sheen -= 0.3 * np.exp(-(((radius - groove) / 0.9) ** 2))
    _solid(canvas, solid, STEEL, sheen)
    return canvas, regions or _damage(canvas, defect, solid, rng)


def _fabric(defect: str, rng: Generator) -> tuple[np.ndarray, list[Region]]:
    turn = rng.uniform(-0.05, 0.05)
    u = (X * np.cos(turn) + Y * np.sin(turn) + 1.2 * _noise(rng, 24)) / 8 + rng.uniform(20, 22)  # in threads
    v = (Y * np.cos(turn) - X * np.sin(turn) + 1.2 * _noise(rng, 24)) / 8 + rng.uniform(20, 22)
    warp_tone, weft_tone = rng.normal(1, 0.04, (2, 64))
    i, j = u.astype(int), v.astype(int)
    warp_on_top = (i + j) % 3 != 0  # a twill
    gap = np.zeros_like(warp_on_top)
    if defect == "missing_thread":
        start, length = rng.uniform(23, 27), rng.uniform(5, 8)
        gap = (i == rng.integers(25, 33)) & (v > start) & (v < start + length)
    across = np.where(warp_on_top, u, v) % 1 - 0.5
    along = np.where(warp_on_top, v, u) % 1 - 0.5
    relief = (0.45 + 0.55 * np.sqrt(1 - (1.9 * across) ** 2)) * (1 - 0.5 * along**2)
    tone = np.where(warp_on_top, warp_tone[i], weft_tone[j]) * relief + 0.03 * _noise(rng, 0.7)
    colour = np.where(warp_on_top[..., None], (206, 190, 156), (96, 116, 148))
    canvas = colour * np.where(gap, 0.28, tone)[..., None]
    if defect == "missing_thread":
        return canvas, [_region(defect, np.where(gap, -1.0, 1.0))]
    return canvas, _damage(canvas, defect, _everywhere(), rng)


def _tray(defect: str, rng: Generator) -> tuple[np.ndarray, list[Region]]:
    canvas = np.array([186, 190, 188]) + (2.5 * _noise(rng, 1.0) + 2 * _noise(rng, 12))[..., None]
    dx, dy = rng.uniform(-1.5, 1.5, 2)
    floors = [
        _box(x + dx, y + dy, width, height, 0) - 3
        for x, y, width, height in ((33, 64, 22, 52), (92, 36, 26, 24), (92, 97, 26, 19))
    ]
    for floor in floors:
        _recess(canvas, floor)

    def near(x: float, y: float, spread: float) -> tuple[float, float]:
        return x + dx + rng.uniform(-spread, spread), y + dy + rng.uniform(-spread, spread)

    bolts = [
        bolt_shape(*near(21, 26, 2.5), rng.uniform(-0.08, 0.08)),
        bolt_shape(*near(45, 26, 2.5), rng.uniform(-0.08, 0.08)),
    ]
    nuts = [nut_shape(*near(x, y, 3), rng.uniform(0, np.pi)) for x, y in ((79, 24), (104, 25), (83, 49))]
    rings = [np.abs(_circle(*near(x, 97, 2.5), 7.5)) - 3 for x in (79, 105)]
    colours = [RED, BLUE]

    regions: list[Region] = []
    if defect == "missing_nut":
        del nuts[rng.integers(3)]
        regions = [_region("missing_nut", _without(floors[1], nuts))]
    elif defect == "missing_bolt":
        del bolts[rng.integers(2)]
        regions = [_region(defect, _without(floors[0], bolts))]
    elif defect == "extra_nut":
        nuts.append(nut_shape(*near(106, 48, 1.5), rng.uniform(0, np.pi)))
        regions = [_region(defect, np.minimum.reduce(nuts))]
    elif defect == "misplaced_nut":
        del nuts[rng.integers(3)]
        regions = [_region("missing_nut", _without(floors[1], nuts))]
        nuts.append(nut_shape(*near(33, 102, 3), rng.uniform(0, np.pi)))
        regions.append(_region(defect, nuts[-1]))
    elif defect == "swapped_rings":
        colours.reverse()
        regions = [_region(defect, np.minimum(*rings))]
    elif defect == "broken_bolt":
        k, cut = rng.integers(2), Y - rng.uniform(52, 66) - 1.5 * _noise(rng, 1.5)
        regions = [_region(defect, np.maximum(bolts[k], -cut))]
        bolts[k] = np.maximum(bolts[k], cut)

    # Rolled threads darken the shank below the head in a fine rhythm.
    threads = np.where(40 + dy < Y, 0.9 + 0.16 * np.cos((Y + 0.12 * X) * 2 * np.pi / 3.2), 1.04)
    for bolt in bolts:
        _solid(canvas, bolt, STEEL, threads + 0.02 * _noise(rng, 0.7))
    for nut in nuts:
        _solid(canvas, nut, BRASS, 1 + 0.03 * _noise(rng, 0.7))
    for ring, colour in zip(rings, colours, strict=True):
        _solid(canvas, ring, colour, 1 + 0.03 * _noise(rng, 1.0))
    return canvas, regions or _damage(canvas, defect, _everywhere(), rng)


def _damage(canvas: np.ndarray, defect: str, solid: np.ndarray, rng: Generator) -> list[Region]:
    """Paint a structural defect on the surface `solid`; its regions."""
    if defect == "good":
        return []
    rows, columns = np.nonzero(np.maximum(solid, _everywhere()) < -6)
    at = rng.integers(rows.size)
    x, y = X[rows[at], columns[at]], Y[rows[at], columns[at]]
    if defect in ("scratch", "cut"):
        shape = _stroke(x, y, rng)
        shadow, core = (0.25, 0.2) if defect == "cut" else (0.5, 1.5)
        _tint(canvas, _cover(np.maximum(shape - 0.8, solid)), shadow)
        _tint(canvas, _cover(np.maximum(shape, solid)), core / shadow)
        shape = shape - 0.8
    elif defect == "stain":
        shape = _blob(x, y, rng.uniform(8, 12), rng)
        soft = _cover(np.maximum(shape, solid) / 3)
        _tint(canvas, soft * (0.85 + 0.1 * _noise(rng, 2)).clip(0, 1), np.array([0.62, 0.42, 0.26]))
    elif defect == "hole":
        shape = _blob(x, y, rng.uniform(6, 9), rng)
        _tint(canvas, _cover(shape - 1.2), 1.3)
        canvas += _cover(shape)[..., None] * (np.array([24, 22, 22]) - canvas)
    else:  # a dent: shaded like a bowl, dark towards the light and bright away from it
        reach = rng.uniform(7, 10)
        shape = _circle(x, y, reach)
        slope = ((X - x) * LIGHT[0] + (Y - y) * LIGHT[1]) / reach
        _tint(canvas, _cover(np.maximum(shape, solid)), (1 - 0.75 * slope * np.exp(-(slope**2)))[..., None] * 0.85)
    return [_region(defect, np.maximum(shape, solid))]


def _solid(canvas: np.ndarray, shape: np.ndarray, colour: tuple[int, int, int], tone: np.ndarray) -> None:
    """A part that lies on the canvas: its shadow, its face, its edge lit from `LIGHT`."""
    shift = 2 * SCALE  # down and to the right by two pixels
    shadow = np.pad(shape, ((shift, 0), (shift, 0)), mode="edge")[:-shift, :-shift]
    _tint(canvas, _cover(shadow / 2.5), 0.55)
    edge = np.exp(-((np.minimum(shape, 0) / 1.2) ** 2)) * _facing(shape)
    face = np.array(colour) * (tone + 0.35 * edge)[..., None]
    canvas += _cover(shape)[..., None] * (face - canvas)


def _recess(canvas: np.ndarray, shape: np.ndarray) -> None:
    """A compartment pressed into the canvas; its walls are lit the other way round."""
    _tint(canvas, _cover(shape), 0.78)
    _tint(canvas, np.exp(-((shape / 1.6) ** 2)), (1 - 0.3 * _facing(shape))[..., None])


def _facing(shape: np.ndarray) -> np.ndarray:
    down, right = np.gradient(shape, 1 / SCALE)
    return right * LIGHT[0] + down * LIGHT[1]  # (S, S) cosine between outward normal and light


def _tint(canvas: np.ndarray, cover: np.ndarray, factor: float | np.ndarray) -> None:
    canvas *= 1 + cover[..., None] * (factor - 1)


def _cover(shape: np.ndarray) -> np.ndarray:
    return np.clip(0.5 - shape * SCALE, 0, 1)


def _region(defect: str, shape: np.ndarray) -> Region:
    covered = (shape < 0).reshape(SIZE, SCALE, SIZE, SCALE)
    return Region(defect, np.any(covered, axis=(1, 3)))


def area(shape: np.ndarray) -> int:
    """Whole pixels inside a shape."""
    return int((shape < 0).sum()) // SCALE**2


def _noise(rng: Generator, sigma: float) -> np.ndarray:
    """Smooth noise of unit variance; sigma in pixels."""
    from scipy.ndimage import gaussian_filter  # a job that reads the images need not wait for this import

    noise = gaussian_filter(rng.standard_normal(X.shape), sigma * SCALE, mode="wrap")
    return noise / noise.std()


def _everywhere() -> np.ndarray:
    return _box(SIZE / 2, SIZE / 2, SIZE / 2, SIZE / 2, 0)


def _circle(x: float, y: float, radius: float) -> np.ndarray:
    return np.hypot(X - x, Y - y) - radius


def _box(x: float, y: float, half_width: float, half_height: float, turn: float) -> np.ndarray:
    along = np.abs((X - x) * np.cos(turn) + (Y - y) * np.sin(turn)) - half_width
    across = np.abs((Y - y) * np.cos(turn) - (X - x) * np.sin(turn)) - half_height
    return np.hypot(along.clip(0), across.clip(0)) + np.minimum(np.maximum(along, across), 0)


def _blob(x: float, y: float, radius: float, rng: Generator) -> np.ndarray:
    return _circle(x, y, radius) + 1.8 * _noise(rng, 4)


def _hexagon(x: float, y: float, radius: float, turn: float) -> np.ndarray:
    sides = [(X - x) * np.cos(turn + k * np.pi / 3) + (Y - y) * np.sin(turn + k * np.pi / 3) for k in range(6)]
    return np.maximum.reduce(sides) - radius


def nut_shape(x: float, y: float, turn: float) -> np.ndarray:
    return np.maximum(_hexagon(x, y, 8.5, turn), -_circle(x, y, 4.2))


def bolt_shape(x: float, y: float, lean: float) -> np.ndarray:
    shank = _box(x - 31 * np.sin(lean), y + 31 * np.cos(lean), 4.5, 29, lean)
    return np.minimum(_box(x, y, 9, 6.5, lean), shank)


def _without(floor: np.ndarray, parts: list[np.ndarray]) -> np.ndarray:
    return np.maximum(floor, -np.minimum.reduce(parts))


def _stroke(x: float, y: float, rng: Generator) -> np.ndarray:
    """A thin, slightly bent line through (x, y)."""
    turn, bend, length = rng.uniform(0, np.pi), rng.uniform(-0.012, 0.012), rng.uniform(16, 26)
    along = (X - x) * np.cos(turn) + (Y - y) * np.sin(turn)
    across = (Y - y) * np.cos(turn) - (X - x) * np.sin(turn) + bend * along**2
    return np.hypot(across, (np.abs(along) - length).clip(0)) - rng.uniform(0.7, 1.2)
