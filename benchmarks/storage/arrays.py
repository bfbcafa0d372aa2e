"""The arrays of a run as files: the last step between a method's predictions and the stored numbers.

Part of every fingerprint, as is all that it imports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Predictions(NamedTuple):
    """What was predicted for the images of one category."""

    keys: Sequence[str]  # N, of the images
    scores: NDArray[np.float32]  # (N,)
    maps: NDArray[np.float32]  # (N, h, w); of probes, those of the first M only


def write(folder: Path, predictions: Mapping[str, Predictions]) -> None:
    """Write `CATEGORY.scores.npy` and `CATEGORY.maps.npy` into a new folder.

    Raises:
        OSError: the folder exists, or the disk is full.
    """
    folder.mkdir(parents=True)
    for category, (_, scores, maps) in predictions.items():
        np.save(folder / f"{category}.scores.npy", np.asarray(scores, np.float32))
        np.save(folder / f"{category}.maps.npy", np.asarray(maps, np.float32))
