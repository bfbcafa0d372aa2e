"""Reads anomaly maps of other software: `CATEGORY/test/DEFECT/STEM.tiff`, the layout that MVTec's evaluation reads.

A map is a TIFF file, a PNG file of 16 bits, or a `.npy` file, with one channel (h, w) of floating-point numbers or of
16-bit integers. Image scores are rows `image,score` of a CSV file. Everything else is refused, with the file's name.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from benchmarks.datasets._files import UNREADABLE, list_folders
from methods.base import InputError, did_you_mean

SUFFIXES = (".tiff", ".tif", ".png", ".npy")
DTYPES = ("float16", "float32", "float64", "uint16")
LAYOUT = "CATEGORY/test/DEFECT/STEM.tiff (or .png, .npy)"


def find(folder: Path, keys: Mapping[str, Sequence[str]], on_disk: Collection[str]) -> dict[str, Path]:
    """The map file of each test image, by the image's key.

    Args:
        folder: the one that holds the categories.
        keys: of the test images that need a map, by category.
        on_disk: all categories of the data set; maps of those that are not in `keys` are left out.

    Raises:
        InputError: a map is missing, there is one too many, or a folder is no category.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder. Give the one that holds {LAYOUT}.")
    for inner in list_folders(folder):
        if inner.name not in on_disk:
            hint = did_you_mean(inner.name, on_disk)
            raise InputError(f"{inner}: the data set has no such category. {hint} Rename the folder, or move it.")
    if absent := [category for category in keys if not (folder / category).is_dir()]:
        raise InputError(
            f"{folder}: no maps of {', '.join(absent[:3])}{', …' if absent[3:] else ''}. It must hold {LAYOUT} for "
            "each category of the suite: add them, or take fewer under `categories` in params.yaml."
        )
    found: dict[str, Path] = {}
    for category in keys:
        for path in sorted(path for path in (folder / category).rglob("[!.]*") if not path.is_dir()):
            if path.suffix.lower() not in SUFFIXES:
                raise InputError(f"{path}: no anomaly map, which is {LAYOUT}. Move it out of the folder.")
            key = path.relative_to(folder).with_suffix("").as_posix()
            if key in found:
                raise InputError(f"{found[key]} and {path.name} are both maps of {key}. Keep one of them.")
            found[key] = path
    wanted = {key for of_category in keys.values() for key in of_category}
    if extra := sorted(found.keys() - wanted):
        hint = did_you_mean(extra[0], wanted, "Maps are named as their images, without the images' suffix.")
        raise InputError(
            f"{found[extra[0]]}: no test image has this name ({len(extra)} such). {hint} Rename or move it."
        )
    if missing := sorted(wanted - found.keys()):
        raise InputError(
            f"{folder / missing[0]}.tiff is missing ({len(missing)} of {len(wanted)} maps are). Every test image of "
            "the suite needs a map: add them."
        )
    return found


def read(path: Path) -> NDArray[np.floating | np.uint16]:
    """An anomaly map (h, w) as it is stored.

    Raises:
        InputError: it cannot be read, or is not one channel of finite numbers of a type that maps have.
    """
    try:
        content = _decoded(path)
    except (*UNREADABLE, tifffile.TiffFileError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read ({error}). Write it again, TIFF without compression.") from None
    if content.ndim != 2 or not content.size:
        raise InputError(
            f"{path}: has shape {content.shape}; a map has one channel, (h, w). Save the map, not a picture."
        )
    if content.dtype.name not in DTYPES:
        cure = "Save it as float32, or as a PNG of 16 bits; 8 bits have too few levels to rank pixels"
        raise InputError(f"{path}: holds {content.dtype.name}; a map holds {', '.join(DTYPES)}. {cure}.")
    if wrong := int((~np.isfinite(content)).sum()):
        raise InputError(
            f"{path}: {wrong} of {content.size} pixels are NaN or infinite. Give each pixel a finite value."
        )
    return content


def _decoded(path: Path) -> NDArray:
    if path.suffix.lower() == ".npy":
        return np.asarray(np.load(path, allow_pickle=False))
    if path.suffix.lower() == ".png":
        with Image.open(path) as image:
            return np.asarray(image)
    return np.asarray(tifffile.imread(path))


def read_scores(path: Path, keys: Collection[str]) -> dict[str, float]:
    """The image scores of a CSV file with the columns `image` and `score`, by the image's key.

    Raises:
        InputError: the file is not such a one, or has not exactly one finite score of each image; names the line.
    """
    scores: dict[str, float] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not {"image", "score"} <= {*(rows.fieldnames or ())}:
                raise InputError(
                    f"{path}: its columns are {rows.fieldnames}; it needs `image` and `score`. Name them so."
                )
            for row in rows:
                place, image = f"{path}, line {rows.line_num}", row["image"] or ""
                key = image if image in keys else image.rpartition(".")[0]
                if key not in keys:
                    hint = did_you_mean(image, keys, "Images are named CATEGORY/test/DEFECT/STEM.")
                    raise InputError(f"{place}: the suite has no test image {image!r}. {hint}")
                if key in scores:
                    raise InputError(f"{place}: a second score of {key}. Keep one of them.")
                scores[key] = _number(row["score"], place)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path}: cannot be read ({error}). Give a CSV file with the columns `image` and `score`."
        ) from None
    if missing := sorted(set(keys) - scores.keys()):
        raise InputError(f"{path}: no score of {missing[0]} ({len(missing)} of {len(keys)} are missing). Add them.")
    return scores


def _number(text: str | None, place: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not abs(value) <= float(np.finfo(np.float32).max):  # true of NaN
        raise InputError(f"{place}: the score is {text!r}. Give a finite number; higher is more anomalous.")
    return value
