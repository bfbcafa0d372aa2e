"""Images of several sizes in one category: each is compared at its own, from the files to a verified bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import test_bundle
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks import datasets
from benchmarks.datasets.base import Item
from benchmarks.metrics.conventions import CONVENTIONS
from benchmarks.metrics.resize import fit_map
from benchmarks.scoring import score
from benchmarks.submissions import verify

SIZES = ((64, 64), (128, 128), (256, 384), (256, 256))  # (H, W)
NAMES = [f"{kind}/{number:03}" for kind in ("good", "dent") for number in range(len(SIZES))]
MAPS = dict(zip(NAMES, np.random.default_rng(3).random((len(NAMES), 32, 32), np.float32), strict=True))


def disc(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (x - width * 0.6) ** 2 + (y - height * 0.4) ** 2 < (height / 9) ** 2


for number in range(len(SIZES)):
    MAPS[f"dent/{number:03}"] += disc(32, 32) * np.float32(0.4 + 0.2 * number)


def paint(root: Path, rename: dict[str, str]) -> Path:
    """A category whose images have four sizes; `rename` gives a file another name than it has in NAMES."""
    for name in NAMES:
        kind, stem = name.split("/")
        size = SIZES[int(stem)]
        save(np.full((*size, 3), 90, np.uint8), root / "part" / "test" / f"{rename[name]}.png")
        if kind == "dent":
            save(disc(*size) * np.uint8(255), root / "part" / "ground_truth" / f"{rename[name]}_mask.png")
    save(np.full((8, 8, 3), 90, np.uint8), root / "part" / "train" / "good" / "000.png")
    return root


def save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def values(root: Path, rename: dict[str, str]) -> tuple[list[Item], np.ndarray, list[dict]]:
    """Test images in their order on disk, their maps, and the rows of every convention that applies."""
    dataset = datasets.load("folder", root)
    items = dataset.items("part", "test")
    original = {f"part/test/{new}": name for name, new in rename.items()}
    maps = np.stack([MAPS[original[item.key]] for item in items])
    cell = score.CellPredictions({"category": "part", "seed": 0}, [item.key for item in items], maps.max((1, 2)), maps)
    rows = score.category_rows([dataset.truth(item) for item in items], [cell], list(CONVENTIONS.values()))
    return items, maps, list(rows)


@pytest.fixture
def as_named(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    same = {name: name for name in NAMES}
    return paint(tmp_path / "named", same), same


def test_each_map_is_compared_at_the_size_of_its_own_image(as_named: tuple[Path, dict[str, str]]) -> None:
    _, maps, rows = values(*as_named)
    found = {row["metric"]: row["value"] for row in rows if row["convention"] == "native size"}
    sizes, masks = [*SIZES, *SIZES], [disc(*size) for size in SIZES] + [np.zeros(size, bool) for size in SIZES]
    labels = np.concatenate([mask.ravel() for mask in masks])
    scores = np.concatenate([fit_map(one, size).ravel() for one, size in zip(maps, sizes, strict=True)])
    assert found["pixel_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_renaming_the_files_changes_no_value(as_named: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    turned = {name: f"{name[:-3]}{9 - int(name[-3:]):03}" for name in NAMES}  # another image comes first
    before, after = (
        {(row["metric"], row["convention"]): row["value"] for row in values(root, rename)[2]}
        for root, rename in (as_named, (paint(tmp_path / "turned", turned), turned))
    )
    assert len(before) == 3 + 3 * 6 + 8  # of images; of pixels, of which two conventions share; of PRO
    assert after == pytest.approx(before, abs=1e-12)


def test_a_bundle_is_verified_under_every_convention(as_named: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    items, maps, rows = values(*as_named)
    claims = [
        {"category": "part", "seed": 0} | {name: row[name] for name in ("metric", "convention", "value")}
        for row in rows
    ]
    entries, members = [], []
    for item, one in zip(items, maps, strict=True):
        entries.append({"image": item.key, "seed": 0, "score": float(one.max()), "bytes": 0, "sha256": ""})
        members.append((f"maps/seed0/{item.key}.npy", test_bundle.npy(one)))
    about = {"name": "sizes", "method": "m", "variant": "m", "dataset": "folder", "protocol": "one_class"}
    about |= {"licence": "CC0-1.0", "contact": "me", "format": "proctor-bundle", "schema": 1}
    manifest = about | {"maps": entries, "claims": claims}
    test_bundle.rehash(manifest, members)
    report = verify.verify(test_bundle.pack(tmp_path / "sizes.tar.gz", manifest, members), as_named[0])
    assert report.agrees and len(report.values) == len(rows)
    claims[-1]["value"] -= 0.001
    report = verify.verify(test_bundle.pack(tmp_path / "forged.tar.gz", manifest, members), as_named[0])
    assert [value.agrees for value in report.values] == [True] * (len(rows) - 1) + [False]
