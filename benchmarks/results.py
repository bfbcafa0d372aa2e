"""What lies on disk of finished runs: records and predictions.

A run at work owns `results/scratch/FINGERPRINT/` and writes its record there last; whole and finished, the folder's
`result` is moved to `results/predictions/GROUP/SPLIT-seedK/`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import records
from benchmarks.plan import Run
from benchmarks.records import Array, Images, ModelFile, Record
from benchmarks.schema import SCHEMA
from benchmarks.storage import model_files
from benchmarks.storage.digests import file_digest
from methods.components.atomic import replacing

if TYPE_CHECKING:  # most commands read no array, and need not wait for NumPy
    import numpy as np
    from numpy.typing import NDArray

    from benchmarks.storage.arrays import Predictions

RESULTS = Path("results")
PARTS = ("interference", "private")  # what a run may hold besides the predictions of its test images


def group_dir(group: str) -> Path:
    return RESULTS / "predictions" / group


def result_dir(run: Run) -> Path:
    return RESULTS / "predictions" / run.name


def details_dir(group: str) -> Path:
    """What figures of a group are drawn from; see `benchmarks/scoring/artifacts.py`."""
    return RESULTS / "details" / group


def scratch_dir(run: Run) -> Path:
    return RESULTS / "scratch" / run.fingerprint


def checkpoint(run: Run) -> Path:
    """Where a run at work saves the state of its training."""
    return scratch_dir(run) / "checkpoint.pt"


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole: a reader sees the old content or the new, never half."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file, or None if it is absent or not a JSON object."""
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def save(
    run: Run,
    predictions: Mapping[str, Predictions],
    record: Mapping[str, Any],
    parts: Mapping[str, Mapping[str, Predictions]] | None = None,
    write_model: Callable[[Path], None] | None = None,
) -> None:
    """Store a finished run in its scratch folder, the record last.

    Args:
        predictions: of the test images, by category.
        record: what else `record.json` must say; see `benchmarks/records.py`.
        parts: of other images, by the name of their folder and of their entry in the record: `interference`, `private`.
        write_model: writes the fitted method to a path; None: it is not kept.

    Raises:
        OSError: the disk is full, or cannot be written for another reason.
    """
    from benchmarks.storage import arrays

    target = scratch_dir(run) / "result"
    for left in scratch_dir(run).glob(f".*.{target.name}"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    with replacing(target) as partial:
        arrays.write(partial, predictions)
        listed: dict[str, Any] = {"categories": _listed(partial, predictions)}
        for name, part in (parts or {}).items():
            if part:
                arrays.write(partial / name, part)
                listed[name] = _listed(partial / name, part)
        if write_model:
            file = partial / model_files.NAME
            write_model(file)
            listed["model"] = ModelFile(bytes=file.stat().st_size, digest=file_digest(file)).model_dump()
        about = {k: getattr(run, k) for k in ("variant", "method", "dataset", "protocol", "split", "seed")}
        fingerprints = {"fingerprint": run.fingerprint, "fingerprint_parts": run.fingerprint_parts}
        content = {"schema": SCHEMA, **about, **fingerprints, **listed, **record}
        write_json(partial / "record.json", records.sealed(json.loads(json.dumps(content))))
        shutil.rmtree(target, ignore_errors=True)


def _listed(folder: Path, predictions: Mapping[str, Predictions]) -> dict[str, Any]:
    """What the record says of the arrays in a folder."""
    described = describe(folder, {category: list(keys) for category, (keys, _, _) in predictions.items()})
    return {category: images.model_dump() for category, images in described.items()}


def describe(folder: Path, keys: Mapping[str, list[str]]) -> dict[str, Images]:
    """What lies in a folder of arrays, by category, given the keys of its images."""
    return {
        category: Images(
            keys=of_category,
            scores=_described(folder / f"{category}.scores.npy"),
            maps=_described(folder / f"{category}.maps.npy"),
        )
        for category, of_category in keys.items()
    }


def _described(path: Path) -> Array:
    """Shape, type and digest of an array as it lies on the disk."""
    import numpy as np

    array = np.load(path, mmap_mode="r")
    return Array(shape=list(array.shape), dtype=str(array.dtype), digest=file_digest(path))


def load(folder: Path) -> tuple[Record, dict[str, Predictions]]:
    """The record of a stored run and, by category, its predictions (arrays memory-mapped).

    Raises:
        ValueError: a file is missing, damaged, or not what was written; the message names it.
    """
    record = records.read(folder / "record.json")
    return record, read_arrays(folder, record.categories)


def load_part(folder: Path, name: str) -> dict[str, Predictions]:
    """A part of a stored run, as `load` gives its test images; empty if it has none.

    `interference`: probes, with maps of the first M only. `private`: test images whose truth only a server knows.

    Raises:
        ValueError: as `load`.
    """
    return read_arrays(folder / name, getattr(records.read(folder / "record.json"), name))


def check(folder: Path, full: bool = False) -> Record:
    """Read a stored run with all its arrays.

    Args:
        full: compute every digest, even where size and modification time of a file are as they were.

    Raises:
        ValueError: as `load`.
    """
    record = records.read(folder / "record.json")
    read_arrays(folder, record.categories, full)
    for name in PARTS:
        read_arrays(folder / name, getattr(record, name), full)
    return record


def check_model(folder: Path, full: bool = False) -> Path | None:
    """The file of a stored run's fitted method, once it is known to be what was written; None if none was kept.

    The numbers of a run do not rest on it: `load` and `check` do not look at it.

    Args:
        full: as in `check`.

    Raises:
        ValueError: as `load`.
    """
    path, expected = folder / model_files.NAME, records.read(folder / "record.json").model
    if expected is None:
        return None
    try:
        digest = file_digest(path, full)
    except OSError as error:
        raise ValueError(f"{path} is missing or cannot be read ({error.strerror})") from None
    if digest != expected.digest:
        raise ValueError(f"{path} was changed after it was written: its digest is not the one in the record")
    return path


def read_arrays(folder: Path, listed: Mapping[str, Images], full: bool = False) -> dict[str, Predictions]:
    """The arrays of a folder, by category and memory-mapped.

    Raises:
        ValueError: as `load`.
    """
    from benchmarks.storage.arrays import Predictions

    predictions = {}
    for category, images in listed.items():
        scores = _array(folder / f"{category}.scores.npy", images.scores, full)
        maps = _array(folder / f"{category}.maps.npy", images.maps, full)
        if scores.shape != (len(images.keys),):
            raise ValueError(f"{folder}: {category} has {scores.shape} scores for {len(images.keys)} images")
        predictions[category] = Predictions(images.keys, scores, maps)
    return predictions


def _array(path: Path, expected: Array | None, full: bool) -> NDArray[np.float32]:
    import numpy as np

    if expected is None:
        raise ValueError(f"{path}: the record does not list it")
    try:
        digest = file_digest(path, full)
    except OSError as error:
        raise ValueError(f"{path} is missing or cannot be read ({error.strerror})") from None
    if digest != expected.digest:  # before the content is parsed, which may be anything
        raise ValueError(f"{path} was changed after it was written: its digest is not the one in the record")
    array: NDArray[np.float32] = np.load(path, mmap_mode="r")
    return array
