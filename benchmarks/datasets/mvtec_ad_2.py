"""MVTec AD 2: 8 categories, each with a public test set and two private ones whose truth only a server knows.

Heckler-Kram et al., "The MVTec AD 2 Dataset: Advanced Scenarios for Unsupervised Anomaly Detection", 2025,
arXiv:2503.21622. Training and validation images lie in CATEGORY/{train,validation}/good, public test images in
CATEGORY/test_public/{good,bad} with masks in CATEGORY/test_public/ground_truth/bad, private ones in
CATEGORY/test_private (the lighting seen in training) and CATEGORY/test_private_mixed (seen and unseen lighting).
The root may also be the folder that holds these in a folder of the archive's name.

The public test set is what is scored here, and what the keys call `test`. The private images are predicted and
stored, and `proctor export` makes of them the archive that the server scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from benchmarks.datasets._files import list_folders, list_images
from benchmarks.datasets._problems import Problem
from benchmarks.datasets.base import Item, SplitName
from benchmarks.datasets.folder import Folder

ARCHIVE = "mvtec_ad_2"


class MVTecAD2(Folder):
    title = "MVTec AD 2"
    licence = "CC BY-NC-SA 4.0 (non-commercial)"
    homepage = "https://www.mvtec.com/company/research/datasets/mvtec-ad-2"
    download = (
        "open the homepage, fill in the form of the downloads page, and extract the archive so that ROOT/can, "
        "ROOT/fabric, … or ROOT/mvtec_ad_2/can, … exist."
    )
    PRIVATE = ("test_private", "test_private_mixed")
    # Images in each of the two private sets; the server takes an archive with exactly these.
    private_counts: ClassVar[dict[str, int]] = {
        "can": 321,
        "fabric": 314,
        "fruit_jelly": 255,
        "rice": 277,
        "sheet_metal": 142,
        "vial": 276,
        "wallplugs": 232,
        "walnuts": 228,
    }
    # The names of the categories; the official numbers of their other images are not known to us.
    official_counts = {category: {} for category in private_counts}  # noqa: RUF012

    def __init__(self, root: Path, categories: Sequence[str] | None = None) -> None:
        extracted = Path(root) / ARCHIVE
        is_outer = extracted.is_dir() and not any(map(self.is_category, list_folders(Path(root))))
        super().__init__(extracted if is_outer else root, categories)

    def split_folder(self, category: str, split: SplitName) -> Path:
        return self.root / category / ("test_public" if split == "test" else split)

    def mask_folder(self, category: str, defect: str) -> Path:
        return self.split_folder(category, "test") / "ground_truth" / defect

    def misplaced(self, category: str) -> list[Problem]:
        problems, official = super().misplaced(category), self.private_counts[category]
        for split in self.PRIVATE:
            folder = self.root / category / split
            count = len(list_images(folder))
            if not folder.is_dir():
                message = f"{folder} is not there. The public test set is scored; the server requires the private ones."
                problems.append(Problem("notice", message))
            elif count != official:
                message = f"{folder}: {count} images (official {official}); the server requires all. Extract it again."
                problems.append(Problem("notice", message))
        return problems

    def private(self, category: str) -> list[Item]:
        return [
            Item(f"{category}/{split}/{path.stem}", category, "private", "unknown", path)
            for split in self.PRIVATE
            for path in list_images(self.root / category / split)
        ]
