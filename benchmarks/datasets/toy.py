"""The embedded data set: procedural images in the layout of MVTec LOCO, generated from a seed in seconds.

Three categories of 128x128 pixels: `cog` (an object), `fabric` (a texture, structural anomalies only) and `tray`
(a scene with countable parts: two bolts, three nuts, a red ring left of a blue one). Regions have saturation
thresholds: where the number of parts is wrong, the area of one part suffices, as in MVTec LOCO.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.datasets import _toy_painter as painter
from benchmarks.datasets.mvtec_loco import MVTecLOCO
from methods.base import InputError

# Category -> subset -> defect types, painted in turn.
DEFECTS: dict[str, dict[str, tuple[str, ...]]] = {
    "cog": {"structural": ("scratch", "stain", "dent", "chipped_tooth"), "logical": ("missing_hole", "extra_hole")},
    "fabric": {"structural": ("hole", "stain", "cut", "missing_thread"), "logical": ()},
    "tray": {
        "structural": ("scratch", "stain", "hole", "broken_bolt"),
        "logical": ("missing_nut", "missing_bolt", "extra_nut", "misplaced_nut", "swapped_rings"),
    },
}
# Pixels that suffice where a number of parts is wrong; any other region must be covered whole.
SATURATION = {
    "missing_nut": painter.area(painter.nut_shape(64, 64, 0)),
    "extra_nut": painter.area(painter.nut_shape(64, 64, 0)),
    "missing_bolt": painter.area(painter.bolt_shape(64, 32, 0)),
}


class Toy(MVTecLOCO):
    title = "Toy"
    licence = "Apache-2.0, as the project"
    homepage = "benchmarks/datasets/toy.py"
    download = "python -c \"from benchmarks.datasets import toy; toy.generate('data/toy')\""
    fetchable = True
    official_counts = {}  # noqa: RUF012

    @classmethod
    def fetch(cls, root: Path) -> None:
        generate(root)


def generate(
    root: str | Path, seed: int = 0, *, train: int = 40, validation: int = 8, good: int = 12, anomalous: int = 18
) -> None:
    """Paint the data set into `root`, which appears only when complete. Equal arguments give equal bytes.

    Args:
        root: a folder that does not exist yet, or is empty.
        seed: of all images; each image depends on nothing but the seed and its own path.
        train, validation, good, anomalous: images per category.

    Raises:
        InputError: `root` holds something already.
    """
    root = Path(root)
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise InputError(f"{root} exists already and is not empty. Delete it, or choose another folder.")
    partial = root.with_name(f".{root.name}.{os.getpid()}")
    try:
        for category, kinds in DEFECTS.items():
            subsets = {defect: f"{kind}_anomalies" for kind, defects in kinds.items() for defect in defects}
            pixel_values = {defect: 255 - k for k, defect in enumerate(subsets)}
            folder = partial / category
            for split, number in (("train", train), ("validation", validation), ("test", good)):
                for index in range(number):
                    _paint(folder, f"{split}/good/{index:03}", "good", seed)
            for index in range(anomalous):
                defect = list(subsets)[index % len(subsets)]
                regions = _paint(folder, f"test/{subsets[defect]}/{index:03}", defect, seed)
                for k, region in enumerate(regions):
                    mask = np.where(region.mask, pixel_values[region.defect], 0).astype(np.uint8)  # (H, W)
                    _save(folder / "ground_truth" / subsets[defect] / f"{index:03}" / f"{k:03}.png", mask)
            config = [
                {
                    "defect_name": defect,
                    "pixel_value": value,
                    "saturation_threshold": SATURATION.get(defect, 1.0),
                    "relative_saturation": defect not in SATURATION,
                }
                for defect, value in pixel_values.items()
            ]
            (folder / "defects_config.json").write_text(json.dumps(config, indent=2) + "\n")
        partial.rename(root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _paint(folder: Path, name: str, defect: str, seed: int) -> list[painter.Region]:
    rng = np.random.default_rng([seed, zlib.crc32(f"{folder.name}/{name}".encode())])
    image, regions = painter.paint(folder.name, defect, rng)
    _save(folder / f"{name}.png", image)
    return regions


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
