"""Protocols: how a data set becomes fits. The file name is the registry: `one_class` is `one_class.py`.

A protocol's file has one function, `splits(dataset, seed)`. Most ignore the seed, which is that of the run; a few-shot
protocol draws its training images by it.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from benchmarks.datasets.base import Dataset
from benchmarks.protocols.base import Split
from methods.base import InputError, did_you_mean


def available() -> list[str]:
    """The names of all protocols."""
    return sorted(module.name for module in iter_modules(__path__) if module.name != "base")


def splits(protocol: str, dataset: Dataset, seed: int) -> list[Split]:
    """The fits that a protocol asks for.

    Raises:
        InputError: there is no such protocol.
    """
    if protocol not in available():
        raise InputError(f"Unknown protocol {protocol!r}. {did_you_mean(protocol, available())}")
    result: list[Split] = import_module(f"{__name__}.{protocol}").splits(dataset, seed)
    return result
