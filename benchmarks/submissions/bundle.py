"""Writes a submission as one file: anomaly maps, image scores and claimed values, for anyone to score again.

`benchmarks/submission.py` says what is in it. Equal records give equal bytes: no clock, user or path enters, and every
order is fixed.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Iterable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from benchmarks import results
from benchmarks.arrays import Predictions
from benchmarks.records import Record as StoredRecord
from benchmarks.scoring import summary
from benchmarks.submissions.schema import FORMAT, MANIFEST, Manifest, Map, Record, Submission, Value, Weights, complaint
from methods.base import InputError

LEVEL = 1  # of compression: the highest saves 1 % more of float32 maps


def write(
    target: Path, names: Sequence[str], about: dict[str, Any], weights: Sequence[Path] = ()
) -> tuple[Manifest, str]:
    """Write the bundle of some stored and scored runs.

    Args:
        target: the file, `x.tar.gz`.
        names: groups (`VARIANT-DATASET-PROTOCOL`, all their runs) or runs (`GROUP/SPLIT-seedK`), of one group.
        about: `licence`, `contact` and, if wanted, `name` and `url`.
        weights: `.safetensors` files to put in.

    Returns:
        The manifest, and the SHA-256 of the bundle.

    Raises:
        InputError: a run is absent, damaged, not scored as it is, or of another experiment than the first; or a field
            has characters that a bundle does not take.
    """
    folders = _folders(names)
    loaded = [_load(folder) for folder in folders]
    records = [record for record, _ in loaded]
    _refuse_mixed(folders, records)
    maps = [
        (describe(record.seed, key, float(score), one), one)
        for record, predictions in loaded
        for keys, scores, of_category in predictions.values()
        for key, score, one in zip(keys, scores, of_category, strict=True)
    ]
    maps.sort(key=lambda pair: pair[0].place)
    weights = sorted(weights, key=lambda path: path.name)
    claims = _claims(folders[0].parent.name, records)
    manifest = _manifest(about, records, claims, [entry for entry, _ in maps], [_weights(path) for path in weights])
    return manifest, pack(target, manifest, [one for _, one in maps], weights)


def describe(seed: int, key: str, score: float, one: np.ndarray) -> Map:
    """The manifest's entry of a map (h, w).

    Raises:
        InputError: the image's key has characters that a bundle does not take.
    """
    content = _npy(one)
    digest = hashlib.sha256(content).hexdigest()
    try:
        return Map(image=key, seed=seed, score=score, bytes=len(content), sha256=digest)
    except ValidationError as error:
        raise InputError(f"{key}: cannot be named in a bundle: {complaint(error)}. Rename the image.") from None


def pack(target: Path, manifest: Manifest, maps: Iterable[np.ndarray], weights: Sequence[Path] = ()) -> str:
    """Write a bundle, whole or not at all; returns its SHA-256. `maps` and `weights` are in the manifest's order."""
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with (
            partial.open("wb") as file,
            gzip.GzipFile("", "wb", LEVEL, file, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            _add(tar, MANIFEST, manifest.model_dump_json(indent=1, by_alias=True).encode() + b"\n")
            for entry, one in zip(manifest.maps, maps, strict=True):
                _add(tar, entry.member, _npy(one))
            for of_weights, path in zip(manifest.weights, weights, strict=True):
                _add(tar, of_weights.member, path.read_bytes())
        digest = sha256(partial)
        partial.replace(target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error}). Choose another place, or make room.") from None
    finally:
        partial.unlink(missing_ok=True)
    return digest


def record(
    manifest: Manifest, bundle: Path, digest: str, on: str | None = None, data_revision: str | None = None
) -> Record:
    """The record of a bundle for the board, with the values as claimed.

    Args:
        digest: SHA-256 of the bundle.
        on: its date, YYYY-MM-DD; None: today.
        data_revision: of the data on which the values were recomputed; None: they were not.

    Raises:
        InputError: the bundle's file name or the date does not do.
    """
    try:
        return Record(
            **{name: getattr(manifest, name) for name in Submission.model_fields},
            schema=1,
            bundle=bundle.name,
            sha256=digest,
            seeds=sorted({claim.seed for claim in manifest.claims}),
            metrics=manifest.claims,
            verified=data_revision is not None,
            proctor=version("proctor"),
            data_revision=data_revision,
            date=on or date.today().isoformat(),
        )
    except ValidationError as error:
        raise InputError(f"{bundle.name}: its record cannot say this: {complaint(error)}.") from None


def write_record(path: Path, entry: Record) -> None:
    results.write_json(path, entry.model_dump(by_alias=True))


def _folders(names: Sequence[str]) -> list[Path]:
    """The folders of runs, each once, in a fixed order."""
    found: set[Path] = set()
    for name in names:
        folder = results.RESULTS / "predictions" / name.rstrip("/")
        runs = {folder} if (folder / "record.json").is_file() else {p.parent for p in folder.glob("*/record.json")}
        if not runs:
            raise InputError(
                f"There is no finished run {name!r} in {results.RESULTS / 'predictions'}. Name a group "
                "(VARIANT-DATASET-PROTOCOL) or a run (GROUP/SPLIT-seedK); `proctor status` lists them."
            )
        found |= runs
    return sorted(found)


def _load(folder: Path) -> tuple[StoredRecord, dict[str, Predictions]]:
    try:
        return results.load(folder)
    except ValueError as error:
        raise InputError(f"{error}. Run `dvc repro` to make it again.") from None


def _refuse_mixed(folders: Sequence[Path], records: Sequence[StoredRecord]) -> None:
    """A bundle is one experiment: only split and seed differ between its runs."""
    for name in ("variant", "method", "dataset", "protocol", "selection", "teacher", "compute", "hyper_parameters"):
        for folder, entry in zip(folders, records, strict=True):
            if getattr(entry, name) != getattr(records[0], name):
                raise InputError(
                    f"{folder.parent.name}/{folder.name} has another {name} than "
                    f"{folders[0].parent.name}/{folders[0].name}; a bundle is one experiment. Write two bundles."
                )


def _claims(group: str, records: Sequence[StoredRecord]) -> list[Value]:
    """The scored values of these runs.

    Raises:
        InputError: a run has not been scored as it is now.
    """
    rows = summary.read_scores([group])
    claims = []
    for entry in records:
        of_run = rows[rows["fingerprint"] == entry.fingerprint]
        if set(of_run["category"]) != set(entry.categories):
            raise InputError(
                f"{results.RESULTS}/scores/{group}.csv does not hold the stored run {entry.stem}: `dvc repro` scores "
                "it."
            )
        for row in of_run[of_run["value"].notna()].to_dict("records"):
            claims.append(Value.model_validate({name: row[name] for name in Value.model_fields}))
    return sorted(claims, key=lambda claim: (claim.category, claim.seed))


def _manifest(
    about: dict[str, Any],
    records: Sequence[StoredRecord],
    claims: Sequence[Value],
    maps: Sequence[Map],
    weights: Sequence[Weights],
) -> Manifest:
    first = records[0]
    parameters = first.hyper_parameters
    budget = {name: parameters[name] for name in ("epochs", "batch_size", "image_size") if name in parameters}
    runs = [
        entry.model_dump(include={"split", "seed", "fingerprint", "fingerprint_parts", "data"})
        # The name of the host and of the job say nothing of the numbers, but may say something of the user.
        | {"environment": entry.provenance.model_dump(exclude={"host", "job"})}
        for entry in records
    ]
    try:
        return Manifest.model_validate(
            {
                "format": "proctor-bundle",
                "schema": 1,
                "name": first.variant,
                **about,
                **first.model_dump(include={"method", "variant", "dataset", "protocol", "selection"}),
                "teacher": first.teacher.model_dump(include={"name", "pretraining"}) if first.teacher else None,
                "budget": budget | {"precision": first.compute["precision"]},
                **first.model_dump(include={"hyper_parameters", "paper", "source", "deviations"}),
                "runs": runs,
                "claims": claims,
                "maps": maps,
                "weights": weights,
            }
        )
    except ValidationError as error:
        raise InputError(f"A bundle cannot say this: {complaint(error)}. {FORMAT} has the alphabets.") from None


def _weights(path: Path) -> Weights:
    try:
        return Weights(name=path.name, bytes=path.stat().st_size, sha256=sha256(path))
    except OSError as error:
        raise InputError(f"--weights {path}: cannot be read ({error}). Correct the path.") from None
    except ValidationError as error:
        raise InputError(f"--weights {path}: {complaint(error)}. Give a .safetensors file of a plain name.") from None


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array, "<f4"), allow_pickle=False)
    return buffer.getvalue()


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # of no time and no owner
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
