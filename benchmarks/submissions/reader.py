"""Reads the archive of a bundle, which is hostile until shown otherwise.

Nothing is extracted, unpickled or executed, and no name from it becomes a path. The archive is read once, as a stream:
each member's header is compared with what the manifest declares before its content is read, in bounded pieces, and
whatever differs is refused.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import tarfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from benchmarks.submissions.schema import (
    FORMAT,
    FREE_BYTES,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    MAX_RATIO,
    MAX_VALUES,
    Manifest,
    Map,
    Weights,
    complaint,
)
from methods.base import InputError

AS_DOCUMENTED = f"Build the bundle as {FORMAT} says."
ORIGINAL = "Ask for the original bundle."
BLOCK = tarfile.BLOCKSIZE
CHUNK = 1 << 20
# As `numpy.save` writes it. Matched and not evaluated, so nothing but numbers gets through.
NPY = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '<f([24])', 'fortran_order': False, "
    rb"'shape': \(([1-9]\d{0,4}), ([1-9]\d{0,4})\), \} *\n",
    re.DOTALL,
)


class Archive:
    """The members of an archive, one after another. Each must be the plain file that is expected there."""

    def __init__(self, file: gzip.GzipFile, path: Path) -> None:
        self.file, self.bundle, self.packed = file, path.name, path.stat().st_size

    def manifest(self) -> Manifest:
        """The first member.

        Raises:
            InputError: as from every method here: it is not what the format asks for; names the member and the cure.
        """
        text = self._content(MANIFEST, self._member(MANIFEST, MAX_MANIFEST_BYTES))
        if sum(text.count(mark) for mark in (b",", b"[", b"{")) > MAX_VALUES:  # before anything is made of them
            raise self.refusal(MANIFEST, f"holds more than {MAX_VALUES} values", "Write several bundles.")
        try:
            manifest = Manifest.model_validate_json(text)
        except ValidationError as error:
            raise self.refusal(MANIFEST, complaint(error), AS_DOCUMENTED) from None
        unpacked = sum(entry.bytes for entry in manifest.maps) + sum(entry.bytes for entry in manifest.weights)
        if unpacked > max(FREE_BYTES, MAX_RATIO * self.packed):
            problem = f"declares {unpacked} bytes in an archive of {self.packed}, over {MAX_RATIO} times as many"
            raise self.refusal(MANIFEST, problem, "Round the maps less, or write several bundles.")
        return manifest

    def map(self, entry: Map) -> NDArray[np.floating]:
        """The next member, a map (h, w) of float32 or float16."""
        content = self.check(entry, keep=True)
        header = NPY.match(content)
        if header:
            height, width = int(header[2]), int(header[3])
            dtype = np.dtype(f"<f{header[1].decode()}")
            if len(content) - header.end() == height * width * dtype.itemsize:
                return np.frombuffer(content, dtype, offset=header.end()).reshape(height, width)
        raise self.refusal(
            entry.member,
            "is no two-dimensional float32 or float16 array, or not as long as its header says",
            "Write it with numpy.save, of a contiguous array.",
        )

    def check(self, entry: Map | Weights, keep: bool = False) -> bytearray:
        """Read a listed member piece by piece, and refuse another size or digest; its content, if it is to be kept."""
        if (size := self._member(entry.member, entry.bytes)) != entry.bytes:
            raise self.refusal(entry.member, f"{size} bytes, the manifest says {entry.bytes}", AS_DOCUMENTED)
        digest, kept = hashlib.sha256(), bytearray()
        for start in range(0, size, CHUNK):
            piece = self._content(entry.member, min(CHUNK, size - start))
            digest.update(piece)
            if keep:
                kept += piece
        if digest.hexdigest() != entry.sha256:
            problem = "its SHA-256 is not the one in the manifest: one of them was changed"
            raise self.refusal(entry.member, problem, ORIGINAL)
        return kept

    def end(self) -> None:
        """Nothing but the zeros that end an archive may follow."""
        name = "end of the archive"
        rest = self._read(name, BLOCK) + self._read(name, CHUNK, whole=False)
        if rest.strip(b"\0") or len(rest) > CHUNK:
            raise self.refusal(name, "more follows than the manifest lists", AS_DOCUMENTED)

    def refusal(self, member: str, problem: str, cure: str) -> InputError:
        return InputError(f"{self.bundle}: {member}: {problem}. {cure}")

    def _member(self, name: str, limit: int) -> int:
        """Step to the content of the next member, and return its size in bytes, at most `limit`."""
        try:
            header = tarfile.TarInfo.frombuf(self._read(name, BLOCK), "ascii", "strict")
        except (tarfile.TarError, ValueError):
            raise self.refusal(name, "no tar header stands in its place", AS_DOCUMENTED) from None
        if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            problem = f"in its place stands {ascii(header.name)[:100]}, no plain file but of type {header.type!a}"
            cure = "Leave out links, devices, folders and extended headers, as tarfile.USTAR_FORMAT does."
            raise self.refusal(name, problem, cure)
        if header.name != name:
            problem = f"in its place stands {ascii(header.name)[:100]}"
            raise self.refusal(name, problem, "Write the members in the manifest's order, and no other.")
        if not 0 <= header.size <= limit:
            raise self.refusal(name, f"{header.size} bytes, where {limit} are declared or allowed", AS_DOCUMENTED)
        return header.size

    def _content(self, name: str, size: int) -> bytes:
        """The next bytes of a member; the last ones with the padding behind them dropped."""
        return self._read(name, size + -size % BLOCK)[:size]

    def _read(self, name: str, size: int, whole: bool = True) -> bytes:
        try:
            content = self.file.read(size)
        except (OSError, EOFError, zlib.error) as error:
            raise self.refusal(name, f"cannot be unpacked ({error})", ORIGINAL) from None
        if whole and len(content) < size:
            raise self.refusal(name, "the archive ends before it does", ORIGINAL)
        return content
