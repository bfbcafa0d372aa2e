"""What the images and masks of a data set hold: every file is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from benchmarks.datasets import _checks
from benchmarks.datasets._copies import copies
from benchmarks.datasets._depth import OPTIONS, PixelRange
from benchmarks.datasets._digests import FileDigest, examine, in_parallel
from benchmarks.datasets._files import count_frames, decode, read_header
from benchmarks.datasets._masks import read_mask
from benchmarks.datasets._problems import Problem
from benchmarks.datasets.base import Dataset, Item, file_problem
from methods.base import InputError

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Contents(NamedTuple):
    """What a category contributes."""

    dataset: str
    category: str
    images: dict[str, int]  # by split, test images by subset
    sizes: dict[str, int]  # "WIDTHxHEIGHT" -> images
    modes: dict[str, int]  # Pillow's name of the stored pixels -> images
    brightest: int | None  # the largest value in 16-bit images; None: there are none
    masks: dict[str, int]  # "2 levels", "labels", "above half" -> masks
    defect_share: float | None  # of the pixels of all masks; None: there are no masks


class _ImageFacts(NamedTuple):
    size: str
    mode: str
    frames: int
    transparent: bool  # in some pixel


class _MaskFacts(NamedTuple):
    levels: int
    rule: str
    carrier: str
    defect: int  # pixels
    above: int  # pixels that are not black
    pixels: int
    frames: int


def read_all(dataset: Dataset) -> tuple[list[Problem], list[Contents]]:
    """Everything that is wrong on disk, and what each category contributes."""
    problems, rows = list(_checks.categories(dataset)), []
    digests: dict[Item, str] = {}
    for category in dataset.categories:
        problems += [*_checks.structure(dataset, category), *_checks.left_out(dataset, category)]
        with suppress(InputError):  # `structure` has it
            items = list(dataset.all_items(category))
            read = examine({path: role for _, path, role in dataset.files(category)})
            of_category, row = _read_category(dataset, category, items, read)
            problems += of_category
            rows.append(row)
            digests |= {i: result.digest for i in items if isinstance(result := read[i.image], FileDigest)}
    return [*problems, *copies(dataset, digests)], rows


def _read_category(
    dataset: Dataset, category: str, items: Sequence[Item], read: Mapping[Path, FileDigest | InputError]
) -> tuple[list[Problem], Contents]:
    problems = [file_problem(result) for result in read.values() if isinstance(result, InputError)]
    problems += dataset.depth_problems(read, read)
    sound = {path: result.values for path, result in read.items() if isinstance(result, FileDigest)}
    images = _facts(_image_facts, (i.image for i in items if i.image in sound), f"{category}: images")
    masks = _facts(_mask_facts, (path for i in items for path in i.masks if path in sound), f"{category}: masks")
    annotated = [item for item in items if item.masks and set(item.masks) <= sound.keys()]
    regions = in_parallel(dataset.regions, annotated, f"{category}: regions")
    problems += [file_problem(error) for error in regions.values() if isinstance(error, InputError)]
    problems += [*_mask_problems(masks), *_frame_problems(images), *_frame_problems(masks)]
    problems += [*_transparent(images), *_several_depths(dataset, sound)]
    pixels = sum(mask.pixels for mask in masks.values())
    private = len(dataset.private(category))
    return problems, Contents(
        dataset=dataset.name(),
        category=category,
        images=dataset.counts(category) | ({"private": private} if private else {}),
        sizes=dict(Counter(image.size for image in images.values()).most_common()),
        modes=dict(Counter(image.mode for image in images.values()).most_common()),
        brightest=max((values.peak for values in sound.values() if values.peak), default=None),
        masks=dict(Counter(_cut(mask) for mask in masks.values()).most_common()),
        defect_share=sum(mask.defect for mask in masks.values()) / pixels if pixels else None,
    )


def _facts(read: Callable[[K], T], inputs: Iterable[K], description: str) -> dict[K, T]:
    """What `read` gives, without files that changed meanwhile."""
    results = in_parallel(read, list(inputs), description)
    return {key: result for key, result in results.items() if not isinstance(result, InputError)}


def _image_facts(path: Path) -> _ImageFacts:
    header = read_header(path)
    return _ImageFacts(
        f"{header.width}x{header.height}", header.mode, count_frames(path), _is_transparent(path, header.mode)
    )


def _is_transparent(path: Path, mode: str) -> bool:
    if mode not in ("LA", "PA", "P", "RGBA"):
        return False
    image, _ = decode(path)
    return image.has_transparency_data and int(np.asarray(image.convert("RGBA"))[..., 3].min()) < 255


def _mask_facts(path: Path) -> _MaskFacts:
    mask = read_mask(path)
    defect, above = int(mask.defect.sum()), int((mask.values > 0).sum())
    return _MaskFacts(mask.levels, mask.rule, mask.carrier, defect, above, mask.values.size, count_frames(path))


def _cut(mask: _MaskFacts) -> str:
    if mask.rule == "half":
        return "above half"
    return "labels" if mask.levels > 2 else "2 levels"


def _mask_problems(masks: Mapping[Path, _MaskFacts]) -> Iterator[Problem]:
    for path, mask in masks.items():
        if not mask.defect:
            message = f"{path}: mask of an anomalous image is empty. Check its label."
            yield Problem("notice", message, "empty mask")
        if mask.defect > mask.pixels / 2:
            message = f"{path}: {mask.defect / mask.pixels:.0%} of the image is marked as defect. "
            yield Problem("warning", message + "If its black part is the defect, invert the mask.", "mostly defect")
        if mask.rule == "half":
            message = f"{path}: mask with {mask.levels} grey levels; what is above half of the full scale is defect, "
            ratio = f"{mask.above / mask.defect:.2f} times" if mask.defect else "all of"
            yield Problem("notice", f"{message}what is above 0 would be {ratio} its area.", "grey mask")
        elif mask.levels > 2:
            message = f"{path}: mask with {mask.levels} levels, read as labels: any value above 0 is defect."
            yield Problem("notice", message, "labels")
        if mask.carrier == "alpha":
            message = f"{path}: the shape of the mask lies in its alpha channel, and is read from there."
            yield Problem("notice", message, "alpha mask")
        if mask.carrier == "palette":
            message = f"{path}: mask with a palette, read as the colours that a viewer shows: black is no defect."
            yield Problem("notice", message, "palette mask")


def _frame_problems(facts: Mapping[Path, _ImageFacts] | Mapping[Path, _MaskFacts]) -> Iterator[Problem]:
    for path, of_file in facts.items():
        if of_file.frames > 1:
            message = f"{path}: {of_file.frames} frames or pages, of which the first is read."
            yield Problem("notice", message, "frames")


def _transparent(images: Mapping[Path, _ImageFacts]) -> Iterator[Problem]:
    for path, image in images.items():
        if image.transparent:
            message = f"{path}: transparent pixels, of which the colours are read that no viewer shows. Save it opaque."
            yield Problem("warning", message, "transparent")


def _several_depths(dataset: Dataset, values: Mapping[Path, PixelRange]) -> Iterator[Problem]:
    """16-bit files of a category that seem to have fewer bits than others: one scale makes them nearly black."""
    peaks = {path: of_file.peak for path, of_file in values.items() if of_file.peak and not of_file.bits}
    if dataset.options.bit_depth or not peaks:
        return
    darkest, brightest = min(peaks, key=peaks.__getitem__), max(peaks, key=peaks.__getitem__)
    if peaks[darkest] < 2**14 <= peaks[brightest]:
        dark = sum(peak < 2**14 for peak in peaks.values())
        message = (
            f"{darkest}: {dark} of {len(peaks)} 16-bit files end below {2**14}, this one at {peaks[darkest]}, but "
            f"{brightest} at {peaks[brightest]}. All are read as 16 bits. Save them with one scale, or state "
            f"`bit_depth: 16` in {dataset.root / OPTIONS} if the former are meant to be that dark."
        )
        yield Problem("warning", message)
