"""MVTec LOCO AD: 5 categories, logical and structural anomalies, regions with saturation thresholds.

Bergmann et al., "Beyond Dents and Scratches: Logical Constraints in Unsupervised Anomaly Detection and
Localization", IJCV 130 (2022), doi:10.1007/s11263-022-01578-9. Every anomalous test image has a folder of PNGs,
CATEGORY/ground_truth/{logical,structural}_anomalies/STEM/000.png, …: one region each, its pixels' one value above 0
naming the defect type in CATEGORY/defects_config.json, with the saturation threshold that sPRO uses (section 4).

The root may also be the folder that holds these in a folder of the archive's name, as some programs extract it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.datasets._files import list_folders, list_images
from benchmarks.datasets._masks import read_mask
from benchmarks.datasets._problems import FileError, Problem
from benchmarks.datasets.base import Item, Region
from benchmarks.datasets.folder import Folder, Pairs
from benchmarks.official_counts import official_counts
from methods.base import InputError

ARCHIVE = "mvtec_loco_anomaly_detection"


class MVTecLOCO(Folder):
    title = "MVTec LOCO AD"
    licence = "CC BY-NC-SA 4.0 (non-commercial)"
    homepage = "https://www.mvtec.com/company/research/datasets/mvtec-loco"
    download = (
        "open the homepage, fill in the form of the downloads page, and extract the archive so that "
        "ROOT/breakfast_box, … exist: mkdir ROOT && tar -xf mvtec_loco_anomaly_detection.tar.xz -C ROOT."
    )
    several_masks = True
    earlier_counts = official_counts("mvtec_loco", "earlier")
    official_counts = official_counts("mvtec_loco")

    def __init__(self, root: Path, categories: Sequence[str] | None = None) -> None:
        extracted = Path(root) / ARCHIVE
        is_outer = extracted.is_dir() and not any(map(self.is_category, list_folders(Path(root))))
        super().__init__(extracted if is_outer else root, categories)

    def subset(self, item: Item) -> str:
        return item.defect.removesuffix("_anomalies")

    def pairs(self, category: str, defect: str, stems: Sequence[str]) -> Pairs:
        """Each image has a folder of masks, one for each region."""
        folders = list_folders(self.mask_folder(category, defect))
        masks = {folder.name: tuple(list_images(folder)) for folder in folders}
        problems = [
            Problem("error", f"{folder}: masks without their image. Extract the archive again.", "no image")
            for folder in folders
            if masks[folder.name] and folder.name not in stems
        ]
        return Pairs({stem: paths for stem, paths in masks.items() if paths}, problems)

    def side_files(self, category: str) -> list[Path]:
        return [path for path in [self.root / category / "defects_config.json"] if path.is_file()]

    def misplaced(self, category: str) -> list[Problem]:
        problems = super().misplaced(category)
        for defect in ("logical_anomalies", "structural_anomalies"):
            for path in list_images(self.mask_folder(category, defect)):
                message = (
                    f"{path}: a single mask, where {path.parent}/{path.stem}/ should hold one for each region, which "
                    "sPRO needs. Extract the official archive, or score without sPRO: these files as data set `folder`."
                )
                problems.append(Problem("error", message, "single masks"))
        try:
            self.saturations(category)
        except InputError as error:
            problems.append(Problem("error", str(error)))
        return problems

    def saturations(self, category: str) -> dict[int, tuple[float, bool]]:
        """From defects_config.json: pixel value -> (saturation threshold, whether it is relative to the region)."""
        path = self.root / category / "defects_config.json"
        try:
            return {
                int(defect["pixel_value"]): (float(defect["saturation_threshold"]), bool(defect["relative_saturation"]))
                for defect in json.loads(path.read_text())
            }
        except FileNotFoundError as error:
            raise InputError(f"{path}: file is missing. Extract the archive again.") from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a list of defect types ({error!r}). Extract the archive again.") from error

    def regions(self, item: Item) -> tuple[Region, ...]:
        """One region per PNG, connected or not: the annotation says what belongs together.

        Saturation as in the official evaluation: relative thresholds are rounded down to whole pixels,
        absolute ones are limited to the area of the region.
        """
        saturations = self.saturations(item.category) if item.masks else {}
        regions = []
        for path in item.masks:
            values = read_mask(path).values
            present = np.unique(values[values > 0]).tolist()
            if len(present) != 1 or present[0] not in saturations:
                raise FileError.of(
                    "region",
                    path,
                    f"pixel values {present or 'all 0'}; expected is one value above 0 of defects_config.json "
                    f"({', '.join(map(str, sorted(saturations)))}). Correct the mask or the list.",
                )
            mask = values > 0  # (H, W)
            threshold, relative = saturations[present[0]]
            area = int(mask.sum())
            regions.append(Region(mask, float(int(threshold * area)) if relative else min(threshold, float(area))))
        return tuple(regions)
