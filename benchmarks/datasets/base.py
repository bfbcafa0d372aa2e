"""What every data set provides: normal images to learn from, test images, and, for scoring alone, the truth."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from benchmarks.datasets._files import digests, image_size, list_folders, read_image, read_mask
from methods.base import InputError, Sample

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


class Item(NamedTuple):
    """One image of a data set, with what only scoring may know (`defect`, `masks`)."""

    key: str  # "bottle/test/broken_large/000": category, split, defect, stem
    category: str
    split: SplitName | Literal["private"]
    defect: str  # "good", or the name of the defect
    image: Path
    masks: tuple[Path, ...] = ()  # empty for a normal image


class Region(NamedTuple):
    """One annotated region, for sPRO."""

    mask: np.ndarray  # (H, W) bool, native size
    saturation: float  # pixels of overlap that count as full detection


class Truth(NamedTuple):
    """What a test image really shows. Only `benchmarks.score` reads it."""

    anomalous: bool
    mask: np.ndarray  # (H, W) bool at native size; all False for a normal image
    regions: tuple[Region, ...]  # for sPRO; empty where the data set has no saturation thresholds
    subset: str  # "good", "logical", "structural"; "anomalous" where the data set does not tell them apart


class Problem(NamedTuple):
    """Something wrong on disk. A notice leaves the data usable; an error does not."""

    severity: Literal["error", "notice"]
    message: str  # names the file or folder, the value and the cure


class Dataset(ABC):
    """A data set on disk. A subclass says where its files lie; one file per data set, found by its name.

    Args:
        root: the folder that holds the categories.
        categories: which to use, in this order; None: all that are on disk.

    Raises:
        InputError: the root or a category is missing.
    """

    title: ClassVar[str]
    licence: ClassVar[str]
    homepage: ClassVar[str]
    download: ClassVar[str]  # how a user gets it: one or two sentences
    # category -> {"train": n, "validation": n, "good": n, and a number for each subset of anomalous test images}
    official_counts: ClassVar[dict[str, dict[str, int]]] = {}

    def __init__(self, root: Path, categories: Sequence[str] | None = None) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise InputError(f"{self.title}: {self.root} is not a folder.\n{self.how_to_get()}")
        present = [folder.name for folder in list_folders(self.root) if self.is_category(folder)]
        if not present:
            raise InputError(
                f"{self.title}: {self.root} holds no category folder. Point at the folder that holds the categories "
                f"themselves{_such_as(self.official_counts)}, or extract the archive again.\n{self.how_to_get()}"
            )
        for category in categories or ():
            if category not in present:
                raise InputError(
                    f"{self.title}: no category {category!r} in {self.root}. "
                    f"On disk: {', '.join(present)}. Correct the name, or extract the archive again."
                )
        self.categories = tuple(dict.fromkeys(categories)) if categories else tuple(present)

    @classmethod
    def name(cls) -> str:
        """The name that `benchmarks.datasets.load` knows it by: its file's."""
        return cls.__module__.rpartition(".")[2]

    @classmethod
    def how_to_get(cls) -> str:
        return f"To get it: {cls.download}\nHomepage: {cls.homepage}\nLicence: {cls.licence}"

    @classmethod
    def fetch(cls, root: Path) -> None:
        """Put the data set into `root`, which must not exist yet.

        Raises:
            InputError: the licence wants a person to do it; the message says how.
        """
        raise InputError(f"{cls.title} cannot be downloaded by a program.\n{cls.how_to_get()}\nExtract it to {root}.")

    # Where the files lie: what a subclass says.

    @abstractmethod
    def items(self, category: str, split: SplitName) -> list[Item]:
        """All images of a category's split, sorted by key. `validation` is empty where the data set has none.

        The order follows the defects, so it is for people and for scoring; what a method is given is
        ordered by `opaque_key` (see `benchmarks.protocols`).
        """

    def private(self, category: str) -> list[Item]:
        """Test images whose truth only a server knows: predicted for a submission, never scored. Most have none."""
        return []

    def is_category(self, folder: Path) -> bool:
        return not self.official_counts or folder.name in self.official_counts

    def subset(self, item: Item) -> str:
        """The subset of test images that an item counts to: "good", or what kind of anomaly it shows."""
        return "good" if item.defect == "good" else "anomalous"

    def regions(self, item: Item) -> tuple[Region, ...]:
        """The annotated regions with their saturation; empty where the data set defines none."""
        return ()

    def side_files(self, category: str) -> list[Path]:
        """Further files that decide results, such as saturation thresholds."""
        return []

    def misplaced(self, category: str) -> list[Problem]:
        """What only the layout can know: masks without an image, folders that should not be there."""
        return []

    # What follows from the items.

    def sample(self, item: Item) -> Sample:
        """What a method may see of an item. The image is decoded when it is read, as `read_image` says."""
        return Sample(opaque_key(item), item.category, partial(read_image, item.image))

    def truth(self, item: Item) -> Truth:
        """The truth about a test image; the mask is the union of the item's masks, at the image's native size.

        Raises:
            InputError: a mask is missing, unreadable, or of another size than its image.
        """
        mask = np.zeros(image_size(item.image), dtype=bool)  # (H, W)
        anomalous = item.defect != "good"
        if anomalous and not item.masks:
            raise InputError(_no_mask(item).message)
        for path in item.masks:
            region = read_mask(path) > 0
            if region.shape != mask.shape:
                raise InputError(_wrong_size(path, region.shape, item.image, mask.shape).message)
            mask |= region
        return Truth(anomalous, mask, self.regions(item), self.subset(item))

    def counts(self, category: str) -> dict[str, int]:
        """Images on disk, in the form of `official_counts`."""
        counts = Counter({split: len(self.items(category, split)) for split in ("train", "validation")})
        counts.update(self.subset(item) for item in self.items(category, "test"))
        return {key: n for key, n in counts.items() if n or key == "train"}

    def check(self) -> list[str]:
        """Look at folders, names and the sizes of masks: what can be known fast, before any training.

        Returns:
            Notices, one sentence each.

        Raises:
            InputError: the data cannot be used; the message lists the first problems with their cures.
        """
        found = list(self._structure())
        errors = [problem.message for problem in found if problem.severity == "error"]
        if errors:
            rest = f"\n… and {len(errors) - 8} more; `proctor doctor` lists all." if len(errors) > 8 else ""
            raise InputError(f"{self.title} in {self.root} cannot be used:\n- " + "\n- ".join(errors[:8]) + rest)
        return [problem.message for problem in found]

    def problems(self) -> list[Problem]:
        """What is wrong on disk, one sentence each, naming the file and the cure. Opens every image and mask."""
        return [*self._structure(), *self._contents()]

    def revision(self, categories: Iterable[str] | None = None) -> str:
        """Hash of the names and contents of all images, masks and side files of some categories, 32 hex digits.

        An item's key is part of it, so that another split of the same files is another revision. Each file is
        decoded and hashed once: digests are remembered by path, size and modification time in the user's cache folder.

        Raises:
            InputError: an image or mask cannot be decoded; the message lists the first ones.
        """
        files: list[tuple[str, Path]] = []
        for category in self.categories if categories is None else categories:
            files += [("", path) for path in self.side_files(category)]
            for item in self._items(category):
                files += [(item.key, path) for path in (item.image, *item.masks)]
        hashes = digests([path for _, path in files])
        lines = sorted(
            f"{key}\0{os.path.relpath(path, self.root)}\0{digest}"
            for (key, path), digest in zip(files, hashes, strict=True)
        )
        return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()

    def _items(self, category: str) -> Iterator[Item]:
        for split in SPLITS:
            yield from self.items(category, split)
        yield from self.private(category)

    def _structure(self) -> Iterator[Problem]:
        for category in self.categories:
            folder = self.root / category
            counts = self.counts(category)
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
                yield Problem(
                    "notice",
                    f"{folder}: no {missing} test image, so AUROC, AP and F1-max of images are undefined. Add some.",
                )
            for item in self._items(category):
                if not item.image.is_file():
                    yield Problem("error", f"{item.image}: image is missing. Extract the archive again.")
                elif item.split == "test" and item.defect != "good" and not item.masks:
                    yield _no_mask(item)
                else:
                    yield from _mask_sizes(item)
            yield from self.misplaced(category)
            yield from self._counts_that_differ(category)

    def _counts_that_differ(self, category: str) -> Iterator[Problem]:
        if official := self.official_counts.get(category):
            counts = self.counts(category)
            differences = [
                f"{counts.get(key, 0)} {key} (official {official.get(key, 0)})"
                for key in dict.fromkeys([*official, *counts])
                if counts.get(key, 0) != official.get(key, 0)
            ]
            if differences:
                yield Problem(
                    "notice",
                    f"{self.root / category}: {', '.join(differences)}; results do not compare with published ones. "
                    "Unless the subset is meant, extract the archive again.",
                )

    def _contents(self) -> Iterator[Problem]:
        for category in self.categories:
            for item in self._items(category):
                try:
                    size = tuple(read_image(item.image).shape[1:])
                    for path in item.masks:
                        mask = read_mask(path)
                        if mask.shape != size:
                            yield _wrong_size(path, mask.shape, item.image, size)
                        elif not mask.any():
                            yield Problem("notice", f"{path}: mask of an anomalous image is empty. Check its label.")
                    self.regions(item)
                except InputError as error:
                    yield Problem("error", str(error))


def opaque_key(item: Item) -> str:
    """The key that a method sees: "category/split/hash", stable, unique, and silent about the label."""
    return f"{item.category}/{item.split}/{hashlib.blake2b(item.key.encode(), digest_size=6).hexdigest()}"


def _no_mask(item: Item) -> Problem:
    return Problem(
        "error", f"{item.image}: anomalous test image without a mask. Add its mask to the ground truth, or remove it."
    )


def _wrong_size(mask: Path, mask_size: tuple[int, ...], image: Path, size: tuple[int, ...]) -> Problem:
    height, width = mask_size
    return Problem(
        "error",
        f"{mask}: mask of {width}x{height} pixels, its image {image} has {size[1]}x{size[0]}. "
        "Save the mask at the image's size.",
    )


def _mask_sizes(item: Item) -> Iterator[Problem]:
    """By the headers of the files alone; a header that cannot be read is left to `revision` and `problems`."""
    with suppress(InputError):
        for mask in item.masks:
            if (mask_size := image_size(mask)) != (size := image_size(item.image)):
                yield _wrong_size(mask, mask_size, item.image, size)


def _such_as(names: dict[str, dict[str, int]]) -> str:
    return f" ({', '.join(list(names)[:3])}, …)" if names else ""
