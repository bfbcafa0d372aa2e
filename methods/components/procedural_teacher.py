"""A small teacher that needs no download: a network trained to classify procedural images.

`proctor pretrain procedural` trains it in about a minute and writes a safetensors file that `teachers.load` reads.
The images come from formulas and a seed alone; they include no image of any data set.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter, zoom
from scipy.spatial import cKDTree
from torch import Tensor, nn
from torch.nn import functional as F

ARCHITECTURE = "test_resnet"  # timm's smallest ResNet: 32, 48 and 192 channels at strides 4, 8 and 16
SIZE = 64
BATCH = 64
STEPS = 500

Field = np.ndarray  # (SIZE, SIZE), any range
Pattern = Callable[[Field, Field, np.random.Generator], Field]  # of rotated and scaled coordinates u, v

# Periodic patterns, of period 2 pi in u and v.
PERIODIC: dict[str, Pattern] = {
    "stripes": lambda u, v, rng: np.sin(u),
    "lines": lambda u, v, rng: np.cos(u) > 0.85,
    "checks": lambda u, v, rng: np.sin(u) * np.sin(v) > 0,
    "dots": lambda u, v, rng: np.cos(u) + np.cos(v) > 1,
    "mesh": lambda u, v, rng: np.maximum(np.cos(u), np.cos(v)) > 0.85,
    "bricks": lambda u, v, rng: np.maximum(np.cos(v), np.cos(u / 2 + np.pi / 2 * (np.floor(v / 2 / np.pi) % 2))) > 0.9,
    "weave": lambda u, v, rng: np.where(np.sin(u) * np.sin(v) > 0, np.cos(2 * u), np.cos(2 * v)),
    "hexagons": lambda u, v, rng: sum(np.cos(u * np.cos(a) + v * np.sin(a)) for a in np.pi / 3 * np.arange(3)) > 0.5,
    "waves": lambda u, v, rng: np.sin(u + 1.5 * np.sin(v / 2)),
    "zigzag": lambda u, v, rng: np.sin(u + np.abs((v % 6) - 3)) > 0,
    "rings": lambda u, v, rng: np.sin(np.hypot(u, v)),
    "rays": lambda u, v, rng: np.sin(rng.integers(5, 12) * np.arctan2(v, u)),
    "spiral": lambda u, v, rng: np.sin(np.hypot(u, v) + rng.integers(1, 4) * np.arctan2(v, u)),
}
# Solid shapes around the origin: inside where positive.
SHAPES: dict[str, Pattern] = {
    "discs": lambda u, v, rng: 2 - np.hypot(u, v),
    "annuli": lambda u, v, rng: 0.5 - np.abs(np.hypot(u, v) - 1.7),
    "squares": lambda u, v, rng: 1.8 - np.maximum(np.abs(u), np.abs(v)),
    "bars": lambda u, v, rng: np.minimum(2.5 - np.abs(u), 0.5 - np.abs(v)),
    "crosses": lambda u, v, rng: 0.5 - np.minimum(np.abs(u), np.abs(v)) - (np.maximum(np.abs(u), np.abs(v)) > 2.3),
    "triangles": lambda u, v, rng: np.minimum(v + 1, 1 - np.abs(u) - v / 2),
    "stars": lambda u, v, rng: 1.7 + 0.8 * np.cos(5 * np.arctan2(v, u)) - np.hypot(u, v),
}
NOISE = ("clouds", "blotches", "grain", "cells", "cracks")
FAMILIES = (*PERIODIC, *SHAPES, *NOISE)


def image(family: str, rng: np.random.Generator) -> np.ndarray:
    """One image of a family, (SIZE, SIZE, 3) uint8: its pattern in two colours, unevenly lit, with some noise."""
    if family in NOISE:
        field = _noise(family, rng)
    elif family in PERIODIC:
        field = PERIODIC[family](*_coordinates(rng, scale=rng.uniform(0.25, 1.0)), rng)
    else:
        places = [_coordinates(rng, scale=rng.uniform(0.15, 0.5)) for _ in range(rng.integers(1, 7))]
        field = np.maximum.reduce([SHAPES[family](u, v, rng) for u, v in places]) > 0
    field = field.astype(float)
    field = (field - field.min()) / (np.ptp(field) or 1)  # (SIZE, SIZE) in [0, 1]
    field = gaussian_filter(field, rng.uniform(0, 0.8))
    background, foreground = rng.uniform(0, 1, (2, 3))
    u, _ = _coordinates(rng, scale=1 / SIZE)
    illumination = 1 + rng.uniform(0, 0.5) * u[..., None]
    colours = (background + field[..., None] * (foreground - background)) * illumination  # (SIZE, SIZE, 3)
    colours += rng.normal(0, rng.uniform(0, 0.06), (SIZE, SIZE, 3))
    return (255 * colours.clip(0, 1)).astype(np.uint8)


def _coordinates(rng: np.random.Generator, scale: float) -> tuple[Field, Field]:
    """Pixel coordinates relative to a random point, rotated at random and scaled."""
    x, y = np.meshgrid(*(np.arange(SIZE) - rng.uniform(0, SIZE) for _ in range(2)))
    angle = rng.uniform(0, 2 * np.pi)
    return scale * (x * np.cos(angle) + y * np.sin(angle)), scale * (y * np.cos(angle) - x * np.sin(angle))


def _noise(family: str, rng: np.random.Generator) -> Field:
    if family in ("cells", "cracks"):
        points = rng.uniform(0, SIZE, (rng.integers(8, 60), 2))
        neighbours = cKDTree(points).query(np.indices((SIZE, SIZE)).reshape(2, -1).T, 2)
        distances, nearest = (np.asarray(array) for array in neighbours)  # (SIZE * SIZE, 2) each
        shade = rng.permutation(np.arange(len(points)))
        field = shade[nearest[:, 0]] if family == "cells" else np.diff(distances) < 1.5
        return field.reshape(SIZE, SIZE)
    grain = 1 if family == "grain" else rng.uniform(4, 12)
    coarse = rng.normal(size=(int(SIZE / grain) + 2,) * 2)
    field = zoom(coarse, grain * 1.2, order=3 if grain > 1 else 0)[:SIZE, :SIZE]
    return field > 0 if family == "blotches" else field


def pretrain(file: Path, seed: int = 0, steps: int = STEPS) -> float:
    """Train the teacher and write its stem and three stages to a safetensors file.

    Returns:
        Accuracy of the head on the last stage over the last 20 batches, each before the step on it.
    """
    torch.set_num_threads(1)  # as fast for so small a network, and the same sums, so the same weights, on any machine
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network: Any = timm.create_model(ARCHITECTURE, features_only=True, out_indices=(1, 2, 3))
    heads = nn.ModuleList(nn.Linear(channels, len(FAMILIES)) for channels in network.feature_info.channels())
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    parameters = [*network.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    accuracy = []
    for _ in track(range(steps), "pre-training a teacher on procedural images", console=Console(stderr=True)):
        labels = torch.from_numpy(rng.permutation(np.arange(BATCH) % len(FAMILIES)))
        batch = np.stack([image(FAMILIES[label], rng) for label in labels.tolist()])
        features: list[Tensor] = network((torch.from_numpy(batch).permute(0, 3, 1, 2) / 255 - mean) / std)
        # A head on each stage: all three are distilled, so all three must discriminate patterns.
        logits = [head(level.mean((2, 3))) for head, level in zip(heads, features, strict=True)]
        loss = torch.stack([F.cross_entropy(prediction, labels) for prediction in logits]).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        accuracy.append((logits[-1].argmax(1) == labels).float().mean().item())
    file.parent.mkdir(parents=True, exist_ok=True)
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    metadata = {"architecture": ARCHITECTURE, "pretraining": "procedural images"}
    # One entry: safetensors writes several in random order, and the same weights must give the same file.
    save_file(state, file, {"teacher": json.dumps(metadata)})
    return float(np.mean(accuracy[-20:]))
