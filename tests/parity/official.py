"""The user's own checkouts of the official codes: imported and called, never copied.

They lie below the folder that the environment variable `OFFICIAL` names, each in a folder with its repository's name.
The official code expects old versions of its libraries, a GPU and a network. What it must be given instead is here.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from methods.aand import AAND
from methods.fd import FD
from methods.rd import RD

# "owner/NAME @commit": the commits that these tests were written for are those that the methods follow.
SOURCES = {source.split()[0].partition("/")[2]: source for source in (RD.source, FD.source, AAND.source)}


def checkout(name: str) -> Path:
    """The folder of a checkout; without it the test is skipped, and the reason says how to get it."""
    if "OFFICIAL" not in os.environ:
        pytest.skip("needs the official codes: make parity OFFICIAL=DIR (docs/parity.md)")
    folder = Path(os.environ["OFFICIAL"]).expanduser().resolve() / name
    repository = SOURCES[name].split()[0]
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing: git clone https://github.com/{repository} {folder}")
    return folder


def commit(name: str) -> str:
    """The commit of a checkout as a line of the report, with a warning if it is another one than Proctor follows."""
    found = subprocess.run(["git", "-C", checkout(name), "rev-parse", "HEAD"], capture_output=True, text=True)
    revision = found.stdout.strip()[:7] or "unknown"
    expected = SOURCES[name].partition("@")[2]
    return f"{name} @{revision}" + ("" if revision == expected else f": these tests were written for @{expected}")


def load(name: str, *modules: str) -> list[Any]:
    """Import modules of a checkout.

    RD4AD has a module `test`, and so has Python: the names are free again afterwards.
    """
    folder = checkout(name)
    for package in ("cv2", "skimage"):
        pytest.importorskip(package, reason=f"the official code imports {package}: pip install '.[parity]'")
    own = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    hidden = {module: sys.modules.pop(module) for module in list(sys.modules) if module.partition(".")[0] in own}
    path = sys.path.copy()
    sys.path.insert(0, str(folder))
    try:
        return [importlib.import_module(module) for module in modules]
    finally:
        sys.path[:] = path
        for module in list(sys.modules):
            if module.partition(".")[0] in own:
                del sys.modules[module]
        sys.modules.update(hidden)


def adapt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let official code run on a CPU beside the present versions of its libraries, without changing what it computes.

    It asks for CUDA; it calls pandas' `append`, which no longer exists; and it passes batches through `DataLoader`,
    which here hands over the prepared batches, for both codes must see the same ones.
    """
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for kind in (torch.Tensor, nn.Module):
        monkeypatch.setattr(kind, "cuda", lambda self: self)
    monkeypatch.setattr(torch.utils.data, "DataLoader", lambda dataset, **_: dataset)
    monkeypatch.setattr(
        pd.DataFrame,
        "append",
        lambda frame, row, ignore_index: pd.concat([frame, pd.DataFrame([row])], ignore_index=ignore_index),
        raising=False,
    )


class Batches:
    """What the official training loops iterate over: in epoch number e the batches of the e-th list."""

    def __init__(self, epochs: list[list[Any]]) -> None:
        self.epochs = iter(epochs)

    def __iter__(self) -> Iterator[Any]:
        return iter(next(self.epochs))


def renamed(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors by their names in the official code: parts of names are replaced, in this order."""
    renamed = {}
    for name, tensor in tensors.items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        renamed[name] = tensor
    return renamed


def gradients(network: nn.Module) -> dict[str, Tensor]:
    """The gradient of every parameter that has one, by name."""
    return {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}
