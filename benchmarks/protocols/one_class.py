"""One-class: a model per category."""

from __future__ import annotations

from benchmarks.datasets.base import Dataset
from benchmarks.protocols.base import Split, test_items


def splits(dataset: Dataset, seed: int) -> list[Split]:
    return [
        Split(
            name=category,
            train=tuple(dataset.items(category, "train")),
            validation=tuple(dataset.items(category, "validation")),
            test={category: test_items(dataset, category)},
        )
        for category in dataset.categories
    ]
