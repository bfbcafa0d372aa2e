"""What a protocol gives: the splits of a data set, each of which is one fit."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.datasets.base import Dataset, Item, opaque_key


class Split(NamedTuple):
    """What one fit learns from and is tested on.

    Training and validation images keep the data set's order, by key. Test images are ordered by `opaque_key`, so that
    their order tells a method nothing about their labels; predictions are stored in that order.
    """

    name: str
    train: tuple[Item, ...]
    validation: tuple[Item, ...]
    test: dict[str, tuple[Item, ...]]  # by category


def test_items(dataset: Dataset, category: str) -> tuple[Item, ...]:
    """The test images of a category, in the order of `opaque_key`."""
    return tuple(sorted(dataset.items(category, "test"), key=opaque_key))
