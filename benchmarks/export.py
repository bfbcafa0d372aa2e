"""Anomaly maps in the layouts that official evaluations read.

- MVTec AD and MVTec LOCO: a folder with `CATEGORY/test/DEFECT/STEM.tiff`, float32, for MVTec's evaluation code.
- MVTec AD 2: an archive `NAME.tar.gz` for the server, which holds in `NAME/` the files
  `anomaly_images/CATEGORY/SPLIT/STEM.tiff`, float16, and `anomaly_images_thresholded/CATEGORY/SPLIT/STEM.png`, 0 or
  255, of both private splits: every image of all eight categories.

Every map has the original size of its image, to which it is brought bilinearly.
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from io import BytesIO
from math import frexp, isfinite
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from benchmarks import datasets, store
from benchmarks.datasets._files import image_size
from benchmarks.datasets.base import Item
from benchmarks.datasets.mvtec_ad import MVTecAD
from benchmarks.datasets.mvtec_ad_2 import MVTecAD2
from benchmarks.datasets.mvtec_loco import MVTecLOCO
from benchmarks.metrics.resize import fit_map
from benchmarks.runs import Run
from benchmarks.store import State
from methods.base import InputError

REFERENCE_RULE = "mean+3std"


def export(runs: Sequence[Run], out: Path, threshold: str = REFERENCE_RULE) -> int:
    """Write the maps of some runs in the official layout of their data set; `out` appears only when complete.

    Args:
        runs: all of one variant, data set, protocol and seed.
        out: a folder; for MVTec AD 2 an archive, `.tar.gz`.
        threshold: for MVTec AD 2, above what a pixel counts as anomalous: a number, or `mean+Kstd` of all pixels of
            the category's validation maps, at the size at which they were stored. The reference rule has K = 3.

    Returns:
        How many maps were written.

    Raises:
        InputError: `out` exists, a run is not finished or its maps are not there, the data set has no official
            layout, or the server would refuse the archive.
    """
    if out.exists():
        raise InputError(f"{out} exists already. Delete it, or choose another --out.")
    for run in runs:
        state, reason = store.status(run)
        if state is not State.DONE:
            raise InputError(f"{run.name} is {state}{reason and f' ({reason})'}: `dvc repro` finishes it.")
    dataset = datasets.load(runs[0].dataset, runs[0].root, runs[0].categories)
    if not isinstance(dataset, MVTecAD | MVTecLOCO | MVTecAD2):
        known = ", ".join(kind.title for kind in (MVTecAD, MVTecLOCO, MVTecAD2))
        raise InputError(f"{dataset.title} has no official layout of anomaly maps; there is one of {known}.")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        if isinstance(dataset, MVTecAD2):
            count = _archive(dataset, runs, partial, out.name, threshold)
        else:
            count = _folder(dataset, runs, partial)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True) if partial.is_dir() else partial.unlink(missing_ok=True)
    return count


def _folder(dataset: MVTecAD | MVTecLOCO, runs: Sequence[Run], target: Path) -> int:
    count = 0
    for run in runs:
        for category, (keys, _, maps) in store.load(store.result_dir(run))[1].items():
            for key, fitted in _native(dataset.items(category, "test"), keys, maps):
                path = target / f"{key}.tiff"
                path.parent.mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(path, fitted, photometric="minisblack")
                count += 1
    return count


def _archive(dataset: MVTecAD2, runs: Sequence[Run], target: Path, name: str, rule: str) -> int:
    if not name.endswith(".tar.gz"):
        raise InputError(f"--out is {name!r}; MVTec AD 2's server takes an archive: end it in .tar.gz.")
    private = {run.name: store.load_part(store.result_dir(run), "private") for run in runs}
    _refuse_incomplete({key for part in private.values() for keys, _, _ in part.values() for key in keys})
    count, top = 0, name.removesuffix(".tar.gz")
    with tarfile.open(target, "w:gz") as tar:
        for run in runs:
            record = store.load(store.result_dir(run))[0]
            for category, (keys, _, maps) in private[run.name].items():
                above = _threshold(rule, category, record["validation_pixels"].get(category))
                # float16 has 11 bits from 6e-5 to 65504, and fewer below: a power of two, the same for the whole
                # category, moves its maps there and changes no order.
                shift = 15 - frexp(float(np.abs(maps).max()))[1]
                for key, fitted in _native(dataset.private(category), keys, maps):
                    tiff, png = BytesIO(), BytesIO()
                    tifffile.imwrite(tiff, np.ldexp(fitted, shift).astype(np.float16), photometric="minisblack")
                    Image.fromarray(np.where(fitted > above, 255, 0).astype(np.uint8)).save(png, "PNG")
                    _add(tar, f"{top}/anomaly_images/{key}.tiff", tiff)
                    _add(tar, f"{top}/anomaly_images_thresholded/{key}.png", png)
                    count += 1
    return count


def _native(items: Sequence[Item], keys: Sequence[str], maps: NDArray[np.float32]) -> Iterator[tuple[str, NDArray]]:
    """Each key with its map (H, W) at the size of its image."""
    images = {item.key: item.image for item in items}
    for key, one in zip(keys, maps, strict=True):
        if key not in images:
            raise InputError(f"{key} was predicted, but is no longer in the data set. Restore it, or run `dvc repro`.")
        yield key, fit_map(one, image_size(images[key]))


def _refuse_incomplete(found: set[str]) -> None:
    """Compare with the names that the server demands, for it allows few evaluations."""
    names = {"test_private": "regular", "test_private_mixed": "mixed"}
    demanded = {
        f"{category}/{split}/{number:03}_{lighting}"
        for category, count in MVTecAD2.private_counts.items()
        for split, lighting in names.items()
        for number in range(count)
    }
    for keys, what in ((demanded - found, "missing"), (found - demanded, "not among its names")):
        if keys:
            raise InputError(
                f"MVTec AD 2's server would refuse the archive: {len(keys)} maps are {what}, such as {min(keys)}. It "
                "takes those of both private splits of all eight categories: extract the data set whole, leave "
                "`categories` out, and run `dvc repro`."
            )


def _threshold(rule: str, category: str, pixels: dict[str, Any] | None) -> float:
    if of_validation := re.fullmatch(r"mean\+(\d+(?:\.\d+)?)std", rule):
        if pixels is None:
            raise InputError(f"{category} has no validation images to take {rule} of. Give --threshold as a number.")
        return float(pixels["mean"] + float(of_validation[1]) * pixels["std"])
    try:
        value = float(rule)
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise InputError(f"--threshold is {rule!r}; it may be a number or, of validation pixels, such as mean+3std.")
    return value


def _add(tar: tarfile.TarFile, name: str, content: BytesIO) -> None:
    member = tarfile.TarInfo(name)
    member.size = content.tell()
    content.seek(0)
    tar.addfile(member, content)
