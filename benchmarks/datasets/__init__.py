"""Data sets. The file name is the registry: `load("visa")` reads `visa.py`. `base.py` and `_*.py` are shared code."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path

from benchmarks.datasets.base import Dataset
from methods.base import InputError, did_you_mean, expand_path


def available() -> list[str]:
    """The names of all data sets."""
    names = (path.stem for path in Path(__file__).parent.glob("*.py"))
    return sorted(name for name in names if name != "base" and not name.startswith("_"))


def find(name: str) -> type[Dataset]:
    """The class of a data set: the `Dataset` that the file of that name defines.

    Raises:
        InputError: there is no such data set; lists those there are.
    """
    if name not in available():
        raise InputError(f"There is no data set {name!r}. {did_you_mean(name, available())}")
    module = importlib.import_module(f"{__name__}.{name}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Dataset) and value.__module__ == module.__name__
    )


def variable(name: str) -> str:
    """The environment variable that may name the root of a data set."""
    return f"PROCTOR_{name.upper()}_ROOT"


def default_root(name: str) -> Path:
    """Where a data set is looked for if no root is given: $PROCTOR_<NAME>_ROOT, else data/<name>."""
    return expand_path(os.environ.get(variable(name)) or Path("data") / name)


def load(name: str, root: str | Path | None = None, categories: Sequence[str] | None = None) -> Dataset:
    """Open a data set that is on disk.

    Args:
        name: one of `available()`.
        root: the folder that holds the categories, where `~` and `$NAME` are replaced; None: as `default_root` says.
        categories: which to use; None: all that are on disk.

    Raises:
        InputError: unknown name, missing root or category; says how to get the data.
    """
    cls = find(name)
    folder = expand_path(root) if root is not None else default_root(name)
    if not folder.is_dir():
        raise InputError(
            f"{cls.title} is not at {folder} (no such folder). Set `roots: {{{name}: PATH}}` in params.yaml "
            f"or the environment variable {variable(name)}, or put it at data/{name}.\n{cls.how_to_get()}"
        )
    return cls(folder, categories)


def is_to_be_fetched(name: str, root: str | Path | None = None) -> bool:
    """Whether a data set is missing at its default place. Whoever states a root has the data, or made a mistake.

    >>> is_to_be_fetched("toy", "a/root/that/is/not/there")
    False
    """
    return root is None and not os.environ.get(variable(name)) and not default_root(name).exists()
