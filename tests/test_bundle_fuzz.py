"""Hostile bundles: whatever is changed, the answer is a refusal that names the member, or the right values."""

import gzip
import hashlib
import io
import json
import os
import pickle
import random
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from benchmarks import verify
from methods.base import InputError

EACH = 150  # mutants of each kind
NASTY_NAMES = (
    "../evil", "/tmp/evil", "maps/../../evil", "", ".", "..", "./manifest.json", "C:\\evil", "evil\x00", "\x1b[31m",
    "[/]", "maps/seed0", "m" * 99, "-rf", "~/evil", "a/" * 49, "manifest.json\n", "MANIFEST.JSON", "é.npy",
)  # fmt: skip
NASTY_VALUES = (
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
Members = list[tuple[tarfile.TarInfo, bytes]]


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


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def honest() -> tuple[dict[str, Any], list[bytes]]:
    maps = np.random.default_rng(0).random((2, 4, 8, 8), dtype=np.float32)
    images = [f"screw/test/{name}" for name in ("good/000", "good/001", "hole/000", "hole/001")]
    listed, contents = [], []
    for seed in (0, 1):
        for image, one in zip(images, maps[seed], strict=True):
            contents.append(npy(one))
            listed.append({"image": image, "seed": seed, "score": float(one.max())} | hashes(contents[-1]))
    texts = {"image_auroc": "folder label", "pixel_auroc": "native size", "aupro": "pooled, FPR<=0.3, native size"}
    claims = [
        {"category": "screw", "metric": metric, "convention": text, "seed": seed, "value": 0.5}
        for seed in (0, 1)
        for metric, text in texts.items()
    ]
    about = {"name": "fuzz", "method": "m", "variant": "m", "dataset": "mvtec_ad", "protocol": "one_class"}
    about |= {"licence": "MIT", "contact": "me", "budget": {"epochs": 1}, "runs": [{"split": "screw", "seed": 0}]}
    return {"format": "proctor-bundle", "schema": 1, **about, "maps": listed, "claims": claims}, contents


def hashes(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def members(manifest: dict[str, Any] | bytes, contents: list[bytes]) -> Members:
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    listed = honest()[0]["maps"] if isinstance(manifest, bytes) else manifest["maps"]
    names = ["manifest.json", *(f"maps/seed{entry['seed']}/{entry['image']}.npy" for entry in listed)]
    return [(info(name, len(content)), content) for name, content in zip(names, [text, *contents], strict=True)]


def info(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    return member


def tar(entries: Members) -> bytes:
    """Headers as they are, even such as the tarfile module would not write."""
    parts = [
        header.tobuf(tarfile.GNU_FORMAT)[-512:] + content + bytes(-len(content) % 512) for header, content in entries
    ]
    return b"".join(parts) + bytes(1024)


def packed(entries: Members) -> bytes:
    return gzip.compress(tar(entries), 1, mtime=0)


# Each kind of change: from randomness to the bytes of a mutant.


def flipped_bits(rng: random.Random) -> bytes:
    data = bytearray(packed(members(*honest())))
    for _ in range(rng.choice((1, 1, 3, 30))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def flipped_bits_of_the_archive(rng: random.Random) -> bytes:
    data = bytearray(tar(members(*honest())))
    for _ in range(rng.choice((1, 1, 3, 30))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return gzip.compress(bytes(data), 1)


def cut_or_extended(rng: random.Random) -> bytes:
    whole, inner = packed(members(*honest())), tar(members(*honest()))
    junk = rng.choice((b"\0", b"x", rng.randbytes(600), bytes(2_000_000), whole))
    return rng.choice(
        (whole[: rng.randrange(len(whole))], gzip.compress(inner[: rng.randrange(len(inner))], 1), whole + junk,
         gzip.compress(inner + junk, 1), rng.randbytes(rng.randrange(3000)), gzip.compress(whole), inner)
    )  # fmt: skip


def renamed_members(rng: random.Random) -> bytes:
    entries = members(*honest())
    rng.choice(entries)[0].name = rng.choice(NASTY_NAMES)
    return packed(entries)


def members_of_another_type(rng: random.Random) -> bytes:
    entries = members(*honest())
    header = rng.choice(entries)[0]
    header.type = rng.choice(
        (b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"L", b"K", b"S", b"x", b"g", b"X", b"\xff", b"\0")
    )
    header.linkname = rng.choice(("", "/etc/passwd", "../evil", "manifest.json"))
    return packed(entries)


def declared_sizes(rng: random.Random) -> bytes:
    entries = members(*honest())
    header = rng.choice(entries)[0]
    header.size = rng.choice((0, 1, header.size - 1, header.size + 1, 8**11 - 1, 2**62, -1, -(2**62), 1 << 20))
    return packed(entries)


def reordered_members(rng: random.Random) -> bytes:
    entries = members(*honest())
    at, to = rng.randrange(len(entries)), rng.randrange(len(entries))
    change = rng.choice(("twice", "dropped", "swapped", "added"))
    if change == "twice":
        entries.insert(to, entries[at])
    elif change == "dropped":
        del entries[at]
    elif change == "swapped":
        entries[at], entries[to] = entries[to], entries[at]
    else:
        entries.insert(to, (info(rng.choice(NASTY_NAMES), 3), b"abc"))
    return packed(entries)


def values_of_the_manifest(rng: random.Random) -> bytes:
    manifest, contents = honest()
    places = list(_places(manifest))
    for _ in range(rng.choice((1, 1, 2))):
        holder, key = rng.choice(places)
        holder[key] = "@@"
    text = json.dumps(manifest)
    while '"@@"' in text:
        text = text.replace('"@@"', rng.choice(NASTY_VALUES), 1)
    return packed(members(text.encode(), contents))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def fields_of_the_manifest(rng: random.Random) -> bytes:
    manifest, contents = honest()
    holder = rng.choice([manifest, *manifest["maps"], *manifest["claims"], *manifest["runs"]])
    key = rng.choice(list(holder))
    change = rng.choice(("dropped", "added", "renamed"))
    if change != "added":
        value = holder.pop(key)
    if change != "dropped":
        holder[rng.choice(("__class__", "path", "\x1b", key + " ", "../x"))] = (
            value if change == "renamed" else rng.random()
        )
    return packed(members(json.dumps(manifest).encode(), contents))


def lists_of_the_manifest(rng: random.Random) -> bytes:
    manifest, contents = honest()
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
    return packed(members(json.dumps(manifest).encode(), contents))


def text_of_the_manifest(rng: random.Random) -> bytes:
    manifest, contents = honest()
    text = json.dumps(manifest).encode()
    at = rng.randrange(len(text))
    text = rng.choice(
        (text[:at], text[:at] + rng.randbytes(rng.randrange(1, 5)) + text[at:], b"\xef\xbb\xbf" + text,
         text.decode().encode("utf-16"), text + text, b"[" * 100_000, b'{"a":' * 50_000, pickle.dumps(manifest), b"",
         b"null", b"0" * 9999, b'{"maps":' + text + b"}")
    )  # fmt: skip
    return packed(members(text, contents))


def headers_of_maps(rng: random.Random) -> bytes:
    manifest, contents = honest()
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
    manifest["maps"][at] |= hashes(contents[at])
    return packed(members(manifest, contents))


def contents_of_maps(rng: random.Random) -> bytes:
    manifest, contents = honest()
    at = rng.randrange(len(contents))
    one = np.load(io.BytesIO(contents[at]))
    one.flat[rng.randrange(64)] = rng.choice((np.nan, np.inf, -np.inf, 3e38, -3e38, 1e29, 0.0, -0.0, 1e-45))
    half, zeros = one.clip(-1e4, 1e4).astype(np.float16), np.zeros((8, 8), np.float32)
    content = rng.choice(
        (npy(one), npy(one), npy(one), npy(half), npy(zeros), npy(one[:4]), npy(one.astype(np.float64)), npy(one > 0),
         pickle.dumps(one), npy(one)[:-1], npy(one) + b"x", b"\0", rng.randbytes(384))
    )  # fmt: skip
    contents[at] = content
    if rng.random() < 0.8:
        manifest["maps"][at] |= hashes(content)
    return packed(members(manifest, contents))


def forged_numbers(rng: random.Random) -> bytes:
    manifest, contents = honest()
    for entry in manifest["maps"]:
        entry["score"] = rng.choice((entry["score"], 0.5, -1e300, 1e300, 5e-324, float("nan"), float("inf"), 0))
    for claim in manifest["claims"]:
        claim["value"] = rng.choice((0, 1, 0.5, 1e-320, rng.random()))
        claim["convention"] = rng.choice((claim["convention"], *OTHER_CONVENTIONS))
    return packed(members(manifest, contents))


MUTATIONS: list[Callable[[random.Random], bytes]] = [
    flipped_bits,
    flipped_bits_of_the_archive,
    cut_or_extended,
    renamed_members,
    members_of_another_type,
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
WATCHED: list[str] | None = None  # what a verification did that it must not; None: not looking


def _watch(event: str, arguments: tuple) -> None:
    if WATCHED is None or event in ("os.listdir", "os.scandir"):
        return
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    if event.startswith(("pickle.", "subprocess.", "socket.", "os.", "shutil.", "ctypes.")) or (
        event == "open" and isinstance(arguments[2], int) and arguments[2] & writes
    ):
        WATCHED.append(f"{event} {arguments}")


def expected(path: Path, seed: int) -> dict[str, float]:
    """What the maps of a bundle give by scikit-learn, read in the plain way; by metric."""
    with tarfile.open(path) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))
        listed = [entry for entry in manifest["maps"] if entry["seed"] == seed]
        files = [tar.extractfile(f"maps/seed{seed}/{entry['image']}.npy").read() for entry in listed]
    maps = np.stack([np.load(io.BytesIO(content), allow_pickle=False) for content in files])
    labels = np.array(["/hole/" in entry["image"] for entry in listed])
    masks = np.zeros(maps.shape, bool)
    masks[labels, :3, :3] = True  # true of maps of the masks' size
    return {
        "image_auroc": roc_auc_score(labels, [entry["score"] for entry in listed]),
        "pixel_auroc": roc_auc_score(masks.ravel(), maps.ravel()),
    }


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_a_mutant_is_refused_or_scored_right(
    mutate: Callable[[random.Random], bytes], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    global WATCHED
    monkeypatch.chdir(tmp_path)
    path, refused, scored = tmp_path / "x.tar.gz", 0, 0
    for number in range(EACH):
        path.write_bytes(mutate(random.Random(f"{mutate.__name__} {number}")))
        WATCHED = []
        try:
            report = verify.verify(path, root)
        except InputError as error:
            refused += 1
            assert str(error).startswith("x.tar.gz: ") or "data set" in str(error) or "category" in str(error), error
            assert len(str(error)) < 600
            continue
        finally:
            did, WATCHED = WATCHED, None
        assert not did, did
        for value in report.values:
            if value.recomputed is not None and value.claim.convention in ("folder label", "native size"):
                scored += 1
                right = expected(path, value.claim.seed)[value.claim.metric]
                assert value.recomputed == pytest.approx(right), (number, value)
    assert refused + scored > 0
    assert os.listdir(tmp_path) == ["x.tar.gz"]


def test_the_honest_bundle_is_scored(root: Path, tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(packed(members(*honest())))
    report = verify.verify(tmp_path / "x.tar.gz", root)
    assert not report.faults
    assert all(value.recomputed is not None for value in report.values)


def test_at_least_two_thousand_mutants_are_tried() -> None:
    assert len(MUTATIONS) * EACH >= 2000


sys.addaudithook(_watch)
