"""MVTec AD: 15 categories, 3,629 training and 1,725 test images.

Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 129 (2021), doi:10.1007/s11263-020-01400-4; table 2.
"""

from benchmarks.datasets.folder import Folder
from benchmarks.official_counts import official_counts


class MVTecAD(Folder):
    title = "MVTec AD"
    licence = "CC BY-NC-SA 4.0 (non-commercial)"
    homepage = "https://www.mvtec.com/company/research/datasets/mvtec-ad"
    download = (
        "open the homepage, fill in the form of the downloads page, and extract the archive so that ROOT/bottle, "
        "ROOT/cable, … exist: mkdir ROOT && tar -xf mvtec_anomaly_detection.tar.xz -C ROOT."
    )
    official_counts = official_counts("mvtec_ad")
