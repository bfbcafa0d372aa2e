"""Metrics on the test images during training, for training curves and for the selection 'oracle'.

No valid result depends on this: in practice there are no labelled test images to select an epoch by. It shows how far
the last epoch is from the best one, and reproduces numbers whose authors chose their checkpoint on the test set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import islice

import numpy as np
import pandas as pd

from benchmarks.datasets.base import Dataset, masks_of
from benchmarks.metrics import detection, localization
from benchmarks.metrics.detection import UndefinedMetric
from benchmarks.metrics.localization import DefectRegions, Pixels
from benchmarks.metrics.resize import fit_masks
from benchmarks.protocols.base import Split
from methods.base import Prediction, Sample, TestEvaluation


def test_evaluation(dataset: Dataset, split: Split) -> TestEvaluation:
    """A function that evaluates a model on the split's test images; it returns means over categories.

    The metrics are image_auroc, pixel_auroc, pixel_ap, and aupro up to FPR 0.3. Masks are resized to the size of the
    maps, where every touched pixel is a defect. A metric that is undefined in all categories is left out. The ground
    truth stays here: a method passes a function that predicts, and receives only these means.
    """
    samples = [dataset.sample(item) for items in split.test.values() for item in items]

    @cache  # only the resized masks are cached: the native ones of all categories take gibibytes
    def ground_truth(category: str, size: tuple[int, int]) -> tuple[list[bool], DefectRegions | None]:
        """Labels of a category's images, and their masks, if it has any, prepared for maps of (h, w)."""
        truths = [dataset.truth(item) for item in split.test[category]]
        labels, masks = [truth.anomalous for truth in truths], masks_of(truths)
        return labels, None if masks is None else localization.prepare(fit_masks(masks, [size] * len(masks), "mask>0"))

    def evaluate(predict: Callable[[Sequence[Sample]], Iterator[Prediction]]) -> dict[str, float]:
        predictions = predict(samples)
        rows = []
        for category, items in split.test.items():
            outputs = list(islice(predictions, len(items)))
            maps = np.stack([prediction.anomaly_map.numpy() for prediction in outputs])  # (N, h, w)
            labels, masks = ground_truth(category, maps.shape[1:])
            row: dict[str, float] = {}
            with suppress(UndefinedMetric):
                row["image_auroc"] = detection.auroc(labels, [prediction.score for prediction in outputs])
            if masks is not None:
                with suppress(UndefinedMetric):
                    pixels = Pixels(maps, masks)
                    row |= {
                        "pixel_auroc": localization.auroc(pixels),
                        "pixel_ap": localization.average_precision(pixels),
                        "aupro": localization.pooled_pro(pixels, 0.3),
                    }
            rows.append(row)
        return {str(metric): float(value) for metric, value in pd.DataFrame(rows).mean().items()}

    return evaluate
