"""Saturated per-region overlap (MVTec LOCO) over the false-positive rate of pixels, as far as its area counts it."""

from __future__ import annotations

import pandas as pd

from reports.figures._curves import curves
from reports.figures._style import Drawing


def draw(data: pd.DataFrame) -> Drawing:
    labels = ("false-positive rate of pixels, up to the limit of sPRO's area", "mean saturated per-region overlap")
    return curves(data, "spro", labels, 0.05)
