"""Any tree in the layout of MVTec AD: the user's own data.

CATEGORY/train/good/*            normal images to learn from
CATEGORY/validation/good/*       further normal images, if any
CATEGORY/test/good/*             normal test images
CATEGORY/test/DEFECT/*           anomalous test images
CATEGORY/ground_truth/DEFECT/*   their masks, STEM_mask.png or STEM.png, of any image format; see `_masks.py`
dataset.yaml                     optional: `bit_depth: 12` where 16-bit files hold values of fewer bits

A category without any mask is scored by image alone. Images in sub-folders of these folders are not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.datasets._files import list_folders, list_images
from benchmarks.datasets._problems import Problem
from benchmarks.datasets.base import Dataset, Item, SplitName, two_masks
from methods.base import InputError


class Pairs(NamedTuple):
    """Which masks belong to which images of a defect."""

    masks: dict[str, tuple[Path, ...]]  # by the image's stem
    problems: list[Problem]


class Folder(Dataset):
    title = "Image folder"
    licence = "the user's own"
    homepage = "see CONTRIBUTING.md"
    download = (
        "arrange images as CATEGORY/train/good, CATEGORY/test/good, CATEGORY/test/DEFECT "
        "and masks as CATEGORY/ground_truth/DEFECT/STEM_mask.png."
    )

    def is_category(self, folder: Path) -> bool:
        return super().is_category(folder) and any((folder / part).is_dir() for part in ("train", "test"))

    def items(self, category: str, split: SplitName) -> list[Item]:
        items: list[Item] = []
        for folder in list_folders(self.split_folder(category, split)):
            if folder.name == "ground_truth" or (split != "test" and folder.name != "good"):
                continue  # the images of the latter are reported as left out
            paths = self.images(folder)
            _refuse_shared_stems(paths)
            masks: dict[str, tuple[Path, ...]] = {}
            if split == "test" and folder.name != "good":
                masks = self.pairs(category, folder.name, [path.stem for path in paths]).masks
            for path in paths:
                key = f"{category}/{split}/{folder.name}/{path.stem}"
                items.append(Item(key, category, split, folder.name, path, masks.get(path.stem, ())))
        return sorted(items)

    def split_folder(self, category: str, split: SplitName) -> Path:
        """Where the folders `good` and those of the defects lie."""
        return self.root / category / split

    def images(self, defect: Path) -> list[Path]:
        """The images in a folder of `train`, `validation` or `test`."""
        return list_images(defect)

    def mask_folder(self, category: str, defect: str) -> Path:
        """Where the masks of a defect lie."""
        return self.root / category / "ground_truth" / defect

    def masked_defects(self, category: str) -> list[str]:
        """The defects that have a folder of masks."""
        return [folder.name for folder in list_folders(self.mask_folder(category, "good").parent)]

    def pairs(self, category: str, defect: str, stems: Sequence[str]) -> Pairs:
        """The masks of a defect's images, which have these stems."""
        return pair(stems, list_images(self.mask_folder(category, defect)))

    def misplaced(self, category: str) -> list[Problem]:
        stems: dict[str, list[str]] = {}
        for item in self.items(category, "test"):
            stems.setdefault(item.defect, []).append(item.image.stem)
        return [
            problem
            for defect in self.masked_defects(category)
            if defect != "good"
            for problem in self.pairs(category, defect, stems.get(defect, [])).problems
        ]


def pair(stems: Collection[str], files: Iterable[Path]) -> Pairs:
    """Find the mask file of each image, STEM_mask.* or STEM.*, where stems may end in "_mask" themselves.

    >>> pair(["000", "001"], [Path("000_mask.png"), Path("001.png")]).masks["001"]
    (PosixPath('001.png'),)
    """
    by_stem: dict[str, list[Path]] = {}
    for path in files:
        by_stem.setdefault(path.stem, []).append(path)
    for ending in ("_mask", ""):  # one name for all settles what each alone may leave open
        if {f"{stem}{ending}" for stem in stems} == by_stem.keys() and all(len(p) == 1 for p in by_stem.values()):
            return Pairs({stem: (by_stem[stem + ending][0],) for stem in stems}, [])
    fitting = {stem: [*by_stem.get(f"{stem}_mask", []), *by_stem.get(stem, [])] for stem in stems}
    images_of = Counter(path for paths in fitting.values() for path in paths)
    problems = []
    for stem, paths in fitting.items():
        if len(paths) > 1:
            problems.append(two_masks(paths))
        elif paths and images_of[paths[0]] > 1:
            message = (
                f"{paths[0]}: mask of several images, {stem!r} among them. Name all masks consistently, as STEM_mask.*."
            )
            problems.append(Problem("error", message, "two images"))
    for path in (path for paths in by_stem.values() for path in paths if path not in images_of):
        message = f"{path}: mask without its image. Name it after its image, STEM_mask.png or STEM.png, or delete it."
        problems.append(Problem("error", message, "no image"))
    return Pairs({stem: tuple(paths) for stem, paths in fitting.items() if paths}, problems)


def _refuse_shared_stems(paths: Sequence[Path]) -> None:
    """Raises an InputError if two images of a folder differ in their suffix alone, so that they would share a key."""
    count = Counter(path.stem for path in paths)
    shared = [path for path in paths if count[path.stem] > 1]
    if shared:
        more = f" (and {len(set(count) & {p.stem for p in shared}) - 1} more such stems)" if len(shared) > 2 else ""
        raise InputError(
            f"{shared[0]} and {shared[1].name} share a stem{more}. Rename or delete all but one of each stem."
        )
