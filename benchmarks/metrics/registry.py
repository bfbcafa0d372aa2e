"""Every metric by its name: how it is written, what it measures, and which way is better.

This is the contract between scoring, which computes the values, and the report, which shows and ranks them.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """One metric.

    Attributes:
        title: as tables print it.
        level: what is scored: images, pixels, or defect regions.
        direction: which values are better.
        bounds: the lowest and the highest possible value; infinite where there is none. Metrics in [0, 1] are shown in
            percent.
    """

    title: str
    level: Literal["image", "pixel", "region"]
    direction: Literal["higher", "lower"] = "higher"
    bounds: tuple[float, float] = (0.0, 1.0)

    @property
    def is_fraction(self) -> bool:
        """Whether values lie in [0, 1], and are shown in percent."""
        return self.bounds == (0.0, 1.0)

    def is_possible(self, value: float) -> bool:
        """Whether the metric can have this value; NaN, for an undefined value, can."""
        return math.isnan(value) or self.bounds[0] <= value <= self.bounds[1]


# In the order of tables.
METRICS: dict[str, Metric] = {
    "image_auroc": Metric("image AUROC", "image"),
    "image_ap": Metric("image AP", "image"),
    "image_f1_max": Metric("image F1-max", "image"),
    "pixel_auroc": Metric("pixel AUROC", "pixel"),
    "pixel_ap": Metric("pixel AP", "pixel"),
    "pixel_f1_max": Metric("pixel F1-max", "pixel"),
    "aupro": Metric("AUPRO", "region"),
    "spro": Metric("sPRO", "region"),
}
