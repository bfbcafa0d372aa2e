"""Digests of stored files: what was written is what is read. A leaf.

A digest is computed again where a file's size or modification time has changed, or where a check asks for it; else it
is remembered, in the user's cache folder.
"""

from __future__ import annotations

import atexit
import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import platformdirs

from methods.components.atomic import replacing


def content_digest(content: bytes) -> str:
    """32 hex digits.

    >>> content_digest(b"maps")
    '537592391e6a670ee7ef7d143ed85149'
    """
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def json_digest(value: Mapping[str, Any]) -> str:
    """Of a JSON object, whatever the order of its keys."""
    return content_digest(json.dumps(value, sort_keys=True).encode())


def file_digest(path: Path, full: bool = False) -> str:
    """Of a file's bytes.

    Args:
        full: read the file even if its size and modification time are as remembered.

    Raises:
        OSError: the file cannot be read.
    """
    known, key, stat = _known(_memory()), str(path.resolve()), path.stat()
    stamp = [stat.st_size, stat.st_mtime_ns]
    entry = known.get(key)
    if not full and entry is not None and entry[:2] == stamp:
        return str(entry[2])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    known[key] = [*stamp, digest]
    return digest


def _memory() -> Path:
    return Path(platformdirs.user_cache_dir("proctor")) / "result-digests.json"


@cache
def _known(memory: Path) -> dict[str, list[Any]]:
    """By path: size, modification time and digest. Written back at the end of the process."""
    known: dict[str, list[Any]] = {}
    with suppress(OSError, ValueError):  # a cache that is absent or damaged costs time, not results
        stored = json.loads(memory.read_text())
        known = {path: entry for path, entry in stored.items() if isinstance(entry, list) and len(entry) == 3}
    before = dict(known)
    atexit.register(_remember, memory, known, before)
    return known


def _remember(memory: Path, known: dict[str, list[Any]], before: dict[str, list[Any]]) -> None:
    if known != before:
        with suppress(OSError), replacing(memory) as partial:
            partial.write_text(json.dumps(known))
