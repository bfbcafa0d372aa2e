"""Readings of SNL compared without a test set: by held-out normal images, and synthetic anomalies made from them.

    python -m tests.studies.snl_readings MVTEC_AD RESNET18.safetensors --reading snl --seed 0

One model learns four fifths of the training images of bottle, screw and toothbrush. The rest is the normal class, and
the anomalies are made from it: a patch of another category, a patch of the same image, a faint texture in a Perlin
mask, and mixtures with another category. Printed are

- after each epoch, the mean anomaly map of the held-out images: a jump is a category that is reconstructed badly;
- at the end, image AUROC in percent by category and anomaly, for the sum of the baseline's map and the affinity's at
  several shares, with the batch norms' running averages and recalibrated.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor

import methods
from methods.base import Context, Sample
from methods.components import anomaly_synthesis, batch_norm, textures
from methods.distillation import Distillation, _Data

CATEGORIES = ("bottle", "screw", "toothbrush")
TEACHER, SIZE, BATCH = "resnet18.tv_in1k", 128, 8
READINGS: dict[str, dict[str, Any]] = {
    "rd": {"method": "rd"},
    "rd_pixel": {"method": "rd", "loss": "pixel"},
    "snl": {"method": "snl"},
    "snl_flat": {"method": "snl", "loss": "flat"},
    "snl_divergence": {"method": "snl", "spatial": "divergence"},
    "snl_no_spatial": {"method": "snl", "spatial_weight": 0.0},
    "snl_no_cram": {"method": "snl", "centres": 0},
}
SHARES = {"baseline": (1.0, 0.0), "affinity": (0.0, 1.0), "sum, 1": (1.0, 1.0), "sum, 0.25": (1.0, 0.25)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--reading", choices=READINGS, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    training, held_out = _images(options.root)
    sets = {category: {"normal": held_out[category]} | _anomalies(held_out, category) for category in CATEGORIES}
    started = time.process_time()
    context = Context(seed=1000 + options.seed, weights={TEACHER: options.weights}, precision="bfloat16")
    shared = {"teacher": TEACHER, "image_size": SIZE, "epochs": options.epochs, "batch_size": BATCH}
    reading = {"batch_norm": "running"} | READINGS[options.reading]
    method: Any = methods.create(reading.pop("method"), **shared, **reading)
    samples = [sample for category in CATEGORIES for sample in _samples(training[category], category, "training")]
    _report_each_epoch(method, held_out, context)
    method.fit(samples, [], context)
    scores = {"running": _evaluate(method, sets, context)}
    data = _Data.load(method, samples, context)
    order = torch.randperm(len(samples)).split(BATCH)
    batch_norm.recalibrate(method.student_, [b.tolist() for b in order], lambda b: data.outputs(b, method.student_))
    scores["recalibrated"] = _evaluate(method, sets, context)
    table = pd.concat(scores, names=["batch norm"]).mul(100).round(1)
    print(options.reading, "seed", options.seed, f"{time.process_time() - started:.0f} CPU s")
    print(table.assign(mean=table.mean(axis=1).round(1)).to_string())


def _images(root: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Of each category the images to train on and the others, (N, 3, s, s) uint8."""
    training, held_out = {}, {}
    for category in CATEGORIES:
        images = torch.stack([_read(path) for path in sorted((root / category / "train/good").glob("*"))])
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        number = max(10, len(images) // 5)
        held_out[category], training[category] = images[order[:number]], images[order[number:]]
    return training, held_out


def _read(path: Path) -> Tensor:
    with Image.open(path) as image:
        resized = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1).contiguous()


def _anomalies(held_out: Mapping[str, Tensor], category: str) -> dict[str, Tensor]:
    """Synthetic anomalies of a category, by kind."""
    random = np.random.default_rng(100 + CATEGORIES.index(category))
    normal = held_out[category]
    others = torch.cat([held_out[other] for other in CATEGORIES if other != category])
    base = normal[[row % len(normal) for row in range(min(60, max(40, len(normal))))]]
    foreign, own = base.clone(), base.clone()
    for image in foreign:
        source = others[random.integers(len(others))]
        (y, x), (v, u) = random.integers(16, SIZE - 26, 2), random.integers(40, 80, 2)
        image[:, y : y + 10, x : x + 10] = source[:, v : v + 10, u : u + 10]
    for image, source in zip(own, base, strict=True):
        height, width = random.integers(8, 24, 2)
        (y, x), (v, u) = random.integers(32, 72, 2), random.integers(32, 72, 2)
        image[:, y : y + height, x : x + width] = source[:, v : v + height, u : u + width]
    masks = anomaly_synthesis.anomaly_masks(torch.ones(len(base), SIZE, SIZE, dtype=torch.bool), random)
    shares = torch.from_numpy(random.uniform(0.8, 0.95, len(base)).astype(np.float32))
    bank = textures.load(None, SIZE, None)
    pattern = bank[random.integers(len(bank), size=len(base)).tolist()]
    result = {"foreign patch": foreign, "own patch": own}
    result["texture"] = anomaly_synthesis.blend(base, pattern, masks, shares)
    for share in (0.85, 0.93):
        mixed = [torch.lerp(others[random.integers(len(others))].float(), image.float(), share) for image in base]
        result[f"mixture {share}"] = torch.stack(mixed).round().to(torch.uint8)
    return result


def _samples(images: Tensor, category: str, kind: str) -> list[Sample]:
    return [
        Sample(f"{category}/{kind}/{row:05d}", category, partial(images.__getitem__, row)) for row in range(len(images))
    ]


def _report_each_epoch(method: Distillation, held_out: Mapping[str, Tensor], context: Context) -> None:
    """Print the mean map of held-out images after each epoch. `fit` trains the same way with or without it."""
    evaluate = method._evaluate

    def reporting(epoch: int, *arguments: Any) -> dict[str, float]:
        means = {name: _maps(method, images, name, context)[0].mean().item() for name, images in held_out.items()}
        print("epoch", epoch, {name: round(mean, 4) for name, mean in means.items()}, flush=True)
        return evaluate(epoch, *arguments)

    method._evaluate = reporting  # type: ignore[method-assign]


def _maps(method: Any, images: Tensor, category: str, context: Context) -> Tensor:
    """The baseline's maps, and the affinity's if the method has it: (K, N, s, s)."""
    data = _Data.load(method, _samples(images, category, "probe"), context)

    def batches() -> Iterator[Tensor]:
        for outputs in data.evaluate(range(len(images))):
            yield torch.stack(method._maps(*outputs) if hasattr(method, "_maps") else [method.anomaly_map(*outputs)])

    return torch.cat(list(batches()), 1)


def _evaluate(method: Any, sets: Mapping[str, Mapping[str, Tensor]], context: Context) -> pd.DataFrame:
    """Image AUROC; a row for each category and way to combine the maps, a column for each kind of anomaly."""
    maps = {
        category: {kind: _maps(method, images, f"{category}-{kind}", context) for kind, images in kinds.items()}
        for category, kinds in sets.items()
    }
    deviations = torch.cat([kinds["normal"].flatten(1) for kinds in maps.values()], 1).std(1)  # (K,)
    rows = {}
    for combination, shares in SHARES.items() if len(deviations) == 2 else [("baseline", (1.0,))]:
        weights = torch.tensor(shares) / deviations
        for category, kinds in maps.items():
            scores = {kind: torch.einsum("k,knyx->nyx", weights, m).amax((1, 2)).numpy() for kind, m in kinds.items()}
            normal = scores.pop("normal")
            rows[combination, category] = {
                kind: roc_auc_score([0] * len(normal) + [1] * len(values), [*normal, *values])
                for kind, values in scores.items()
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["maps", "category"])


if __name__ == "__main__":
    main()
