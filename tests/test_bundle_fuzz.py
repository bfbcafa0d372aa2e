"""Malicious bundles: any change is refused with the name of the member, or other software computes the same values."""

import gzip
import io
import json
import os
import pickle
import random
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from bundle_files import bundle, header, member, members, npy, size_and_digest, tar, valid, with_checksum
from PIL import Image
from sklearn.metrics import roc_auc_score

from benchmarks.submissions import verify
from benchmarks.submissions.reader import BundleReader
from methods.base import InputError

MUTANTS = int(os.environ.get("PROCTOR_FUZZ", 150))  # of each kind
UNUSUAL_NAMES = (
    "../evil", "/tmp/evil", "maps/../../evil", "", ".", "..", "./manifest.json", "C:\\evil", "evil\x00", "\x1b[31m",
    "[/]", "maps/seed0", "m" * 99, "-rf", "~/evil", "a/" * 49, "manifest.json\n", "MANIFEST.JSON", "é.npy",
)  # fmt: skip
UNUSUAL_VALUES = (
    "NaN", "Infinity", "-Infinity", "1e999", "-1", "0", "1" * 30, "1" * 5000, "1.5", "true", "null", '""', "[]", "{}",
    "[[]]",
    '"../../evil"', '"/etc/passwd"', '"\\u0000"', '"\\ud800"', '"<script>alert(1)</script>"', '"\\u202e"', '"[/]"',
    "[" * 300 + "]" * 300, '{"a":' * 300 + "1" + "}" * 300, json.dumps("x" * 100_000), "[" + "0," * 5000 + "0]",
    '"maps/seed0/screw/test/good/000.npy"', "9007199254740993", '"screw"', '"image_auroc"', '"folder label"',
)  # fmt: skip
OTHER_CONVENTIONS = (
    "rescaled, FPR<=0.3, mask>0 not antialiased, 256 px",
    "per_image, FPR<0.3, mask>0.5, 256 px",
    "saturated, FPR<=0.05, native size",
    "mask>0.5, 256 px",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two normal and two anomalous test images of 8 x 8 pixels."""
    root = tmp_path_factory.mktemp("data")
    mask = np.zeros((8, 8), np.uint8)
    mask[:3, :3] = 255
    for name in ("test/good/000", "test/good/001", "test/hole/000", "test/hole/001"):
        for path in (
            root / "screw" / f"{name}.png",
            root / "screw" / "ground_truth" / "hole" / f"{name[-3:]}_mask.png",
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path)
    return root


# The kinds of change. Each returns the bytes of a changed bundle.


def flipped_bits(rng: random.Random) -> bytes:
    data = bytearray(bundle(members(*valid())))
    for _ in range(rng.choice((1, 1, 3, 30))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def flipped_bits_of_the_archive(rng: random.Random) -> bytes:
    data = bytearray(tar(members(*valid())))
    for _ in range(rng.choice((1, 1, 3, 30))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return gzip.compress(bytes(data), 1)


def cut_or_extended(rng: random.Random) -> bytes:
    whole, inner = bundle(members(*valid())), tar(members(*valid()))
    junk = rng.choice((b"\0", b"x", rng.randbytes(600), bytes(2_000_000), whole))
    return rng.choice(
        (whole[: rng.randrange(len(whole))], gzip.compress(inner[: rng.randrange(len(inner))], 1), whole + junk,
         gzip.compress(inner + junk, 1), rng.randbytes(rng.randrange(3000)), gzip.compress(whole), inner)
    )  # fmt: skip


def renamed_members(rng: random.Random) -> bytes:
    entries = members(*valid())
    rng.choice(entries)[0].name = rng.choice(UNUSUAL_NAMES)
    return bundle(entries)


def members_of_another_type(rng: random.Random) -> bytes:
    entries = members(*valid())
    header = rng.choice(entries)[0]
    header.type = rng.choice(
        (b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"L", b"K", b"S", b"x", b"g", b"X", b"\xff", b"\0")
    )
    header.linkname = rng.choice(("", "/etc/passwd", "../evil", "manifest.json"))
    return bundle(entries)


def headers_with_a_correct_checksum(rng: random.Random) -> bytes:
    entries = members(*valid())
    at = rng.randrange(len(entries))
    block = bytearray(header(entries[at][0]))
    for _ in range(rng.choice((1, 1, 2))):
        offset = rng.choice((rng.randrange(512), rng.randrange(110), rng.randrange(124, 136), rng.randrange(156, 160),
                             rng.randrange(257, 265), rng.randrange(345, 500)))  # fmt: skip
        block[offset] = rng.choice((0, rng.randrange(256), *b"/ ._+-0178x"))
    before, after = tar(entries[:at])[:-1024], tar(entries[at:])[512:]
    return gzip.compress(before + with_checksum(bytes(block)) + after, 1)


def declared_sizes(rng: random.Random) -> bytes:
    entries = members(*valid())
    header = rng.choice(entries)[0]
    header.size = rng.choice((0, 1, header.size - 1, header.size + 1, 8**11 - 1, 2**62, -1, -(2**62), 1 << 20))
    return bundle(entries)


def reordered_members(rng: random.Random) -> bytes:
    entries = members(*valid())
    at, to = rng.randrange(len(entries)), rng.randrange(len(entries))
    change = rng.choice(("twice", "dropped", "swapped", "added"))
    if change == "twice":
        entries.insert(to, entries[at])
    elif change == "dropped":
        del entries[at]
    elif change == "swapped":
        entries[at], entries[to] = entries[to], entries[at]
    else:
        entries.insert(to, (member(rng.choice(UNUSUAL_NAMES), 3), b"abc"))
    return bundle(entries)


def values_of_the_manifest(rng: random.Random) -> bytes:
    manifest, contents = valid()
    fields = list(_fields(manifest))
    for _ in range(rng.choice((1, 1, 2))):
        container, key = rng.choice(fields)
        container[key] = "@@"
    text = json.dumps(manifest)
    while '"@@"' in text:
        text = text.replace('"@@"', rng.choice(UNUSUAL_VALUES), 1)
    return bundle(members(text.encode(), contents))


def _fields(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _fields(value[key])


def fields_of_the_manifest(rng: random.Random) -> bytes:
    manifest, contents = valid()
    container = rng.choice([manifest, *manifest["maps"], *manifest["claims"], *manifest["runs"]])
    key = rng.choice(list(container))
    change = rng.choice(("dropped", "added", "renamed"))
    if change != "added":
        value = container.pop(key)
    if change != "dropped":
        container[rng.choice(("__class__", "path", "\x1b", key + " ", "../x"))] = (
            value if change == "renamed" else rng.random()
        )
    return bundle(members(json.dumps(manifest).encode(), contents))


def lists_of_the_manifest(rng: random.Random) -> bytes:
    manifest, contents = valid()
    entries = manifest[rng.choice(("maps", "claims"))]
    change = rng.choice(("twice", "dropped", "shuffled", "emptied", "many"))
    if change == "twice":
        entries.append(dict(rng.choice(entries)))
    elif change == "dropped":
        del entries[rng.randrange(len(entries))]
    elif change == "shuffled":
        rng.shuffle(entries)
    elif change == "emptied":
        entries.clear()
    else:
        entries += [entries[0] | {"seed": seed} for seed in range(2, 150)]
    return bundle(members(json.dumps(manifest).encode(), contents))


def text_of_the_manifest(rng: random.Random) -> bytes:
    manifest, contents = valid()
    text = json.dumps(manifest).encode()
    at = rng.randrange(len(text))
    text = rng.choice(
        (text[:at], text[:at] + rng.randbytes(rng.randrange(1, 5)) + text[at:], b"\xef\xbb\xbf" + text,
         text.decode().encode("utf-16"), text + text, b"[" * 100_000, b'{"a":' * 50_000, pickle.dumps(manifest), b"",
         b"null", b"0" * 9999, b'{"maps":' + text + b"}")
    )  # fmt: skip
    return bundle(members(text, contents))


def headers_of_maps(rng: random.Random) -> bytes:
    manifest, contents = valid()
    at = rng.randrange(len(contents))
    pixels = contents[at][-256:]
    header = rng.choice(
        (
            "{'descr': '|O', 'fortran_order': False, 'shape': (8, 8), }",
            "{'descr': '<f4', 'fortran_order': True, 'shape': (8, 8), }",
            "{'descr': '>f4', 'fortran_order': False, 'shape': (8, 8), }",
            "{'descr': '<f8', 'fortran_order': False, 'shape': (8, 4), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999, 99999), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999, 9999999999), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 0), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-8, -8), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (64,), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 8, 8), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 16), }",
            "{'descr': '<f2', 'fortran_order': False, 'shape': (8, 16), }",
            "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (8, 8), }",
            "{'descr': __import__('os').system('touch evil'), 'fortran_order': False, 'shape': (8, 8), }",
            "(" * 5000,
            "-" * 5000 + "1",
        )
    )
    version = rng.choice((b"\1\0", b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\x99\0"))
    text = header.encode() + b" " * rng.randrange(64) + b"\n"
    contents[at] = b"\x93NUMPY" + version + len(text).to_bytes(2 if version == b"\1\0" else 4, "little") + text + pixels
    manifest["maps"][at] |= size_and_digest(contents[at])
    return bundle(members(manifest, contents))


def contents_of_maps(rng: random.Random) -> bytes:
    manifest, contents = valid()
    at = rng.randrange(len(contents))
    anomaly_map = np.load(io.BytesIO(contents[at]))
    anomaly_map.flat[rng.randrange(64)] = rng.choice((np.nan, np.inf, -np.inf, 3e38, -3e38, 1e29, 0.0, -0.0, 1e-45))
    half, zeros = anomaly_map.clip(-1e4, 1e4).astype(np.float16), np.zeros((8, 8), np.float32)
    content = rng.choice(
        (npy(anomaly_map), npy(anomaly_map), npy(anomaly_map), npy(half), npy(zeros), npy(anomaly_map[:4]),
         npy(anomaly_map.astype(np.float64)), npy(anomaly_map > 0), pickle.dumps(anomaly_map), npy(anomaly_map)[:-1],
         npy(anomaly_map) + b"x", b"\0", rng.randbytes(384))
    )  # fmt: skip
    contents[at] = content
    if rng.random() < 0.8:
        manifest["maps"][at] |= size_and_digest(content)
    return bundle(members(manifest, contents))


def forged_numbers(rng: random.Random) -> bytes:
    manifest, contents = valid()
    for entry in manifest["maps"]:
        entry["score"] = rng.choice((entry["score"], 0.5, -1e300, 1e300, 5e-324, float("nan"), float("inf"), 0))
    for claim in manifest["claims"]:
        claim["value"] = rng.choice((0, 1, 0.5, 1e-320, rng.random()))
        claim["convention"] = rng.choice((claim["convention"], *OTHER_CONVENTIONS))
    return bundle(members(manifest, contents))


MUTATIONS: list[Callable[[random.Random], bytes]] = [
    flipped_bits,
    flipped_bits_of_the_archive,
    cut_or_extended,
    renamed_members,
    members_of_another_type,
    headers_with_a_correct_checksum,
    declared_sizes,
    reordered_members,
    values_of_the_manifest,
    fields_of_the_manifest,
    lists_of_the_manifest,
    text_of_the_manifest,
    headers_of_maps,
    contents_of_maps,
    forged_numbers,
]
FORBIDDEN: list[str] | None = None  # what a verification did that it must not do; None: not recorded


def _record_forbidden(event: str, arguments: tuple) -> None:
    if FORBIDDEN is None or event in ("os.listdir", "os.scandir"):
        return
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    if event.startswith(("pickle.", "subprocess.", "socket.", "os.", "shutil.", "ctypes.")) or (
        event == "open" and isinstance(arguments[2], int) and arguments[2] & writes
    ):
        FORBIDDEN.append(f"{event} {arguments}")


class Content(NamedTuple):
    """What other software than ours reads from a bundle."""

    manifest: dict[str, Any]
    maps: list[np.ndarray]

    def values(self, seed: int) -> dict[str, float]:
        """The metrics of a seed by scikit-learn, with the masks of the fixture `root`."""
        listed = [i for i, entry in enumerate(self.manifest["maps"]) if entry["seed"] == seed]
        images = [self.manifest["maps"][i] for i in listed]
        maps = np.stack([self.maps[i] for i in listed])
        labels = np.array(["/hole/" in entry["image"] for entry in images])
        masks = np.zeros(maps.shape, bool)
        masks[labels, :3, :3] = True
        return {
            "image_auroc": roc_auc_score(labels, [entry["score"] for entry in images]),
            "pixel_auroc": roc_auc_score(masks.ravel(), maps.ravel()),
        }


def read_by_others(path: Path) -> Content:
    with tarfile.open(path) as archive:
        manifest = json.load(archive.extractfile("manifest.json"))
        names = [f"maps/seed{entry['seed']}/{entry['image']}.npy" for entry in manifest["maps"]]
        contents = [io.BytesIO(archive.extractfile(name).read()) for name in names]
    return Content(manifest, [np.load(content, allow_pickle=False) for content in contents])


def assert_read_the_same(path: Path, other: Content) -> None:
    with path.open("rb") as file:
        reader = BundleReader(file, path)
        manifest = reader.read_manifest()
        for entry, expected in zip(manifest.maps, other.maps, strict=True):
            anomaly_map = reader.read_map(entry)
            assert anomaly_map.dtype == expected.dtype
            np.testing.assert_array_equal(anomaly_map, expected)
    assert manifest.model_dump(by_alias=True, exclude_unset=True) == other.manifest


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_a_mutant_is_refused_or_read_as_other_software_reads_it(
    mutate: Callable[[random.Random], bytes], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    global FORBIDDEN
    monkeypatch.chdir(tmp_path)
    path, refused, scored = tmp_path / "x.tar.gz", 0, 0
    for number in range(MUTANTS):
        path.write_bytes(mutate(random.Random(f"{mutate.__name__} {number}")))
        FORBIDDEN = []
        try:
            report = verify.verify(path, root)
        except InputError as error:
            refused += 1
            assert str(error).startswith("x.tar.gz: ") or "data set" in str(error) or "category" in str(error), error
            assert len(str(error)) < 600
            continue
        finally:
            forbidden, FORBIDDEN = FORBIDDEN, None
        assert not forbidden, forbidden
        other = read_by_others(path)
        assert_read_the_same(path, other)
        for value in report.values:
            if value.recomputed is not None and value.claim.convention in ("folder label", "native size"):
                scored += 1
                expected = other.values(value.claim.seed)[value.claim.metric]
                assert value.recomputed == pytest.approx(expected), (number, value)
    assert refused + scored > 0
    assert os.listdir(tmp_path) == ["x.tar.gz"]


def test_the_unchanged_bundle_is_scored(root: Path, tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(bundle(members(*valid())))
    report = verify.verify(tmp_path / "x.tar.gz", root)
    assert not report.images
    assert all(value.recomputed is not None for value in report.values)


sys.addaudithook(_record_forbidden)
