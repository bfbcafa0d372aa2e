"""Reading the files of a data set: images, masks, and their digests."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import platformdirs
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from methods.base import InputError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


def read_image(path: Path) -> Tensor:
    """Decode an image file to (3, H, W) uint8 RGB at native resolution.

    Greyscale is repeated, palette and CMYK are converted, alpha is dropped. 16 bits become 8 by value / 257; where
    there are three such channels, Pillow keeps the high byte, which is at most 1 less.
    EXIF orientation is not applied: masks are drawn on the pixels as stored.

    Raises:
        InputError: the file is empty, truncated, no image, or holds values that 8 bits cannot represent.
    """
    image = _decode(path)
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise InputError(
                f"{path}: 32-bit values from {values.min()} to {values.max()}. Save it with 8 or 16 bits a channel."
            )
        image = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    elif image.mode == "F":
        raise InputError(f"{path}: floating-point pixels have no fixed range. Save it with 8 or 16 bits a channel.")
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()  # (3, H, W)


def read_mask(path: Path) -> np.ndarray:
    """Decode a mask file to (H, W) integers as stored: grey values or palette indices; 0 is defect-free.

    Raises:
        InputError: the file is empty, truncated or no image.
    """
    image = _decode(path)
    if image.mode in ("LA", "PA", "RGBA"):  # an opaque alpha channel is no defect
        image = image.convert("L" if image.mode == "LA" else "RGB")
    values = np.asarray(image)
    return values.max(axis=2) if values.ndim == 3 else values.astype(np.int64)


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) from the file's header."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def list_folders(folder: Path) -> list[Path]:
    """The folders in a folder by name, but hidden ones. Empty if there is none."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def list_images(folder: Path) -> list[Path]:
    """The image files in a folder by name; hidden files (".DS_Store", "._000.png") are none. Empty if there is none."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )


def _decode(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    if not path.is_file():
        return InputError(f"{path}: file is missing. Extract the archive again.")
    if path.stat().st_size == 0:
        return InputError(f"{path}: file has zero bytes. Extract the archive again, or delete the file.")
    return InputError(f"{path}: cannot be decoded ({error}). Extract the archive again, or delete the file.")


def digests(paths: Sequence[Path]) -> list[str]:
    """The hash of each file, and that each image among them can be decoded.

    What was read once is remembered by path, size and modification time in the user's cache folder.

    Raises:
        InputError: a file is missing or cannot be decoded; the message lists the first ones.
    """
    # Keyed by the resolved path, so that one cache file serves every data set under whatever name it is reached.
    memory = Path(platformdirs.user_cache_dir("proctor")) / "digests.json"
    known: dict[str, tuple[int, int, str]] = {}
    with suppress(OSError):  # absent, or not ours to read
        known |= _remembered(memory, memory.stat().st_mtime_ns)
    resolved = {path: str(path.resolve()) for path in paths}
    stats = {path: path.stat() for path in paths if path.is_file()}
    new = [p for p, s in stats.items() if known.get(resolved[p], ())[:2] != (s.st_size, s.st_mtime_ns)]
    with ThreadPoolExecutor() as pool:  # decoding and hashing release the GIL
        shown = track(
            pool.map(_decode_and_hash, new),
            f"reading {len(new)} files for the first time",
            len(new),
            console=Console(stderr=True),
            transient=True,
            disable=not new,
        )
        fresh = dict(zip(new, shown, strict=True))
    errors = [str(digest) for digest in fresh.values() if isinstance(digest, InputError)]
    errors += [f"{path}: file is missing. Extract the archive again." for path in paths if path not in stats]
    known |= {
        resolved[path]: (stats[path].st_size, stats[path].st_mtime_ns, digest)
        for path, digest in fresh.items()
        if isinstance(digest, str)
    }
    if new:
        with suppress(OSError):  # a cache that cannot be written costs time, not results
            memory.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=memory.parent, delete=False) as partial_file:
                json.dump(known, partial_file)
            os.replace(partial_file.name, memory)
    if errors:
        rest = f"\n… and {len(errors) - 8} more; `proctor doctor` lists all." if len(errors) > 8 else ""
        raise InputError("These files cannot be used:\n- " + "\n- ".join(errors[:8]) + rest)
    return [known[resolved[path]][2] for path in paths]


@lru_cache(maxsize=1)
def _remembered(memory: Path, modified: int) -> dict[str, tuple[int, int, str]]:
    """By path: size, modification time and digest of the files read before; the cache itself was `modified` then."""
    with suppress(ValueError, TypeError, AttributeError):  # a damaged cache is as good as none
        return {
            path: (int(size), int(written), bytes.fromhex(digest).hex())
            for path, (size, written, digest) in json.loads(memory.read_text()).items()
        }
    return {}


def _decode_and_hash(path: Path) -> str | InputError:
    try:
        if path.suffix.lower() in IMAGE_SUFFIXES:
            _decode(path)
    except InputError as error:
        return error
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=16)).hexdigest()
