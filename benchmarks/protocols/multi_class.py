"""Multi-class: one model for all categories, trained on the union of their normal images."""

from __future__ import annotations

from benchmarks.datasets.base import Dataset
from benchmarks.protocols.base import Split, test_items


def splits(dataset: Dataset, seed: int) -> list[Split]:
    return [
        Split(
            name="all",
            train=tuple(item for category in dataset.categories for item in dataset.items(category, "train")),
            validation=tuple(item for category in dataset.categories for item in dataset.items(category, "validation")),
            test={category: test_items(dataset, category) for category in dataset.categories},
        )
    ]
