"""How many images the authors of each data set publish, from `official_counts.csv`. A leaf."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path


@cache
def official_counts(dataset: str) -> dict[str, dict[str, int]]:
    """Official numbers of images by category; empty where none are known.

    Returns:
        category -> "train", "validation", "good", and a number for each subset of anomalous test images.
    """
    with Path(__file__).with_name("official_counts.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == dataset]
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        counts.setdefault(row["category"], {})[row["subset"]] = int(row["images"])
    return counts
