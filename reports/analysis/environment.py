"""The software and hardware of runs: whether the runs of a table were made in one environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.records import Record
from reports.vocabulary import shared

PACKAGES = {"torch": "torch", "timm": "timm", "numpy": "NumPy"}  # as records and as tables write them


class Environment(NamedTuple):
    """What differs between runs, by name ("torch", "device"), with the values of each variant."""

    severe: Mapping[str, str]  # major versions or kinds of device: a finding
    minor: Mapping[str, str]  # minor versions: a notice in captions


def compare(records: Sequence[Record]) -> Environment:
    """Compare the environments of these runs; what a record does not state is left out."""
    severe, minor = {}, {}
    for package, title in PACKAGES.items():
        stated = {i: record.provenance.versions.get(package) for i, record in enumerate(records)}
        versions = {i: str(version) for i, version in stated.items() if version}
        values = {i: _minor(version) for i, version in versions.items()}
        if len({_major(version) for version in versions.values()}) > 1:
            severe[title] = _by_variant(records, values)
        elif len(set(values.values())) > 1:
            minor[title] = _by_variant(records, values)
    kinds = {i: device_kind(r.provenance.device) for i, r in enumerate(records) if r.provenance.device}
    if len(set(kinds.values())) > 1:
        severe["device"] = _by_variant(records, kinds)
    return Environment(severe, minor)


def notice(records: Sequence[Record]) -> list[str]:
    """The sentence of a caption on what differs between its runs; none if nothing does."""
    severe, minor = compare(records)
    parts = [f"{name} ({values})" for name, values in {**severe, **minor}.items()]
    return [f"Runs were made in different environments: {', '.join(parts)}."] if parts else []


def device_kind(device: str) -> str:
    """CPU or CUDA, from a record's `device`.

    >>> device_kind("x86_64 CPU, 2 cores"), device_kind("NVIDIA H100 80GB HBM3")
    ('CPU', 'CUDA')
    """
    return "CPU" if "cpu" in device.lower() else "CUDA"


def _major(version: str) -> str:
    return version.split(".")[0]


def _minor(version: str) -> str:
    """Major and minor version: "2.15" of "2.15.0+cu130"."""
    return ".".join(version.split(".")[:2])


def _by_variant(records: Sequence[Record], values: Mapping[int, str]) -> str:
    """The values of each variant, as text."""
    of_variant: dict[str, set[str]] = {}
    for i, value in values.items():
        of_variant.setdefault(records[i].variant, set()).add(value)
    return shared({variant: " and ".join(sorted(names)) for variant, names in sorted(of_variant.items())})
