"""Problems that folders, names and headers of a data set show: fast, before any training."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from benchmarks.datasets._files import image_suffixes, is_image, list_folders, read_header
from benchmarks.datasets._problems import Problem, refusal
from benchmarks.datasets.base import Dataset, Item, file_problem, no_mask, wrong_size
from methods.base import InputError


def check(dataset: Dataset) -> list[Problem]:
    """Look at folders, names and the sizes of masks.

    Returns:
        Warnings and notices.

    Raises:
        InputError: the data cannot be used; the message lists the first problems with their cures.
    """
    problems = [problem for category in dataset.categories for problem in structure(dataset, category)]
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        raise refusal(f"{dataset.title} in {dataset.root} cannot be used:", errors)
    return problems


def structure(dataset: Dataset, category: str) -> Iterator[Problem]:
    """What is wrong with the folders, names and headers of a category."""
    try:
        yield from _splits(dataset, category)
        yield from dataset.misplaced(category)
        for item in dataset.all_items(category):
            yield from _item(dataset, item)
        yield from _counts(dataset, category)
    except InputError as error:  # names that cannot be read as items at all
        yield file_problem(error)


def _splits(dataset: Dataset, category: str) -> Iterator[Problem]:
    folder, counts = dataset.root / category, dataset.counts(category)
    train, normal = counts.pop("train"), counts.pop("good", 0)
    anomalous = sum(counts.values()) - counts.get("validation", 0)
    if train == 0:
        yield Problem("error", f"{folder}: no training images. Extract the archive again.")
    elif train == 1:
        yield Problem("notice", f"{folder}: a single training image; some methods need more. Add some.")
    if normal + anomalous == 0:
        yield Problem("error", f"{folder}: no test images. Extract the archive again.")
    elif normal == 0 or anomalous == 0:
        missing = "normal" if normal == 0 else "anomalous"
        message = f"{folder}: no {missing} test image, so AUROC, AP and F1-max of images are undefined. Add some."
        yield Problem("notice", message)
    if dataset.lacks_masks(category):
        if dataset.official_counts:
            yield Problem("error", f"{folder}: no masks, though {dataset.title} has them. Extract the archive again.")
        else:
            message = f"{folder}: no masks, so images are scored and pixels are not. Add masks if there are any."
            yield Problem("warning", message)


def _item(dataset: Dataset, item: Item) -> Iterator[Problem]:
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in item.key):
        message = f"{item.image}: name with a control character, or with bytes that are no UTF-8. Rename it."
        yield Problem("error", message, "name")
    if not item.image.is_file():
        yield Problem("error", f"{item.image}: image is missing. Extract the archive again.", "missing")
        return
    if item.split == "test" and item.defect != "good" and not item.masks and not dataset.lacks_masks(item.category):
        yield no_mask(item)
    with suppress(InputError):  # files that cannot be opened are reported where all are read
        for path in item.masks:
            mask, image = read_header(path), read_header(item.image)
            # With an EXIF orientation it is open which size is meant; that is an error of its own.
            if mask[:2] != image[:2] and mask.orientation == image.orientation == 1:
                yield wrong_size(path, mask[:2], item.image, image[:2])


def _counts(dataset: Dataset, category: str) -> Iterator[Problem]:
    official, counts = dataset.official_counts.get(category), dataset.counts(category)
    if not official or counts == official:
        return
    different = [key for key in dict.fromkeys([*official, *counts]) if counts.get(key, 0) != official.get(key, 0)]
    listed = ", ".join(f"{counts.get(key, 0)} {key} (official {official.get(key, 0)})" for key in different)
    if counts == dataset.earlier_counts.get(category):
        end = "as the authors published first; other results may be on the newer files."
    else:
        end = "results do not compare with published ones. Unless a subset is intended, extract the archive again."
    yield Problem("notice", f"{dataset.root / category}: {listed}; {end}")


def left_out(dataset: Dataset, category: str) -> Iterator[Problem]:
    """Files of a category that are not read, hidden ones aside."""
    try:
        read = {path for _, path, _ in dataset.files(category)}
        unmasked = {
            _composed(item.image.stem): item.image for item in dataset.items(category, "test") if not item.masks
        }
    except InputError:
        return  # reported by `structure`
    top = dataset.root / category
    for folder, folders, names in os.walk(top, followlinks=True):
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n not in dataset.other_folders)
        place = "/".join(Path(folder).relative_to(top).parts[:2])
        for path in (Path(folder, name) for name in sorted(names) if not name.startswith(".")):
            if path in read:
                continue
            if image := not path.name.isascii() and unmasked.get(_composed(path.stem.removesuffix("_mask"))):
                message = (
                    f"{path}: named like a mask of {image}, but Unicode has two ways to write an accent, and the names "
                    "use both. Rename one of them."
                )
                yield Problem("error", message, "accents")
            elif is_image(path):
                message = (
                    f"{path}: image that is not read; images are read from train/good, validation/good and test/*, "
                    "masks from ground_truth/DEFECT, neither from sub-folders of these. Move it, or delete it."
                )
                yield Problem("warning", message, f"images left out of {place}")
            elif place:  # at the top lie licences and readme files
                known = " ".join(sorted(image_suffixes()))
                message = f"{path}: file that is not read. The suffixes of images are {known}."
                yield Problem("notice", message, f"files left out: {path.suffix}")


def _composed(name: str) -> str:
    """A name with each accent written in one way: macOS stores another than most systems."""
    return unicodedata.normalize("NFC", name)


def categories(dataset: Dataset) -> Iterator[Problem]:
    """Folders that are not categories, and categories of the official list that are missing."""
    others = [f.name for f in list_folders(dataset.root) if f.name not in {*dataset.on_disk, *dataset.other_folders}]
    if others:
        message = f"{dataset.root}: not read, as they are not categories of {dataset.title}: {_listed(others)}."
        yield Problem("notice", f"{message} Correct their names if they should be.")
    missing = [name for name in dataset.official_counts if name not in dataset.on_disk]
    if missing:
        message = f"{dataset.root}: {len(missing)} of {len(dataset.official_counts)} categories are not there"
        yield Problem("notice", f"{message}: {_listed(missing)}. Means over categories are not those of the whole set.")


def _listed(names: list[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
