"""Every file of a data set is decoded and hashed once: results are remembered in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import platformdirs
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from benchmarks.datasets._depth import PixelRange
from benchmarks.datasets._files import decode
from benchmarks.datasets._masks import read_mask
from benchmarks.datasets._problems import FileError
from methods.base import InputError

READING = 2  # raised when more is refused than before, so that all files are read again
Role = Literal["image", "mask", "other"]
K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class FileDigest(NamedTuple):
    """What is remembered of a file that could be read."""

    digest: str  # hash of its bytes, 32 hex digits
    values: PixelRange


def examine(roles: Mapping[Path, Role]) -> dict[Path, FileDigest | InputError]:
    """Decode and hash files as what they are, or say why they cannot be used.

    What was read once is remembered by path, size and modification time.
    """
    # Keyed by the resolved path, so that one cache file serves every data set under whatever name it is reached.
    memory = Path(platformdirs.user_cache_dir("proctor")) / f"digests-{READING}.json"
    known: dict[str, tuple[int, int, FileDigest]] = {}
    with suppress(OSError):  # absent, or not ours to read
        known |= _remembered(memory, memory.stat().st_mtime_ns)
    resolved = {path: str(path.resolve()) for path in roles}
    stats = {path: path.stat() for path in roles if path.is_file()}
    new = [p for p, s in stats.items() if known.get(resolved[p], ())[:2] != (s.st_size, s.st_mtime_ns)]
    fresh = in_parallel(lambda path: _read(path, roles[path]), new, f"reading {len(new)} files for the first time")
    known |= {
        resolved[path]: (stats[path].st_size, stats[path].st_mtime_ns, result)
        for path, result in fresh.items()
        if isinstance(result, FileDigest)
    }
    if new:
        with suppress(OSError):  # a cache that cannot be written costs time, not results
            memory.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=memory.parent, delete=False) as partial_file:
                json.dump({path: [*entry[:2], entry[2].digest, *entry[2].values] for path, entry in known.items()},
                          partial_file)  # fmt: skip
            os.replace(partial_file.name, memory)
    missing = {
        path: FileError.of("missing", path, "file is missing. Extract the archive again.")
        for path in roles
        if path not in stats
    }
    return {path: missing.get(path) or fresh.get(path) or known[resolved[path]][2] for path in roles}


def in_parallel(read: Callable[[K], T], inputs: Sequence[K], description: str) -> dict[K, T | InputError]:
    """What `read` gives for each input, or the error that it raises. Shows a progress bar on a terminal."""

    def attempt(value: K) -> T | InputError:
        try:
            return read(value)
        except InputError as error:
            return error

    console = Console(stderr=True)
    hidden = not inputs or not console.is_terminal
    with ThreadPoolExecutor() as pool:  # decoding and hashing release the GIL
        results = pool.map(attempt, inputs)
        shown = track(results, escape(description), len(inputs), console=console, transient=True, disable=hidden)
        return dict(zip(inputs, shown, strict=True))


@lru_cache(maxsize=1)
def _remembered(memory: Path, modified: int) -> dict[str, tuple[int, int, FileDigest]]:
    """By path: size, modification time and digest of the files read before; the cache itself was `modified` then."""
    with suppress(ValueError, TypeError, AttributeError):  # a damaged cache is like an absent one
        return {
            path: (
                int(size),
                int(written),
                FileDigest(bytes.fromhex(digest).hex(), PixelRange(int(peak), int(bits), bool(colour))),
            )
            for path, (size, written, digest, peak, bits, colour) in json.loads(memory.read_text()).items()
        }
    return {}


def _read(path: Path, role: Role) -> FileDigest:
    values = PixelRange(0, 0, False)
    if role == "image":
        values = decode(path)[1]
    elif role == "mask":
        read_mask(path)
    with path.open("rb") as file:
        return FileDigest(hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=16)).hexdigest(), values)
