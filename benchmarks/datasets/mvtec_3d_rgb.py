"""The RGB images of MVTec 3D-AD: 10 categories, 2,656 training, 294 validation and 1,197 test images; no depth.

Bergmann et al., "The MVTec 3D-AD Dataset for Unsupervised 3D Anomaly Detection and Localization", VISAPP 2022,
arXiv:2112.09045. Images lie in CATEGORY/SPLIT/DEFECT/rgb, masks in CATEGORY/test/DEFECT/gt.
"""

from pathlib import Path

from benchmarks.datasets._files import list_folders, list_images
from benchmarks.datasets.folder import Folder
from benchmarks.official_counts import official_counts


class MVTec3DRGB(Folder):
    title = "MVTec 3D-AD (RGB)"
    licence = "CC BY-NC-SA 4.0 (non-commercial)"
    homepage = "https://www.mvtec.com/company/research/datasets/mvtec-3d-ad"
    download = (
        "open the homepage, fill in the form of the downloads page, and extract the archive so that ROOT/bagel, "
        "ROOT/cable_gland, … exist: mkdir ROOT && tar -xf mvtec_3d_anomaly_detection.tar.xz -C ROOT."
    )
    official_counts = official_counts("mvtec_3d_rgb")
    other_folders = frozenset({"xyz", "gt"})  # depth; a normal image has an empty mask, which is not read

    def images(self, defect: Path) -> list[Path]:
        return list_images(defect / "rgb")

    def mask_folder(self, category: str, defect: str) -> Path:
        return self.root / category / "test" / defect / "gt"

    def masked_defects(self, category: str) -> list[str]:
        return [path.name for path in list_folders(self.root / category / "test")]
