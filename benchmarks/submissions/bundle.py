"""Writes a submission as one file: anomaly maps, image scores and claimed values, which anyone can recompute.

`benchmarks/submission.py` has its schema. The same runs give the same bytes: no time, user or path is written, and
every order is fixed.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from pydantic import ValidationError

from benchmarks import integrity, results
from benchmarks.records import Record
from benchmarks.scoring import summary
from benchmarks.storage import score_files
from benchmarks.storage.arrays import Predictions
from benchmarks.submissions.schema import FORMAT, MANIFEST, Manifest, Map, Value, Weights, first_error, parse_manifest
from methods.base import InputError
from methods.components.atomic import replacing

COMPRESSION_LEVEL = 1  # the highest level makes float32 maps only 1 % smaller


def write(
    target: Path,
    names: Sequence[str],
    *,
    licence: str,
    contact: str,
    name: str | None = None,
    url: str | None = None,
    models: bool = False,
    weights: Sequence[Path] = (),
) -> tuple[Manifest, str]:
    """Write the bundle of some stored and scored runs.

    Args:
        target: the file to write, `x.tar.gz`.
        names: groups (`VARIANT-DATASET-PROTOCOL`, all their runs) or runs (`GROUP/SPLIT-seedK`), of one group.
        licence: of the maps and values, an SPDX identifier.
        contact: an address or a page.
        name: title of the submission; None: the variant.
        url: a page about it.
        models: include the fitted method of each run, as `weights/SPLIT-seedK.safetensors`.
        weights: further `.safetensors` files to include.

    Returns:
        The manifest, and the SHA-256 of the bundle.

    Raises:
        InputError: a run is missing, damaged, not scored in its present state, or of another experiment than the first;
            a model is missing or was changed; or a text contains characters that the format does not allow.
    """
    folders = _folders(names)
    loaded = [_load(folder) for folder in folders]
    records = [record for record, _ in loaded]
    _require_one_experiment(folders, records)
    maps = [
        (map_entry(record.seed, key, float(score), anomaly_map), anomaly_map)
        for record, predictions in loaded
        for keys, scores, anomaly_maps in predictions.values()
        for key, score, anomaly_map in zip(keys, scores, anomaly_maps, strict=True)
    ]
    maps.sort(key=lambda pair: pair[0].sort_key)
    files = [(path.name, path) for path in weights]
    if models:
        files += [(f"{folder.name}.safetensors", integrity.require_model(folder)) for folder in folders]
    files.sort()
    manifest = _manifest(
        {
            "name": records[0].variant if name is None else name,
            "licence": licence,
            "contact": contact,
            "url": url,
        },
        records,
        _claims(folders[0].parent.name, records),
        [entry for entry, _ in maps],
        [_weights_entry(name, path) for name, path in files],
    )
    return manifest, pack(target, manifest, [anomaly_map for _, anomaly_map in maps], [path for _, path in files])


def map_entry(seed: int, key: str, score: float, anomaly_map: np.ndarray) -> Map:
    """The manifest's entry of an anomaly map (h, w).

    Raises:
        InputError: the image's key contains characters that the format does not allow, or the score is not finite.
    """
    content = _npy(anomaly_map)
    digest = hashlib.sha256(content).hexdigest()
    try:
        return Map(image=key, seed=seed, score=score, bytes=len(content), sha256=digest)
    except ValidationError as error:
        cure = "Rename the image, or repair the method that gave the score."
        raise InputError(f"{key}: not allowed in a bundle: {first_error(error)}. {cure}") from None


def pack(target: Path, manifest: Manifest, maps: Iterable[np.ndarray], weights: Sequence[Path] = ()) -> str:
    """Write a bundle, whole or not at all; `maps` and `weights` are in the manifest's order.

    Returns:
        The SHA-256 of the bundle.

    Raises:
        InputError: the manifest exceeds the limits of the format, or the file cannot be written.
    """
    text = manifest.model_dump_json(indent=1, by_alias=True).encode() + b"\n"
    try:
        parse_manifest(text)
    except ValueError as error:
        raise InputError(f"{target}: its manifest would be refused: {error}. {FORMAT} describes it.") from None
    try:
        with replacing(target) as partial:
            with (
                partial.open("wb") as file,
                gzip.GzipFile("", "wb", COMPRESSION_LEVEL, file, mtime=0) as packed,
                tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
            ):
                _add(tar, MANIFEST, len(text), io.BytesIO(text))
                for entry, anomaly_map in zip(manifest.maps, maps, strict=True):
                    _add(tar, entry.member, entry.bytes, io.BytesIO(_npy(anomaly_map)))
                for weights_entry, path in zip(manifest.weights, weights, strict=True):
                    with path.open("rb") as content:
                        _add(tar, weights_entry.member, weights_entry.bytes, content)
            return sha256(partial)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error}). Choose another path, or free disk space.") from None


def _folders(names: Sequence[str]) -> list[Path]:
    """The folders of runs, each once, in a fixed order."""
    folders: set[Path] = set()
    for name in names:
        folder = results.RESULTS / "predictions" / name.rstrip("/")
        runs = {folder} if (folder / "record.json").is_file() else {p.parent for p in folder.glob("*/record.json")}
        if runs and folder not in runs:  # of a group, all that are planned
            runs = {folder / stem for stem in _scored(folder.name)}
        if not runs:
            raise InputError(
                f"There is no finished run {name!r} in {results.RESULTS / 'predictions'}. Give a group "
                "(VARIANT-DATASET-PROTOCOL) or a run (GROUP/SPLIT-seedK); `proctor status` lists them."
            )
        folders |= runs
    return sorted(folders)


def _scored(group: str) -> Collection[str]:
    """The runs, SPLIT-seedK, that the scores of a group are of."""
    if reasons := score_files.problems(results.RESULTS, group, records=None):
        raise InputError("\n".join(reasons))
    return score_files.read_seal(results.RESULTS, group).records


def _load(folder: Path) -> tuple[Record, dict[str, Predictions]]:
    try:
        record, predictions = results.load(folder)
    except ValueError as error:
        raise InputError(f"{error}. Run `dvc repro` to restore it.") from None
    stored, placed = f"{record.group}/{record.stem}", f"{folder.parent.name}/{folder.name}"
    if stored != placed:
        raise InputError(f"{folder} holds the run {stored}, not {placed}. Run `dvc repro` to restore it.")
    return record, predictions


def _require_one_experiment(folders: Sequence[Path], records: Sequence[Record]) -> None:
    """Runs in a bundle differ only in split and seed."""
    for name in ("variant", "method", "dataset", "protocol", "selection", "teacher", "compute", "hyper_parameters"):
        for folder, entry in zip(folders, records, strict=True):
            if getattr(entry, name) != getattr(records[0], name):
                raise InputError(
                    f"{folder.parent.name}/{folder.name} has another {name} than "
                    f"{folders[0].parent.name}/{folders[0].name}; a bundle holds one experiment. Write two bundles."
                )


def _claims(group: str, records: Sequence[Record]) -> list[Value]:
    """The scored values of these runs.

    Raises:
        InputError: a run was not scored in its present state, or a value is not possible.
    """
    rows, path = summary.read_scores([group]), results.RESULTS / "scores" / f"{group}.csv"
    sealed = score_files.read_seal(results.RESULTS, group).records
    claims = []
    for entry in records:
        of_run = rows[rows["fingerprint"] == entry.fingerprint]
        if sealed.get(entry.stem) != entry.digest:
            of_run = of_run.iloc[:0]
        if set(of_run["category"]) != set(entry.categories):
            raise InputError(f"{path} has no values of the stored run {entry.stem}. Run `dvc repro` to score it.")
        for row in of_run[of_run["value"].notna()].to_dict("records"):
            try:
                claims.append(Value.model_validate({name: row[name] for name in Value.model_fields}))
            except ValidationError as error:
                problem = f"{row['category']}, {row['metric']}: {first_error(error)}"
                raise InputError(f"{path}: {problem}. Run `dvc repro` to score it again.") from None
    return sorted(claims, key=lambda claim: (claim.category, claim.seed))


def _manifest(
    fields: dict[str, str | None],
    records: Sequence[Record],
    claims: Sequence[Value],
    maps: Sequence[Map],
    weights: Sequence[Weights],
) -> Manifest:
    first = records[0]
    known = first.hyper_parameters | first.compute  # of imported maps, nobody knows the precision
    budget = {name: known[name] for name in ("epochs", "batch_size", "image_size", "precision") if name in known}
    runs = [
        entry.model_dump(include={"split", "seed", "fingerprint", "fingerprint_parts", "data"})
        # The names of host and job do not affect the values, and may identify the user.
        | {"environment": entry.provenance.model_dump(exclude={"host", "job"})}
        for entry in records
    ]
    try:
        return Manifest.model_validate(
            {
                "format": "proctor-bundle",
                "schema": 1,
                **fields,
                **first.model_dump(include={"method", "variant", "dataset", "protocol"}),
                "selection": first.selection.replace(" ", "_"),  # a name in this format
                "teacher": first.teacher.model_dump(include={"name", "pretraining"}) if first.teacher else None,
                "budget": budget,
                **first.model_dump(include={"hyper_parameters", "paper", "source", "deviations"}),
                "runs": runs,
                "claims": claims,
                "maps": maps,
                "weights": weights,
            }
        )
    except ValidationError as error:
        problem = f"Not allowed in a bundle: {first_error(error)}"
        raise InputError(f"{problem}. {FORMAT} lists the allowed characters of each field.") from None


def _weights_entry(name: str, path: Path) -> Weights:
    try:
        return Weights(name=name, bytes=path.stat().st_size, sha256=sha256(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}). Correct the path.") from None
    except ValidationError as error:
        cure = "Give a .safetensors file whose name has only letters, digits and `_.+-`."
        raise InputError(f"{path}: {first_error(error)}. {cure}") from None


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array, "<f4"), allow_pickle=False)
    return buffer.getvalue()


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _add(tar: tarfile.TarFile, name: str, size: int, content: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)  # without time and owner
    member.size = size
    tar.addfile(member, content)
