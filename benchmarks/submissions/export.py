"""Writes anomaly maps in the layouts that official evaluations read.

- MVTec AD and MVTec LOCO: a folder with `CATEGORY/test/DEFECT/STEM.tiff`, float32, for MVTec's evaluation code.
- MVTec AD 2: an archive `NAME.tar.gz` for the evaluation server. Its folder `NAME/` contains the files
  `anomaly_images/CATEGORY/SPLIT/STEM.tiff`, float16, and `anomaly_images_thresholded/CATEGORY/SPLIT/STEM.png`, 0 or
  255, for every image of both private splits of all eight categories.

Every map is resized bilinearly to the size of its image.
"""

from __future__ import annotations

import re
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

from benchmarks import datasets, results, status
from benchmarks.datasets._files import image_size
from benchmarks.datasets.base import Item
from benchmarks.datasets.mvtec_ad import MVTecAD
from benchmarks.datasets.mvtec_ad_2 import MVTecAD2
from benchmarks.datasets.mvtec_loco import MVTecLOCO
from benchmarks.metrics.resize import fit_map
from benchmarks.plan import Run
from benchmarks.wording import counted
from methods.base import InputError
from methods.components.atomic import replacing

REFERENCE_RULE = "mean+3std"


def export(runs: Sequence[Run], out: Path, threshold: str = REFERENCE_RULE) -> int:
    """Write the maps of some runs in the official layout of their data set; `out` appears only when complete.

    Args:
        runs: all of one variant, data set, protocol and seed.
        out: a folder; for MVTec AD 2 an archive, `.tar.gz`.
        threshold: for MVTec AD 2, the value above which a pixel is anomalous: a number, or `mean+Kstd` of all pixels
            of the category's validation maps, at their stored size. The reference rule has K = 3.

    Returns:
        The number of maps.

    Raises:
        InputError: `out` exists, a run is not finished or its maps are missing, the data set has no official layout, or
            the server would refuse the archive.
    """
    if out.exists():
        raise InputError(f"{out} exists already. Delete it, or choose another --out.")
    for run, (state, reason) in status.collect_finished(runs):
        raise InputError(f"{run.name} is {state}{reason and f' ({reason})'}: `dvc repro` finishes it.")
    dataset = datasets.load(runs[0].dataset, runs[0].root, runs[0].categories)
    if not isinstance(dataset, MVTecAD | MVTecLOCO | MVTecAD2):
        known = ", ".join(kind.title for kind in (MVTecAD, MVTecLOCO, MVTecAD2))
        raise InputError(f"{dataset.title} has no official layout of anomaly maps. Data sets with one: {known}.")
    with replacing(out) as partial:
        if isinstance(dataset, MVTecAD2):
            return _write_archive(dataset, runs, partial, out.name, threshold)
        return _write_folder(dataset, runs, partial)


def _write_folder(dataset: MVTecAD | MVTecLOCO, runs: Sequence[Run], target: Path) -> int:
    count = 0
    for run in runs:
        for category, (keys, _, maps) in results.load(results.result_dir(run))[1].items():
            for key, native in _native_maps(dataset.items(category, "test"), keys, maps):
                path = target / f"{key}.tiff"
                path.parent.mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(path, native, photometric="minisblack")
                count += 1
    return count


def _write_archive(dataset: MVTecAD2, runs: Sequence[Run], target: Path, name: str, rule: str) -> int:
    if not name.endswith(".tar.gz"):
        raise InputError(f"--out is {name!r}; MVTec AD 2's server expects an archive: choose a name in .tar.gz.")
    predictions = {run.name: results.load_part(results.result_dir(run), "private") for run in runs}
    _check_complete({key for part in predictions.values() for keys, _, _ in part.values() for key in keys})
    count, folder = 0, name.removesuffix(".tar.gz")
    with tarfile.open(target, "w:gz") as tar:
        for run in runs:
            record = results.load(results.result_dir(run))[0]
            for category, (keys, _, maps) in predictions[run.name].items():
                threshold = _threshold(rule, category, record.validation_pixels.get(category))
                # float16 has 11 bits from 6e-5 to 65504, and fewer below. A power of two, the same for all maps of the
                # category, brings them into this range and keeps their order.
                exponent = 15 - frexp(float(np.abs(maps).max()))[1]
                for key, native in _native_maps(dataset.private(category), keys, maps):
                    scaled = np.ldexp(native, exponent).astype(np.float16)
                    _add(tar, f"{folder}/anomaly_images/{key}.tiff", _tiff(scaled))
                    _add(tar, f"{folder}/anomaly_images_thresholded/{key}.png", _png(native > threshold))
                    count += 1
    return count


def _native_maps(
    items: Sequence[Item], keys: Sequence[str], maps: NDArray[np.float32]
) -> Iterator[tuple[str, NDArray]]:
    """Each key with its map (H, W) at the size of its image."""
    images = {item.key: item.image for item in items}
    for key, anomaly_map in zip(keys, maps, strict=True):
        if key not in images:
            raise InputError(f"{key} was predicted, but is no longer in the data set. Restore it, or run `dvc repro`.")
        yield key, fit_map(anomaly_map, image_size(images[key]))


def _check_complete(keys: set[str]) -> None:
    """Compare with the names that the server requires. It limits the number of evaluations, so an error costs one."""
    names = {"test_private": "regular", "test_private_mixed": "mixed"}
    required = {
        f"{category}/{split}/{number:03}_{lighting}"
        for category, count in MVTecAD2.private_counts.items()
        for split, lighting in names.items()
        for number in range(count)
    }
    for differing, problem in ((required - keys, "missing"), (keys - required, "not expected")):
        if differing:
            raise InputError(
                f"MVTec AD 2's server would refuse the archive: {counted(len(differing), 'map')} {problem}, such as "
                f"{min(differing)}. It requires those of both private splits of all eight categories: extract the "
                "whole data set, remove `categories` from params.yaml, and run `dvc repro`."
            )


def _threshold(rule: str, category: str, pixels: dict[str, Any] | None) -> float:
    if match := re.fullmatch(r"mean\+(\d+(?:\.\d+)?)std", rule):
        if pixels is None:
            raise InputError(f"{category} has no validation images for {rule}. Give --threshold as a number.")
        return float(pixels["mean"] + float(match[1]) * pixels["std"])
    try:
        value = float(rule)
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise InputError(
            f"--threshold is {rule!r}. Give a number, or mean+Kstd of validation pixels, such as mean+3std."
        )
    return value


def _tiff(pixels: NDArray[np.float16]) -> BytesIO:
    content = BytesIO()
    tifffile.imwrite(content, pixels, photometric="minisblack")
    return content


def _png(anomalous: NDArray[np.bool_]) -> BytesIO:
    content = BytesIO()
    Image.fromarray(np.where(anomalous, 255, 0).astype(np.uint8)).save(content, "PNG")
    return content


def _add(tar: tarfile.TarFile, name: str, content: BytesIO) -> None:
    member = tarfile.TarInfo(name)
    member.size = content.tell()
    content.seek(0)
    tar.addfile(member, content)
