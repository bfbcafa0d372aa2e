"""VisA: 12 categories, 8,659 training and 2,162 test images by the official one-class split.

Zou et al., "SPot-the-Difference Self-Supervised Pre-training for Anomaly Detection and Segmentation", ECCV 2022,
arXiv:2207.14315. `visa_1cls.csv.xz` is the authors' split_csv/1cls.csv (https://github.com/amazon-science/spot-diff),
unchanged but compressed; CC BY 4.0, copyright Amazon.com, Inc. or its affiliates.

Two layouts are read, and give the same keys: the archive's (CATEGORY/Data/Images/{Normal,Anomaly},
CATEGORY/Data/Masks/Anomaly, split by the csv) and the authors' conversion to that of MVTec AD
(CATEGORY/test/{good,bad}, CATEGORY/ground_truth/bad).
"""

from __future__ import annotations

import os
import shutil
import tarfile
from functools import cache
from pathlib import Path

import pandas as pd
import pooch

from benchmarks.datasets._files import list_images
from benchmarks.datasets._problems import Problem
from benchmarks.datasets.base import Item, SplitName
from benchmarks.datasets.folder import Folder
from benchmarks.official_counts import official_counts
from methods.base import InputError

URL = "https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar"
SHA256 = "2eb8690c803ab37de0324772964100169ec8ba1fa3f7e94291c9ca673f40f362"  # 1,929,840,640 bytes


@cache
def official_split() -> pd.DataFrame:
    """Columns object, split, label (normal, anomaly), image, mask; paths relative to the root."""
    return pd.read_csv(Path(__file__).with_name("visa_1cls.csv.xz"), keep_default_na=False)


class VisA(Folder):
    title = "VisA"
    licence = "CC BY 4.0"
    homepage = "https://github.com/amazon-science/spot-diff"
    download = f"download {URL} (1.9 GB) and extract it so that ROOT/candle, … exist: mkdir ROOT && tar -xf … -C ROOT."
    fetchable = True
    official_counts = official_counts("visa")
    other_folders = frozenset({"split_csv"})

    @classmethod
    def fetch(cls, root: Path) -> None:
        """Download the archive, check its SHA-256, and extract it to `root`, which appears only when complete."""
        if root.exists():
            raise InputError(f"{root} exists already. Delete it, or choose another folder.")
        partial = root.with_name(f".{root.name}.{os.getpid()}")
        try:
            archive = pooch.retrieve(URL, f"sha256:{SHA256}", progressbar=True)
            with tarfile.open(archive) as tar:
                tar.extractall(partial, filter="data")
            partial.rename(root)
        except (OSError, ValueError, tarfile.TarError) as error:  # network, disk, wrong SHA-256, damaged archive
            reason = " ".join(str(error).split())
            raise InputError(
                f"VisA could not be extracted to {root} ({type(error).__name__}: {reason}). Check network and disk and "
                f"try again, or download it manually: {cls.download}"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def is_category(self, folder: Path) -> bool:
        return super().is_category(folder) or (folder.name in self.official_counts and (folder / "Data").is_dir())

    def is_raw(self, category: str) -> bool:
        return (self.root / category / "Data").is_dir()

    def items(self, category: str, split: SplitName) -> list[Item]:
        if not self.is_raw(category):
            return super().items(category, split)
        rows = official_split()
        items = []
        for row in rows[(rows["object"] == category) & (rows["split"] == split)].itertuples():
            image, defect = self.root / str(row.image), "good" if row.label == "normal" else "bad"
            mask = self.root / str(row.mask)
            masks = (mask,) if row.mask and mask.is_file() else ()
            items.append(Item(f"{category}/{split}/{defect}/{image.stem}", category, split, defect, image, masks))
        return sorted(items)

    def misplaced(self, category: str) -> list[Problem]:
        if not self.is_raw(category):
            return super().misplaced(category)
        data = self.root / category / "Data"
        images = {path.stem for path in list_images(data / "Images" / "Anomaly")}
        lost = [path for path in list_images(data / "Masks" / "Anomaly") if path.stem not in images]
        cure = f"mask without its image in {data / 'Images' / 'Anomaly'}. Extract the archive again."
        return [Problem("error", f"{path}: {cure}", "no image") for path in lost]
