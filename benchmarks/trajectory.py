"""How good a model is on the test images while it trains: what the course of training is shown by, and the oracle.

A result may not rest on this: a user has no labelled test images to stop by. It is measured to show how far the last
epoch is from the best one, and to reproduce numbers whose authors chose their checkpoint by the test set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import islice

import numpy as np
import pandas as pd

from benchmarks.datasets.base import Dataset
from benchmarks.metrics import detection, localization
from benchmarks.metrics.detection import UndefinedMetric
from benchmarks.metrics.localization import GroundTruth, Pixels
from benchmarks.metrics.resize import fit_masks
from benchmarks.protocols import Split
from methods.base import Judge, Prediction, Sample


def judge(dataset: Dataset, split: Split) -> Judge:
    """What measures a model on the split's test images, as means over categories.

    It gives image_auroc, pixel_auroc, pixel_ap, and aupro up to FPR 0.3. Masks are brought to the size of the maps,
    where every touched pixel counts. A metric that no category defines is left out. The truth stays here: a method
    hands in a function that predicts, and gets back these means alone.
    """
    samples = [dataset.sample(item) for items in split.test.values() for item in items]

    @cache  # native masks are let go: over all categories they take gibibytes
    def truth(category: str, size: tuple[int, int]) -> tuple[list[bool], GroundTruth]:
        """Labels of a category's images, and their masks prepared for maps of (h, w)."""
        truths = [dataset.truth(item) for item in split.test[category]]
        masks = fit_masks([truth.mask for truth in truths], [size] * len(truths), "mask>0")
        return [truth.anomalous for truth in truths], localization.prepare(masks)

    def measure(predict: Callable[[Sequence[Sample]], Iterator[Prediction]]) -> dict[str, float]:
        predictions = predict(samples)
        rows = []
        for category, items in split.test.items():
            answers = list(islice(predictions, len(items)))
            maps = np.stack([answer.anomaly_map.numpy() for answer in answers])  # (N, h, w)
            labels, defects = truth(category, maps.shape[1:])
            row: dict[str, float] = {}
            with suppress(UndefinedMetric):
                row["image_auroc"] = detection.auroc(labels, [answer.score for answer in answers])
            with suppress(UndefinedMetric):
                pixels = Pixels(maps, defects)
                row |= {
                    "pixel_auroc": localization.auroc(pixels),
                    "pixel_ap": localization.average_precision(pixels),
                    "aupro": localization.pooled_pro(pixels, 0.3),
                }
            rows.append(row)
        return {str(metric): float(value) for metric, value in pd.DataFrame(rows).mean().items()}

    return measure
