"""Receiver operating characteristic over images."""

from __future__ import annotations

import pandas as pd

from reports.figures._curves import curves
from reports.figures._style import Drawing


def draw(data: pd.DataFrame) -> Drawing:
    return curves(data, "roc", ("false-positive rate of images", "true-positive rate of images"))
