"""Ambiguous bundles: what two parsers may read differently is refused, in each of the four file formats."""

import gzip
import io
import json
import random
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_files import (
    bundle,
    header,
    member,
    members,
    npy,
    replace,
    size_and_digest,
    tar,
    valid,
    with_checksum,
)

from benchmarks.submissions import formats
from benchmarks.submissions.reader import BundleReader
from benchmarks.submissions.schema import Manifest
from methods.base import InputError

FIRST_MAP = "maps/seed0/screw/test/good/000.npy"


def read(path: Path, content: bytes) -> tuple[Manifest, list[np.ndarray]]:
    path.write_bytes(content)
    with path.open("rb") as file:
        reader = BundleReader(file, path)
        manifest = reader.read_manifest()
        maps = [reader.read_map(entry) for entry in manifest.maps]
        reader.check_end()
    return manifest, maps


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.tar.gz"


def refuse(path: Path, content: bytes, name: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^x.tar.gz: {re.escape(name)}: .*{re.escape(message)}"):
        read(path, content)


def test_the_unchanged_bundle_is_read(path: Path) -> None:
    _, maps = read(path, bundle(members(*valid())))
    assert all(npy(anomaly_map) == content for anomaly_map, content in zip(maps, valid()[1], strict=True))


# gzip


def test_several_gzip_members_are_refused(path: Path) -> None:
    archive = tar(members(*valid()))
    content = gzip.compress(archive[:5000]) + gzip.compress(archive[5000:])
    assert gzip.decompress(content) == archive  # other software stops after the first member
    refuse(path, content, "maps/seed0/screw/test/good/001.npy", "ends before")
    refuse(path, gzip.compress(archive) + gzip.compress(b""), "end of the archive", "data follows")


@pytest.mark.parametrize("garbage", [b"\0", bytes(2000), b"x", b"\x1f\x8b"])
def test_data_after_the_gzip_member_is_refused(path: Path, garbage: bytes) -> None:
    refuse(path, bundle(members(*valid())) + garbage, "end of the archive", "data follows")


def test_the_stream_gives_the_same_bytes_for_every_size_of_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(70_000) + random.Random(0).randbytes(3000) + b"x" * 500
    packed = gzip.compress(content)
    for chunk in (1, 7, 1000, len(packed) - 8, len(packed)):
        monkeypatch.setattr(formats, "CHUNK", chunk)
        for size in (100, 512, 73_500, 80_000):
            stream = formats.GzipStream(io.BytesIO(packed))
            pieces = list(iter(lambda size=size, stream=stream: stream.read(size), b""))
            assert b"".join(pieces) == content
            assert all(len(piece) == size for piece in pieces[:-1])
            assert not stream.has_trailing_data()
            trailing = formats.GzipStream(io.BytesIO(packed + b"\0"))
            assert trailing.read(80_000) == content
            assert trailing.has_trailing_data()


def test_a_damaged_gzip_member_is_refused(path: Path) -> None:
    content = bundle(members(*valid()))
    refuse(path, content[:-9], "end of the archive", "truncated")
    refuse(path, replace(content, len(content) - 8, b"\0\0\0\0"), "end of the archive", "incorrect data check")
    refuse(path, replace(content, len(content) - 4, b"\0\0\0\0"), "end of the archive", "incorrect length check")
    refuse(path, content[: len(content) // 2], "maps/seed0/screw/test/good/001.npy", "truncated")
    refuse(path, tar(members(*valid())), "manifest.json", "incorrect header check")


# tar


def with_header(block: bytes) -> bytes:
    """The bundle with another header of its first map."""
    (info, text), *maps = members(*valid())
    first = tar([(info, text)])[:-1024]
    return gzip.compress(first + block + tar(maps)[512:], 1)


def changed(offset: int, field: bytes) -> bytes:
    """The first map's header with one field changed and the right checksum."""
    return with_checksum(replace(header(members(*valid())[1][0]), offset, field))


SIZE = len(valid()[1][0])


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (b"\x80" + SIZE.to_bytes(11, "big"), "not ASCII"),  # base-256, of GNU tar
        (b"+%010o\0" % SIZE, "octal"),
        (b"0o%09o\0" % SIZE, "octal"),
        (b"0_%09o\0" % SIZE, "octal"),
        (b"%11o\0" % SIZE, "octal"),  # spaces before the number
        (b"%012o" % SIZE, "octal"),  # no end
        (b"%06o\0" % SIZE + b"77777", "octal"),  # digits after the end
        (bytes(12), "octal"),
    ],
)
def test_a_size_in_another_notation_is_refused(path: Path, field: bytes, message: str) -> None:
    block = changed(124, field)
    assert tarfile.TarInfo.frombuf(block, "ascii", "strict").size in (SIZE, 0)
    refuse(path, with_header(block), FIRST_MAP, message)


@pytest.mark.parametrize("offset", [100, 108, 116, 136])
def test_another_number_in_another_notation_is_refused(path: Path, offset: int) -> None:
    refuse(path, with_header(changed(offset, b"00_0000\0")), FIRST_MAP, "octal")


@pytest.mark.parametrize("field", [b"%06o \0", b"%06o\0\0", b"%07o\0", b"%06o  "])
def test_the_usual_notations_of_a_checksum_are_read(path: Path, field: bytes) -> None:
    block = changed(0, b"")
    total = tarfile.TarInfo.frombuf(block, "ascii", "strict").chksum
    read(path, with_header(replace(block, 148, field % total)))


@pytest.mark.parametrize(
    ("field", "message"), [(b"+%05o\0 ", "octal"), (b"0o%05o\0", "octal"), (b" %05o\0 ", "octal"), (b"%05o1\0 ", "bad")]
)
def test_a_checksum_in_another_notation_or_of_another_value_is_refused(path: Path, field: bytes, message: str) -> None:
    block = changed(0, b"")
    total = tarfile.TarInfo.frombuf(block, "ascii", "strict").chksum
    refuse(path, with_header(replace(block, 148, field % total)), FIRST_MAP, message)


def test_a_checksum_of_signed_bytes_is_refused(path: Path) -> None:
    block = with_checksum(replace(changed(0, b""), 500, b"\xff"))
    signed = sum(byte - 256 * (byte > 127) for byte in replace(block, 148, b" " * 8))
    block = replace(block, 148, b"%06o\0 " % signed)
    assert tarfile.TarInfo.frombuf(block, "ascii", "strict").chksum == signed
    refuse(path, with_header(block), FIRST_MAP, "not ASCII")


def test_bytes_after_the_end_of_a_name_are_refused(path: Path) -> None:
    refuse(path, with_header(changed(len(FIRST_MAP), b"\0x")), FIRST_MAP, "after the end of the name")
    refuse(path, with_header(changed(345, b"\0maps")), FIRST_MAP, "after the end of the name")


def test_a_name_may_be_divided_between_both_fields_at_any_slash(path: Path) -> None:
    for split in (4, 10, 16):
        divided = FIRST_MAP[split + 1 :].encode().ljust(100, b"\0") + changed(0, b"")[100:]
        read(path, with_header(with_checksum(replace(divided, 345, FIRST_MAP[:split].encode()))))


def test_the_prefix_is_part_of_the_name(path: Path) -> None:
    refuse(path, with_header(changed(345, b"prefix")), FIRST_MAP, f"found 'prefix/{FIRST_MAP}'")


@pytest.mark.parametrize("magic", [tarfile.GNU_MAGIC, bytes(8), b"ustar\0  ", b"ustar\x0001"])
def test_a_header_of_another_tar_format_is_refused(path: Path, magic: bytes) -> None:
    refuse(path, with_header(changed(257, magic)), FIRST_MAP, "another format than ustar")


@pytest.mark.parametrize("kind", [*"1234567LKSNVxgXAD", "\0"])
def test_only_regular_files_are_read(path: Path, kind: str) -> None:
    refuse(path, with_header(changed(156, kind.encode())), FIRST_MAP, "not a regular file")


def test_an_archive_must_end_with_two_blocks_of_zeros_and_nothing_else(path: Path) -> None:
    archive = tar(members(*valid()))
    read(path, gzip.compress(archive + bytes(9 * 1024), 1))
    refuse(path, gzip.compress(archive[:-512], 1), "end of the archive", "ends before")
    refuse(path, gzip.compress(archive + bytes(2 << 20), 1), "end of the archive", "data follows")
    refuse(path, gzip.compress(archive + archive, 1), "end of the archive", "data follows")
    more = [*members(*valid()), (member("maps/seed2/screw/test/good/000.npy", 3), b"abc")]
    refuse(path, bundle(more), "end of the archive", "data follows")
    entries = members(*valid())
    refuse(path, gzip.compress(tar(entries[:1]) + tar(entries[1:]), 1), FIRST_MAP, "end of file header")


def test_a_member_must_have_the_size_in_the_manifest(path: Path) -> None:
    manifest, contents = valid()
    for size in (SIZE - 1, SIZE + 1):
        manifest["maps"][0]["bytes"] = size
        refuse(path, bundle(members(manifest, contents)), FIRST_MAP, f"it has {SIZE} bytes")


# JSON


def with_manifest(text: str | bytes) -> bytes:
    return bundle(members(text if isinstance(text, bytes) else text.encode(), valid()[1]))


def manifest_text(**fields: Any) -> str:
    return json.dumps(valid()[0] | fields)


@pytest.mark.parametrize(
    ("key", "duplicate"),
    [
        ("name", manifest_text().replace('"name": "fuzz"', '"name": "fuzz", "name": "fuzz"')),
        ("score", manifest_text().replace('"score"', '"score": 1.0, "score"', 1)),
        ("epochs", manifest_text().replace('"epochs": 1', '"epochs": 1, "epochs": 2')),
        ("a", manifest_text(hyper_parameters={"x": {}}).replace('"x": {}', '"x": [{"a": 1, "\\u0061": 2}]')),
    ],
)
def test_duplicate_keys_are_refused(path: Path, key: str, duplicate: str) -> None:
    json.loads(duplicate)  # which keeps the last
    refuse(path, with_manifest(duplicate), "manifest.json", f"duplicate key '{key}'")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        ("NaN", "NaN is not a JSON number"),
        ("Infinity", "Infinity is not a JSON number"),
        ("-Infinity", "-Infinity is not a JSON number"),
        ("1e400", "beyond the range of a double"),
        ("-1e400", "beyond the range of a double"),
        ("9007199254740993", "beyond 2**53"),
        ("-9007199254740993", "beyond 2**53"),
        ("1" * 5000, "beyond 2**53"),
    ],
)
@pytest.mark.parametrize("field", ["hyper_parameters", "budget", "score"])
def test_numbers_that_parsers_read_differently_are_refused(path: Path, number: str, message: str, field: str) -> None:
    text = manifest_text() if field == "score" else manifest_text(**{field: {"x": "NUMBER"}})
    text = re.sub(r'(?<="score": )[\d.]+', number, text, count=1) if field == "score" else text
    refuse(path, with_manifest(text.replace('"NUMBER"', number)), "manifest.json", message)


def test_numbers_that_every_parser_reads_alike_are_kept(path: Path) -> None:
    text = manifest_text(hyper_parameters={"x": [2**53, -(2**53), 1e308, 5e-324, 0.1, -0.0]})
    manifest, _ = read(path, with_manifest(text))
    assert manifest.hyper_parameters == json.loads(text)["hyper_parameters"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (manifest_text().encode("utf-16"), "not encoded in UTF-8"),
        (manifest_text(paper="é").encode("latin-1").replace(b"\\u00e9", b"\xe9"), "not encoded in UTF-8"),
        (b"\xef\xbb\xbf" + manifest_text().encode(), "BOM"),
        (manifest_text(paper="?").replace('"?"', '"\\ud800"').encode(), "hex escape"),
        (manifest_text(paper="?").replace('"?"', '"\n"').encode(), "control character"),
        (manifest_text().encode() + b"{}", "invalid JSON"),
        (manifest_text().encode()[:-1] + b",}", "invalid JSON"),
        (b"/**/" + manifest_text().encode(), "invalid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"{" * 100_000, "invalid JSON"),
        (b"null", "should be an object"),
        (b"", "invalid JSON"),
    ],
)
def test_text_that_is_not_plain_json_is_refused(path: Path, text: bytes, message: str) -> None:
    refuse(path, with_manifest(text), "manifest.json", message)


# NPY


def with_array(content: bytes) -> bytes:
    manifest, contents = valid()
    manifest["maps"][0] |= size_and_digest(content)
    return bundle(members(manifest, [content, *contents[1:]]))


def array_file(header: str, version: bytes = b"\1\0", more: int = 0, values: bytes = bytes(256)) -> bytes:
    text = header.encode() + b" " * 10 + b"\n"
    length = (len(text) + more).to_bytes(2 if version == b"\1\0" else 4, "little")
    return b"\x93NUMPY" + version + length + text + values


PLAIN = "{'descr': '<f4', 'fortran_order': False, 'shape': (8, 8), }"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (array_file(PLAIN, more=-1), "not a .npy file"),  # NumPy accepts it, and reads values from another offset
        (array_file(PLAIN, more=1), "not a .npy file"),
        (array_file(PLAIN, more=60_000), "not a .npy file"),
        (array_file(PLAIN, values=b"")[:-3], "not a .npy file"),
        (array_file(PLAIN, more=3, values=b""), "EOF"),  # ends before its header does
        (array_file(PLAIN + " " * 5000), "not a .npy file"),
        (array_file(PLAIN, b"\2\0"), "not a .npy file"),
        (array_file(PLAIN, b"\3\0"), "not a .npy file"),
        (array_file(PLAIN, values=bytes(257)), "differs from the length"),
        (array_file(PLAIN, values=bytes(255)), "differs from the length"),
        (array_file(PLAIN.replace("<", ">")), "not a .npy file"),
        (array_file(PLAIN.replace("f4", "i4")), "not a .npy file"),
        (array_file(PLAIN.replace("f4", "f2")), "differs from the length"),
        (array_file(PLAIN.replace("False", "True")), "not a .npy file"),
        (array_file(PLAIN.replace("(8, 8)", "(64,)")), "not a .npy file"),
        (array_file(PLAIN.replace("(8, 8)", "(1, 8, 8)")), "not a .npy file"),
        (array_file(PLAIN.replace("(8, 8)", "(0, 8)"), values=b""), "not a .npy file"),
        (array_file(PLAIN.replace("(8, 8)", "(100000, 1)"), values=bytes(400_000)), "not a .npy file"),
        (array_file(PLAIN.replace("(8, 8)", "(99999, 99999)")), "differs from the length"),
        (array_file(PLAIN.replace("{", "{'shape': (1, 1), ")), "not a .npy file"),
    ],
)
def test_an_array_that_numpy_may_read_differently_is_refused(path: Path, content: bytes, message: str) -> None:
    refuse(path, with_array(content), FIRST_MAP, message)


def test_an_array_with_another_padding_is_read(path: Path) -> None:
    values = np.arange(64, dtype="<f4").reshape(8, 8)
    content = array_file(PLAIN, values=values.tobytes())
    np.testing.assert_array_equal(np.load(io.BytesIO(content)), values)
    np.testing.assert_array_equal(read(path, with_array(content))[1][0], values)
