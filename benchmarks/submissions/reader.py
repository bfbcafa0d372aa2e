"""Reads a bundle, which comes from an untrusted source.

Nothing is extracted, unpickled or executed, and no name from the archive becomes a path. The archive is read once, as a
stream: each member's header is compared with the manifest before its content is read, in pieces of bounded size. A
bundle that differs from its manifest, or that other software may read differently, is refused.
"""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from benchmarks.submissions.formats import CHUNK, GzipStream, parse_npy, parse_tar_header
from benchmarks.submissions.schema import (
    FORMAT,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    MAX_RATIO,
    MAX_SMALL_BYTES,
    Manifest,
    Map,
    Weights,
    parse_manifest,
)
from methods.base import InputError

BUILD = f"Build the bundle as {FORMAT} describes."
ASK = "Ask for the original bundle."
BLOCK = tarfile.BLOCKSIZE
END = "end of the archive"


class BundleReader:
    """Reads the members of a bundle in order: the manifest, the maps, the weights, the end.

    Every method raises InputError, which names the member, the problem and the cure, if the next member is not the
    regular file that is expected there.

    Args:
        file: the bundle, opened at its start.
        path: its path, for messages.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._stream, self._name, self._packed = GzipStream(file), path.name, path.stat().st_size

    def read_manifest(self) -> Manifest:
        size = self._open_member(MANIFEST, MAX_MANIFEST_BYTES)
        try:
            manifest = parse_manifest(self._read_content(MANIFEST, size))
        except ValueError as error:
            raise self.error(MANIFEST, str(error), BUILD) from None
        unpacked = sum(entry.bytes for entry in manifest.maps) + sum(entry.bytes for entry in manifest.weights)
        if unpacked > max(MAX_SMALL_BYTES, MAX_RATIO * self._packed):
            problem = f"lists {unpacked} bytes in an archive of {self._packed}, more than {MAX_RATIO} times as many"
            raise self.error(MANIFEST, problem, "Store the maps with less rounding, or write several bundles.")
        return manifest

    def read_map(self, entry: Map) -> NDArray[np.floating]:
        """The next member as an anomaly map (h, w), float32 or float16."""
        content = bytearray()
        self._read_listed(entry, content)
        try:
            return parse_npy(content)
        except ValueError as error:
            raise self.error(entry.member, str(error), "Write it with numpy.save, from a contiguous array.") from None

    def check_weights(self, entry: Weights) -> None:
        """Compare size and digest of the next member. Its content is not kept."""
        self._read_listed(entry)

    def check_end(self) -> None:
        """Check that only the zeros that end a tar archive follow, and nothing after the compressed data."""
        rest = self._read(END, 2 * BLOCK) + self._read(END, CHUNK, exact=False)
        if rest.strip(b"\0") or len(rest) > CHUNK or self._stream.has_trailing_data():
            raise self.error(END, "data follows that the manifest does not list", BUILD)

    def error(self, member: str, problem: str, cure: str) -> InputError:
        return InputError(f"{self._name}: {member}: {problem}. {cure}")

    def _read_listed(self, entry: Map | Weights, content: bytearray | None = None) -> None:
        """Read a member that the manifest lists, compare size and digest, and append it to `content`."""
        size = self._open_member(entry.member, entry.bytes)
        if size != entry.bytes:
            raise self.error(entry.member, f"it has {size} bytes, the manifest lists {entry.bytes}", BUILD)
        digest = hashlib.sha256()
        for start in range(0, size, CHUNK):
            piece = self._read_content(entry.member, min(CHUNK, size - start))
            digest.update(piece)
            if content is not None:
                content += piece
        if digest.hexdigest() != entry.sha256:
            problem = "its SHA-256 is not the one in the manifest: the member or the manifest was changed"
            raise self.error(entry.member, problem, ASK)

    def _open_member(self, name: str, limit: int) -> int:
        """Read the header of the next member, and return its size in bytes, which is at most `limit`."""
        try:
            header = parse_tar_header(self._read(name, BLOCK))
        except ValueError as error:
            cure = "Write the archive in ustar format, such as with tarfile.USTAR_FORMAT or `tar --format=ustar`."
            raise self.error(name, f"expected here, found {error}", cure) from None
        if header.type != tarfile.REGTYPE:
            problem = f"expected here, found {ascii(header.name)[:100]} of type {header.type!a}, not a regular file"
            raise self.error(name, problem, "Leave out links, devices, folders and extended headers.")
        if header.name != name:
            problem = f"expected here, found {ascii(header.name)[:100]}"
            raise self.error(name, problem, "Write exactly the members that the manifest lists, in its order.")
        if header.size > limit:
            raise self.error(name, f"it has {header.size} bytes, the limit here is {limit}", BUILD)
        return header.size

    def _read_content(self, name: str, size: int) -> bytes:
        """The next bytes of a member, without the padding after its last ones."""
        return self._read(name, size + -size % BLOCK)[:size]

    def _read(self, name: str, size: int, exact: bool = True) -> bytes:
        try:
            content = self._stream.read(size)
        except ValueError as error:
            raise self.error(name, f"it cannot be decompressed ({error})", ASK) from None
        if exact and len(content) < size:
            raise self.error(name, "the archive ends before the end of this member", ASK)
        return content
