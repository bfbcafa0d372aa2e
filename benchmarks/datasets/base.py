"""What every data set provides: normal images to learn from, test images, and, for scoring alone, the truth."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import yaml
from pydantic import BaseModel, Field, ValidationError

from benchmarks.datasets._depth import OPTIONS, check_depths
from benchmarks.datasets._digests import FileDigest, Role, examine
from benchmarks.datasets._files import image_size, list_folders, read_image
from benchmarks.datasets._masks import read_mask
from benchmarks.datasets._problems import FileError, Problem, refusal
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
    """What a test image really shows. Only scoring reads it."""

    anomalous: bool
    # (H, W) bool at native size, all False for a normal image; None in a category without any mask
    mask: np.ndarray | None
    regions: tuple[Region, ...]  # for sPRO; empty where the data set has no saturation thresholds
    subset: str  # "good", "logical", "structural"; "anomalous" where the data set does not tell them apart


def masks_of(truths: Sequence[Truth]) -> list[np.ndarray] | None:
    """The masks of a category's test images; None where the data set has none for it."""
    masks = [truth.mask for truth in truths if truth.mask is not None]
    return masks if len(masks) == len(truths) else None


class Options(BaseModel, extra="forbid", frozen=True):
    """What a user states about the files of a data set, in `dataset.yaml` in its root."""

    bit_depth: int | None = Field(None, ge=8, le=16)  # significant bits of the values in 16-bit images


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
    fetchable: ClassVar[bool] = False  # whether `fetch` puts it on disk
    # category -> {"train": n, "validation": n, "good": n, and a number for each subset of anomalous test images}
    official_counts: ClassVar[dict[str, dict[str, int]]] = {}
    earlier_counts: ClassVar[dict[str, dict[str, int]]] = {}  # where the authors published other numbers before
    several_masks: ClassVar[bool] = False  # whether an image has a mask for each of its regions
    other_folders: ClassVar[frozenset[str]] = frozenset()  # names of folders that are not read by design

    def __init__(self, root: Path, categories: Sequence[str] | None = None) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise InputError(f"{self.title}: {self.root} is not a folder.\n{self.how_to_get()}")
        self.on_disk = tuple(folder.name for folder in list_folders(self.root) if self.is_category(folder))
        if not self.on_disk:
            raise InputError(f"{self.title}: {self.root} holds no category folder. {self._where_they_are()}")
        for category in categories or ():
            if category not in self.on_disk:
                raise InputError(
                    f"{self.title}: no category {category!r} in {self.root}. "
                    f"On disk: {', '.join(self.on_disk)}. Correct the name, or extract the archive again."
                )
        self.categories = tuple(dict.fromkeys(categories)) if categories else self.on_disk
        self.options = _options(self.root / OPTIONS)
        self._lacks_masks: dict[str, bool] = {}

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
            InputError: the licence asks that a person does it, or the download failed; the message says how.
        """
        raise InputError(f"{cls.title} cannot be downloaded automatically.\n{cls.how_to_get()}\nExtract it to {root}.")

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
        """What only the layout can know: masks without an image, two masks for one image."""
        return []

    # What follows from the items.

    def sample(self, item: Item) -> Sample:
        """What a method may see of an item. The image is decoded when it is read, as `read_image` says."""
        return Sample(
            opaque_key(item), item.category, partial(read_image, item.image, bit_depth=self.options.bit_depth)
        )

    def lacks_masks(self, category: str) -> bool:
        """Whether a category has anomalous test images, but no mask at all: its pixels cannot be scored."""
        if category not in self._lacks_masks:
            masks = [item.masks for item in self.items(category, "test") if item.defect != "good"]
            self._lacks_masks[category] = bool(masks) and not any(masks)
        return self._lacks_masks[category]

    def truth(self, item: Item) -> Truth:
        """The truth about a test image; the mask is the union of the item's masks, at the image's native size.

        Raises:
            InputError: a mask is missing, unreadable, of another size than its image, or one of two for it.
        """
        anomalous = item.defect != "good"
        if self.lacks_masks(item.category):
            return Truth(anomalous, None, (), self.subset(item))
        if anomalous and not item.masks:
            raise InputError(no_mask(item).message)
        if len(item.masks) > 1 and not self.several_masks:
            raise InputError(two_masks(item.masks).message)
        mask = np.zeros(image_size(item.image), dtype=bool)  # (H, W)
        for path in item.masks:
            region = read_mask(path).defect
            if region.shape != mask.shape:
                raise InputError(wrong_size(path, region.shape, item.image, mask.shape).message)
            mask |= region
        return Truth(anomalous, mask, self.regions(item), self.subset(item))

    def counts(self, category: str) -> dict[str, int]:
        """Images on disk, in the form of `official_counts`."""
        counts = Counter({split: len(self.items(category, split)) for split in ("train", "validation")})
        counts.update(self.subset(item) for item in self.items(category, "test"))
        return {key: n for key, n in counts.items() if n or key == "train"}

    def all_items(self, category: str) -> Iterator[Item]:
        """The items of all splits, and the private ones."""
        for split in SPLITS:
            yield from self.items(category, split)
        yield from self.private(category)

    def files(self, category: str) -> list[tuple[str, Path, Role]]:
        """Every file that decides results, with the key of its item; side files have none."""
        files: list[tuple[str, Path, Role]] = [("", path, "other") for path in self.side_files(category)]
        if (options := self.root / OPTIONS).is_file():
            files.append(("", options, "other"))
        for item in self.all_items(category):
            files.append((item.key, item.image, "image"))
            files.extend((item.key, path, "mask") for path in item.masks)
        return files

    def revision(self, categories: Iterable[str] | None = None) -> str:
        """Hash of the names and contents of all images, masks and side files of some categories, 32 hex digits.

        An item's key is part of it, so that another split of the same files is another revision. Each file is
        decoded and hashed once: digests are remembered by path, size and modification time in the user's cache folder.

        Raises:
            InputError: an image or mask cannot be used; the message lists the first ones.
        """
        by_category = {name: self.files(name) for name in (self.categories if categories is None else categories)}
        read = examine({path: role for files in by_category.values() for _, path, role in files})
        problems = [file_problem(result) for result in read.values() if isinstance(result, InputError)]
        for files in by_category.values():
            problems += self.depth_problems([path for _, path, _ in files], read)
        if problems:
            raise refusal("These files cannot be used:", problems)
        lines = sorted(
            f"{key}\0{os.path.relpath(path, self.root)}\0{result.digest}"
            for files in by_category.values()
            for key, path, _ in files
            if not isinstance(result := read[path], InputError)
        )
        return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()

    def depth_problems(self, paths: Iterable[Path], read: Mapping[Path, FileDigest | InputError]) -> list[Problem]:
        """What is wrong with the bit depth of a category's files."""
        ranges = {path: result.values for path in paths if not isinstance(result := read[path], InputError)}
        try:
            check_depths(ranges, self.options.bit_depth, self.root)
        except InputError as error:
            return [file_problem(error)]
        return []

    def _where_they_are(self) -> str:
        """The end of the message that a root holds no category: where they are, or how to get them."""
        if self.is_category(self.root.resolve()):
            return f"It is itself a category: give {self.root.resolve().parent} as root."
        for folder in list_folders(self.root):
            if any(self.is_category(inner) for inner in list_folders(folder)):
                return f"{folder} does: give that as root."
        such_as = f" ({', '.join(list(self.official_counts)[:3])}, …)" if self.official_counts else ""
        return (
            f"Point at the folder that holds the categories themselves{such_as}, or extract the archive again.\n"
            + self.how_to_get()
        )


def opaque_key(item: Item) -> str:
    """The key that a method sees: "category/split/hash", stable, unique, and silent about the label."""
    return f"{item.category}/{item.split}/{hashlib.blake2b(item.key.encode(), digest_size=6).hexdigest()}"


def file_problem(error: InputError) -> Problem:
    """A file that cannot be used, as a problem."""
    return Problem("error", str(error), error.kind if isinstance(error, FileError) else "")


def no_mask(item: Item) -> Problem:
    """An anomalous test image without a mask, in a category that has masks."""
    message = f"{item.image}: anomalous test image without a mask. Add its mask to the ground truth, or remove it."
    return Problem("error", message, "no mask")


def two_masks(masks: Sequence[Path]) -> Problem:
    """Several masks for an image that should have one."""
    message = f"{masks[0]} and {masks[1].name} are both masks of the same image. Keep one of them."
    return Problem("error", message, "two masks")


def wrong_size(mask: Path, mask_size: tuple[int, ...], image: Path, size: tuple[int, ...]) -> Problem:
    """A mask of another size (H, W) than its image."""
    height, width = mask_size
    message = (
        f"{mask}: mask of {width}x{height} pixels, its image {image} has {size[1]}x{size[0]}. "
        "Save the mask at the image's size."
    )
    return Problem("error", message, "mask size")


def _options(path: Path) -> Options:
    if not path.is_file():
        return Options()
    try:
        return Options.model_validate(yaml.safe_load(path.read_text()) or {})
    except (yaml.YAMLError, UnicodeDecodeError, ValidationError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: it may hold one line, such as `bit_depth: 12`, with 8 to 16 bits, and does not ({reason}). "
            "Correct it."
        ) from None
