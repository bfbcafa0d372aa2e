"""Images that are there twice: byte for byte, or saved again with the same pixels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import platformdirs

from benchmarks.datasets._digests import in_parallel
from benchmarks.datasets._files import read_image
from benchmarks.datasets._problems import Problem
from benchmarks.datasets.base import Dataset, Item
from methods.components.atomic import replacing


def copies(dataset: Dataset, digests: Mapping[Item, str]) -> Iterator[Problem]:
    """Training images among the test images, twice in training, or both normal and anomalous.

    Args:
        digests: hashes of the files of all images that can be read.
    """
    pixels = _pixel_digests(dataset, digests)
    fitted: dict[str, Item] = {}
    for item, digest in pixels.items():
        if item.split in ("train", "validation"):
            if digest in fitted:
                message = f"{item.image}: copy of the {fitted[digest].split} image {fitted[digest].image}. Remove one."
                yield Problem("notice", message, "copies in training")
            fitted.setdefault(digest, item)
    tested: dict[str, Item] = {}
    for item, digest in pixels.items():
        if item.split != "test":
            continue
        if digest in fitted:
            message = f"{item.image}: test image that is a copy of the {fitted[digest].split} image "
            yield Problem("warning", f"{message}{fitted[digest].image}. Remove one of them.", "copies in test")
        before = tested.setdefault(digest, item)
        if (before.defect == "good") != (item.defect == "good"):
            message = f"{item.image}: the same image as {before.image}, but one is normal and the other is not. "
            yield Problem("warning", message + "Correct the labels.", "contradicting labels")


def _pixel_digests(dataset: Dataset, digests: Mapping[Item, str]) -> dict[Item, str]:
    """Hashes of the pixels of each image as methods see them, remembered by the hash of its file."""
    depth = dataset.options.bit_depth
    memory = Path(platformdirs.user_cache_dir("proctor")) / f"pixels-{depth or 'stated'}.json"
    known: dict[str, str] = {}
    with suppress(OSError, ValueError):  # a cache that is absent or damaged costs time, not results
        known |= json.loads(memory.read_text())

    def read(item: Item) -> str:
        pixels = read_image(item.image, depth).numpy()  # (3, H, W)
        return hashlib.blake2b(repr(pixels.shape).encode() + pixels.tobytes(), digest_size=16).hexdigest()

    new = [item for item, digest in digests.items() if digest not in known]
    found = {digests[item]: result for item, result in in_parallel(read, new, "comparing images").items()
             if isinstance(result, str)}  # fmt: skip
    if found:
        with suppress(OSError), replacing(memory) as partial:
            partial.write_text(json.dumps(known | found))
    known |= found
    return {item: known[digest] for item, digest in digests.items() if digest in known}
