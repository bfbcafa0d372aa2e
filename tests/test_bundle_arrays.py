"""Changed arrays with a correct digest: NumPy reads every array that the reader accepts as the same one.

The environment variable PROCTOR_FUZZ sets the number of mutants of each kind, here and in test_bundle_fuzz.py.
"""

import io
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bundle_files import bundle, members, npy, size_and_digest, valid

from benchmarks.submissions.reader import BundleReader
from methods.base import InputError

MUTANTS = int(os.environ.get("PROCTOR_FUZZ", 1500))  # of each kind
TOKENS = (
    b"'", b"(", b")", b",", b"{", b"}", b" ", b"\n", b"\0", b"#", b"\\", b"-", b"+", b"_", b"L", b"0x", b"1e1", b"True",
    b"None", b"'descr': '<f4'", b"'descr': '>f4'", b"'descr': '<f2'", b"'shape': (4, 4)", b"'shape': (2, 8)", b"\xc3",
)  # fmt: skip


def bundle_of(content: bytes) -> bytes:
    """A bundle with `content` as its only map, and with the size and digest of it."""
    manifest, _ = valid()
    manifest["maps"] = [manifest["maps"][0] | size_and_digest(content)]
    return bundle(members(manifest, [content]))


def array(rng: random.Random) -> bytes:
    values = np.random.default_rng(rng.randrange(1 << 32)).random((rng.randrange(1, 9), rng.randrange(1, 9)))
    return npy(values.astype(rng.choice(("<f4", "<f2"))))


def declared_header_lengths(rng: random.Random) -> bytes:
    content = bytearray(array(rng))
    length = rng.choice((0, 1, rng.randrange(60, 140), len(content) - 10, len(content), rng.randrange(1 << 16)))
    content[8:10] = length.to_bytes(2, "little")
    return bytes(content)


def flipped_bits(rng: random.Random) -> bytes:
    content = bytearray(array(rng))
    for _ in range(rng.choice((1, 1, 2, 5))):
        content[rng.randrange(min(len(content), rng.choice((12, 128, 400))))] ^= 1 << rng.randrange(8)
    return bytes(content)


def replaced_tokens(rng: random.Random) -> bytes:
    content = array(rng)
    for _ in range(rng.choice((1, 1, 2))):
        at, token = rng.randrange(128), rng.choice(TOKENS)
        content = content[:at] + token + content[at + rng.choice((0, 1, len(token))) :]
    return content


def moved_ends(rng: random.Random) -> bytes:
    content = array(rng)
    at, count = rng.randrange(1, len(content)), rng.randrange(1, 70)
    return rng.choice(
        (content, content[:at], content[:-count], content + rng.randbytes(count), content + content,
         content[:128] + content, content[:at] + rng.randbytes(count) + content[at:],
         content[:at] + content[at + count :], content[count:])
    )  # fmt: skip


def rewritten_headers(rng: random.Random) -> bytes:
    """Headers of other padding, order, case and spacing, with a length that is right or nearly so."""
    values = array(rng)
    shape = rng.choice(("(2, 2)", "(2,2)", "(4,)", "(4, 1)", "(1, 4)", "(02, 2)", "(2, 2, )", "(2L, 2L)", "[2, 2]"))
    descr = rng.choice(("'<f4'", "'<f4'", "'<f2'", "'=f4'", "'>f4'", "'f4'", "'<i4'", "'|V4'", "'<f8'", "'|O'"))
    order = rng.choice(("False", "False", "True", "0", "false"))
    pairs = [f"'descr': {descr}", f"'fortran_order': {order}", f"'shape': {shape}"]
    if rng.random() < 0.2:
        pairs.insert(rng.randrange(4), rng.choice((*pairs, "'more': 1")))
    if rng.random() < 0.2:
        rng.shuffle(pairs)
    padding = rng.choice((0, 1, 7, 60, 12_000))
    text = ("{" + ", ".join(pairs) + rng.choice((", }", "}")) + " " * padding + rng.choice(("\n", "\n", ""))).encode()
    version = rng.choice((b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\1\1"))
    length = len(text) + rng.choice((0, 0, 0, -1, 1, 16))
    width = 2 if version[0] == 1 else 4
    return b"\x93NUMPY" + version + length.to_bytes(width, "little") + text + values[-rng.choice((4, 8, 16)) :]


MUTATIONS: list[Callable[[random.Random], bytes]] = [
    declared_header_lengths, flipped_bits, replaced_tokens, moved_ends, rewritten_headers
]  # fmt: skip


def read_by_us(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        reader = BundleReader(file, path)
        (entry,) = reader.read_manifest().maps
        return reader.read_map(entry)


def assert_numpy_reads_the_same(content: bytes, result: np.ndarray) -> None:
    stream = io.BytesIO(content)
    expected = np.lib.format.read_array(stream, allow_pickle=False)
    assert stream.tell() == len(content)
    assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
    assert result.tobytes() == expected.tobytes()
    assert expected.dtype in (np.float32, np.float16) and expected.ndim == 2


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_numpy_reads_what_the_reader_accepts(mutate: Callable[[random.Random], bytes], tmp_path: Path) -> None:
    path, refused, failures = tmp_path / "x.tar.gz", 0, list[str]()
    for number in range(MUTANTS):
        content = mutate(random.Random(f"{mutate.__name__} {number}"))
        path.write_bytes(bundle_of(content))
        try:
            result = read_by_us(path)
        except InputError as error:
            assert str(error).startswith("x.tar.gz: maps/seed0/screw/test/good/000.npy: "), error
            refused += 1
            continue
        try:
            assert_numpy_reads_the_same(content, result)
        except Exception as error:  # NumPy refuses with several kinds
            failures.append(f"mutant {number}: {error!r:.200}\n{content[:140]!r}")
    assert not failures, "\n".join([f"{len(failures)} of {MUTANTS}:", *failures[:3]])
    assert 0 < refused < MUTANTS
