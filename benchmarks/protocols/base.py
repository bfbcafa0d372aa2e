"""Protocols: how a data set becomes fits. One function per protocol; its name is the protocol's name.

Training and validation images keep the data set's order, by key. Test images are ordered by `opaque_key`,
so that their order tells a method nothing about their labels; predictions are stored in that order.
"""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.datasets.base import Dataset, Item, opaque_key
from methods.base import InputError


class Split(NamedTuple):
    """What one fit learns from and is tested on."""

    name: str
    train: tuple[Item, ...]
    validation: tuple[Item, ...]
    test: dict[str, tuple[Item, ...]]  # by category


def one_class(dataset: Dataset) -> list[Split]:
    """A model per category."""
    return [
        Split(
            name=category,
            train=tuple(dataset.items(category, "train")),
            validation=tuple(dataset.items(category, "validation")),
            test={category: _test(dataset, category)},
        )
        for category in dataset.categories
    ]


def multi_class(dataset: Dataset) -> list[Split]:
    """One model for all categories, learnt from the union of their normal images."""
    return [
        Split(
            name="all",
            train=tuple(item for category in dataset.categories for item in dataset.items(category, "train")),
            validation=tuple(item for category in dataset.categories for item in dataset.items(category, "validation")),
            test={category: _test(dataset, category) for category in dataset.categories},
        )
    ]


def available() -> list[str]:
    """The names of all protocols."""
    return list(_protocols())


def expand(name: str, dataset: Dataset) -> list[Split]:
    """The fits that a protocol asks for.

    Raises:
        InputError: there is no such protocol; lists those there are.
    """
    protocols = _protocols()
    if name not in protocols:
        close = difflib.get_close_matches(name, protocols, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise InputError(f"Unknown protocol {name!r}.{hint} Available: {', '.join(protocols)}.")
    return protocols[name](dataset)


def _protocols() -> dict[str, Callable[[Dataset], list[Split]]]:
    functions = inspect.getmembers(sys.modules[__name__], inspect.isfunction)
    # A protocol is recognised by its signature, so that adding one is adding a function.
    return {name: function for name, function in functions if [*inspect.signature(function).parameters] == ["dataset"]}


def _test(dataset: Dataset, category: str) -> tuple[Item, ...]:
    return tuple(sorted(dataset.items(category, "test"), key=opaque_key))
