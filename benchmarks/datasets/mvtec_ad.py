"""MVTec AD: 15 categories, 3,629 training and 1,725 test images.

Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 129 (2021), doi:10.1007/s11263-020-01400-4; table 2.
"""

from benchmarks.datasets.folder import Folder


class MVTecAD(Folder):
    title = "MVTec AD"
    licence = "CC BY-NC-SA 4.0 (non-commercial)"
    homepage = "https://www.mvtec.com/company/research/datasets/mvtec-ad"
    download = (
        "open the homepage, fill in the form of the downloads page, and extract the archive so that ROOT/bottle, "
        "ROOT/cable, … exist: mkdir ROOT && tar -xf mvtec_anomaly_detection.tar.xz -C ROOT."
    )
    official_counts = {  # noqa: RUF012
        category: {"train": train, "good": good, "anomalous": anomalous}
        for category, train, good, anomalous in (
            ("bottle", 209, 20, 63),
            ("cable", 224, 58, 92),
            ("capsule", 219, 23, 109),
            ("carpet", 280, 28, 89),
            ("grid", 264, 21, 57),
            ("hazelnut", 391, 40, 70),
            ("leather", 245, 32, 92),
            ("metal_nut", 220, 22, 93),
            ("pill", 267, 26, 141),
            ("screw", 320, 41, 119),
            ("tile", 230, 33, 84),
            ("toothbrush", 60, 12, 30),
            ("transistor", 213, 60, 40),
            ("wood", 247, 19, 60),
            ("zipper", 240, 32, 119),
        )
    }
