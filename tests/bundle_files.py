"""Small bundles, built member by member: tests change them at any level and fix what depends on the change."""

import gzip
import hashlib
import io
import json
import tarfile
from typing import Any

import numpy as np

Members = list[tuple[tarfile.TarInfo, bytes]]


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def size_and_digest(content: bytes) -> dict[str, Any]:
    """What the manifest lists of a member. After a change, an attacker computes it again."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def valid() -> tuple[dict[str, Any], list[bytes]]:
    """The manifest and the maps of a bundle: two seeds of four images, maps of 8 x 8."""
    maps = np.random.default_rng(0).random((2, 4, 8, 8), dtype=np.float32)
    images = [f"screw/test/{name}" for name in ("good/000", "good/001", "hole/000", "hole/001")]
    entries, contents = [], []
    for seed in (0, 1):
        for image, anomaly_map in zip(images, maps[seed], strict=True):
            contents.append(npy(anomaly_map))
            entry = {"image": image, "seed": seed, "score": float(anomaly_map.max())}
            entries.append(entry | size_and_digest(contents[-1]))
    conventions = {
        "image_auroc": "folder label",
        "pixel_auroc": "native size",
        "aupro": "pooled, FPR<=0.3, native size",
    }
    claims = [
        {"category": "screw", "metric": metric, "convention": convention, "seed": seed, "value": 0.5}
        for seed in (0, 1)
        for metric, convention in conventions.items()
    ]
    manifest = {
        "format": "proctor-bundle", "schema": 1, "name": "fuzz", "method": "m", "variant": "m", "dataset": "mvtec_ad",
        "protocol": "one_class", "licence": "MIT", "contact": "me", "budget": {"epochs": 1},
        "runs": [{"split": "screw", "seed": 0}], "maps": entries, "claims": claims,
    }  # fmt: skip
    return manifest, contents


def members(manifest: dict[str, Any] | bytes, contents: list[bytes]) -> Members:
    """The members in order. A manifest given as bytes lists, or should list, the maps of `valid`."""
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    entries = valid()[0]["maps"] if isinstance(manifest, bytes) else manifest["maps"]
    names = ["manifest.json", *(f"maps/seed{entry['seed']}/{entry['image']}.npy" for entry in entries)]
    return [(member(name, len(content)), content) for name, content in zip(names, [text, *contents], strict=True)]


def member(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    return info


def header(info: tarfile.TarInfo) -> bytes:
    """The ustar header of a member, with values that the tarfile module would not write in this format."""
    try:
        return info.tobuf(tarfile.USTAR_FORMAT)
    except ValueError:  # a size that is negative or needs base-256
        return with_checksum(replace(info.tobuf(tarfile.GNU_FORMAT)[-512:], 257, tarfile.POSIX_MAGIC))


def replace(block: bytes, offset: int, field: bytes) -> bytes:
    return block[:offset] + field + block[offset + len(field) :]


def with_checksum(block: bytes) -> bytes:
    total = sum(replace(block, 148, b" " * 8))
    return replace(block, 148, b"%06o\0 " % total)


def tar(entries: Members) -> bytes:
    parts = [header(info) + content + bytes(-len(content) % 512) for info, content in entries]
    return b"".join(parts) + bytes(1024)


def bundle(entries: Members) -> bytes:
    return gzip.compress(tar(entries), 1, mtime=0)
