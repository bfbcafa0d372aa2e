"""Per-region overlap over the false-positive rate of pixels, as far as AUPRO counts it."""

from __future__ import annotations

import pandas as pd

from reports.figures._curves import curves
from reports.figures._style import Drawing


def draw(data: pd.DataFrame) -> Drawing:
    return curves(data, "pro", ("false-positive rate of pixels, up to AUPRO's limit", "mean per-region overlap"), 0.3)
