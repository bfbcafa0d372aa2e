"""Receiver operating characteristic over images."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from reports.figures._curves import curves


def draw(data: pd.DataFrame) -> Figure:
    return curves(data, "roc", ("false-positive rate of images", "true-positive rate of images"))
