"""How many images the authors of each data set publish, from `official_counts.csv`. A leaf."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import Literal


@cache
def official_counts(dataset: str, column: Literal["images", "earlier"] = "images") -> dict[str, dict[str, int]]:
    """Official numbers of images by category; empty where none are known.

    Args:
        dataset: its name.
        column: `earlier` takes the number that the authors published first, where there are two, and gives only the
            categories that have one. MVTec LOCO's splicing_connectors came with 354 training and 59 validation images,
            and with 360 and 60.

    Returns:
        category -> "train", "validation", "good", and a number for each subset of anomalous test images.
    """
    with Path(__file__).with_name("official_counts.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == dataset]
    chosen = {row["category"] for row in rows if row[column]}
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        if row["category"] in chosen:
            counts.setdefault(row["category"], {})[row["subset"]] = int(row[column] or row["images"])
    return counts
