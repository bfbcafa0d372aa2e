"""Strict parsers of the file formats in a bundle: gzip, tar, JSON and NPY.

A bundle may be read by other software than ours. Each parser accepts only what every common parser reads as the same
values, and refuses the rest, even where its standard allows it.
"""

from __future__ import annotations

import io
import json
import math
import re
import tarfile
import zlib
from itertools import pairwise
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 20
MAX_INTEGER = 2**53  # a parser that reads every number as a double rounds larger ones

_OCTAL = re.compile(rb"[0-7]+[ \0]+")
_TEXT = re.compile(rb"[^\0]*\0*")
_NPY_HEADER = re.compile(
    rb"\{'descr': '<f[24]', 'fortran_order': False, 'shape': \([1-9]\d{0,4}, [1-9]\d{0,4}\), \} {0,4096}\n"
)


class GzipStream:
    """Decompresses a gzip file of a single member.

    `gzip.open` joins several members and skips zeros after the last one. Other readers stop after the first member.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._inflate = file, zlib.decompressobj(16 + zlib.MAX_WBITS)

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer only at the end of the member.

        Raises:
            ValueError: the file is damaged or truncated.
        """
        content = bytearray()
        while len(content) < size and not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._file.read(CHUNK)
            if not packed:
                raise ValueError("the compressed data is truncated")
            try:
                content += self._inflate.decompress(packed, size - len(content))
            except zlib.error as error:
                raise ValueError(str(error)) from None
        return bytes(content)

    def has_trailing_data(self) -> bool:
        """Whether bytes follow the member. It must have been read to its end."""
        return bool(self._inflate.unused_data or self._file.read(1))


class TarHeader(NamedTuple):
    name: str
    type: bytes  # tarfile.REGTYPE for a regular file
    size: int  # bytes


def parse_tar_header(block: bytes) -> TarHeader:
    """Parse the header of a member of a POSIX ustar archive.

    Raises:
        ValueError: the block is not such a header, or other software may read another name or size from it.
    """
    if not block.isascii():  # base-256 numbers, encodings of names, checksums of signed bytes
        raise ValueError("tar header with bytes that are not ASCII")
    try:
        header = tarfile.TarInfo.frombuf(block, "ascii", "strict")  # compares the checksum
    except tarfile.HeaderError as error:
        raise ValueError(f"no tar header ({error})") from None
    if block[257:265] != tarfile.POSIX_MAGIC:  # GNU tar uses the bytes of the prefix for other fields
        raise ValueError("tar header of another format than ustar")
    if not all(_TEXT.fullmatch(field) for field in (block[:100], block[345:500])):
        raise ValueError("tar header with bytes after the end of the name")
    ends = (100, 108, 116, 124, 136, 148, 156)  # of name, mode, uid, gid, size, mtime, checksum
    if not all(_OCTAL.fullmatch(block, start, end) for start, end in pairwise(ends)):
        raise ValueError("tar header with a number that is not octal digits and a space or NUL")
    return TarHeader(header.name, header.type, header.size)


def check_json(text: bytes) -> None:
    """Check that a text is JSON that all parsers read alike: in UTF-8, without duplicate keys and extreme numbers.

    Raises:
        ValueError: it is not.
    """
    try:
        json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_refuse_duplicates,
            parse_constant=_refuse_constant,
            parse_int=_check_integer,
            parse_float=_check_float,
        )
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("JSON that is not encoded in UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"invalid JSON: {error}") from None


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> None:
    """Parsers keep the first or the last of equal keys. The values are not needed here."""
    keys = set()
    for key, _ in pairs:
        if key in keys:
            raise ValueError(f"duplicate key {ascii(key)[:100]} in JSON")
        keys.add(key)


def _refuse_constant(literal: str) -> None:
    raise ValueError(f"{literal} is not a JSON number")


def _check_integer(literal: str) -> None:
    if len(literal) > 17 or abs(int(literal)) > MAX_INTEGER:
        raise ValueError(f"the integer {literal[:20]} is beyond 2**53, where parsers differ")


def _check_float(literal: str) -> None:
    if math.isinf(float(literal)):
        raise ValueError(f"the number {literal[:20]} is beyond the range of a double")


def parse_npy(content: bytes | bytearray) -> NDArray[np.floating]:
    """The array (h, w) in a .npy file of version 1.0, as a view of `content`: C order, float32 or float16.

    The header must be what `numpy.save` writes, apart from its padding, and NumPy's own parser must accept it. That
    parser evaluates the header as a Python literal, so that no other header is passed to it.

    Raises:
        ValueError: the content is not such a file, or its length differs from that in its header.
    """
    end = 10 + int.from_bytes(content[8:10], "little")
    if content[:8] != b"\x93NUMPY\x01\x00" or not _NPY_HEADER.fullmatch(content, 10, end):
        raise ValueError("not a .npy file of a 2-D, C-ordered, little-endian float32 or float16 array")
    stream = io.BytesIO(content[:end])
    np.lib.format.read_magic(stream)
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if len(content) - stream.tell() != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"a .npy file of {len(content)} bytes, which differs from the length in its header")
    return np.frombuffer(content, dtype, offset=stream.tell()).reshape(shape)
