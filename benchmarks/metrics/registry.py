"""Every metric by its name: how it is written, what computes it, and which way is better.

This is the contract between scoring, which computes the values, and the report, which shows and ranks them. A new
metric is a function and a row here: scoring, bundles and the board take it from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

from benchmarks.metrics import detection, localization, pro
from benchmarks.metrics.conventions import Pro


class Metric(NamedTuple):
    """One metric.

    Attributes:
        title: as tables print it.
        level: what is scored: images, pixels, or defect regions. It decides what `compute` is given.
        compute: of images, a function of the labels (N,) bool and the scores (N,); of pixels, a function of
            `localization.Pixels`, which holds `maps`, `truth` and the ranking that all share; of regions, a function of
            these and the `Convention`. It may raise `UndefinedMetric` with a reason.
        direction: which values are better.
        bounds: the lowest and the highest possible value; infinite where there is none. Metrics in [0, 1] are shown in
            percent.
        under: of regions, under which ways of computing PRO, as `Convention.pro` names them, the metric has a value.
    """

    title: str
    level: Literal["image", "pixel", "region"]
    compute: Callable[..., float]
    direction: Literal["higher", "lower"] = "higher"
    bounds: tuple[float, float] = (0.0, 1.0)
    under: tuple[Pro, ...] = ("pooled",)

    @property
    def is_fraction(self) -> bool:
        """Whether values lie in [0, 1], and are shown in percent."""
        return self.bounds == (0.0, 1.0)

    def is_possible(self, value: float) -> bool:
        """Whether the metric can have this value; NaN, for an undefined value, can."""
        return math.isnan(value) or self.bounds[0] <= value <= self.bounds[1]


# In the order of tables.
METRICS: dict[str, Metric] = {
    "image_auroc": Metric("image AUROC", "image", detection.auroc),
    "image_ap": Metric("image AP", "image", detection.average_precision),
    "image_f1_max": Metric("image F1-max", "image", detection.f1_max),
    "pixel_auroc": Metric("pixel AUROC", "pixel", localization.auroc),
    "pixel_ap": Metric("pixel AP", "pixel", localization.average_precision),
    "pixel_f1_max": Metric("pixel F1-max", "pixel", localization.f1_max),
    "aupro": Metric("AUPRO", "region", pro.aupro, under=("pooled", "per_image", "rescaled")),
    "spro": Metric("sPRO", "region", pro.spro, under=("saturated",)),
}
