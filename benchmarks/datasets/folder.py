"""Any tree in the layout of MVTec AD: the user's own data.

CATEGORY/train/good/*            normal images to learn from
CATEGORY/validation/good/*       further normal images, if any
CATEGORY/test/good/*             normal test images
CATEGORY/test/DEFECT/*           anomalous test images
CATEGORY/ground_truth/DEFECT/*   their masks, STEM_mask.png or STEM.png; any value above 0 is defect
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.datasets._files import list_folders, list_images
from benchmarks.datasets.base import Dataset, Item, Problem, SplitName
from methods.base import InputError


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
        found: dict[str, Item] = {}
        for folder in list_folders(self.split_folder(category, split)):
            if folder.name == "ground_truth" or (split != "test" and folder.name != "good"):
                continue  # the latter is reported by `misplaced`
            masks = self.masks(category, folder.name) if split == "test" and folder.name != "good" else {}
            for path in self.images(folder):
                key = f"{category}/{split}/{folder.name}/{path.stem}"
                if key in found:
                    raise InputError(f"{path} and {found[key].image.name} share a stem. Rename or delete one of them.")
                found[key] = Item(key, category, split, folder.name, path, masks.get(path.stem, ()))
        return [found[key] for key in sorted(found)]

    def split_folder(self, category: str, split: SplitName) -> Path:
        """Where the folders `good` and those of the defects lie."""
        return self.root / category / split

    def images(self, defect: Path) -> list[Path]:
        """The images in a folder of `train`, `validation` or `test`."""
        return list_images(defect)

    def masks(self, category: str, defect: str) -> dict[str, tuple[Path, ...]]:
        """The masks of a defect's images, by the image's stem."""
        folder = self.root / category / "ground_truth" / defect
        return {path.stem.removesuffix("_mask"): (path,) for path in list_images(folder)}

    def misplaced(self, category: str) -> list[Problem]:
        stems: dict[str, set[str]] = {}
        for item in self.items(category, "test"):
            stems.setdefault(item.defect, set()).add(item.image.stem)
        found = []
        for defect in self.masked_defects(category):
            for stem, paths in self.masks(category, defect).items():
                if stem not in stems.get(defect, ()):
                    expected = self.split_folder(category, "test") / defect / stem
                    found.append(
                        Problem("error", f"{paths[0]}: mask without its image {expected}.*. Extract the archive again.")
                    )
        for split in ("train", "validation"):
            for folder in list_folders(self.root / category / split):
                if folder.name != "good":
                    found.append(Problem("notice", f"{folder}: ignored, {split} images belong in 'good'. Move them."))
        return found

    def masked_defects(self, category: str) -> list[str]:
        return [path.name for path in list_folders(self.root / category / "ground_truth")]
