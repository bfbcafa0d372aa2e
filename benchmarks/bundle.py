"""A submission as one file: anomaly maps, image scores and claimed values, written so that anyone can score them again.

`leaderboard/bundle-format.md` describes the format for other software; the models below are the same in code. Equal
records give equal bytes: no clock, user or path enters, and every order is fixed.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, JsonValue, StringConstraints, ValidationError, model_validator

from benchmarks import store, summary
from methods.base import InputError

FORMAT = "leaderboard/bundle-format.md"
MANIFEST = "manifest.json"

# What a reader accepts, so that a hostile bundle costs little. An honest one stays far below.
MAX_MANIFEST_BYTES = 32 << 20
MAX_MEMBERS = 100_000
MAX_MAP_BYTES = 64 << 20  # of one map
MAX_CELL_BYTES = 4 << 30  # of the maps of one category and seed, which are in memory together
MAX_WEIGHTS_BYTES = 4 << 30  # of one file
MAX_RATIO = 200  # unpacked to packed; float32 maps have about 1.1, constant ones more than 500
FREE_BYTES = 64 << 20  # a bundle that unpacks to less may have any ratio
MAX_SEEDS = 100

# Text from a bundle reaches terminals, paths and pages, so each kind has an alphabet.
_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,90}"  # no leading dot: neither hidden nor a step up
Name = Annotated[str, StringConstraints(pattern=rf"^{_SEGMENT}$")]
Key = Annotated[str, StringConstraints(pattern=rf"^{_SEGMENT}(/{_SEGMENT})+$", max_length=130)]  # fits a ustar header
Phrase = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.,<>= -]+$", max_length=100)]
Text = Annotated[str, StringConstraints(pattern=r"^\P{C}+$", max_length=200)]  # no control or direction characters
Url = Annotated[str, StringConstraints(pattern=r"^https?://[\x21-\x7e]+$", max_length=300)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Number = Annotated[int, Field(ge=-(2**53), le=2**53)] | Annotated[float, Field(allow_inf_nan=False)]


class _Model(BaseModel, extra="forbid", frozen=True, strict=True):
    """As stated or refused: no other field, no conversion."""


class Teacher(_Model):
    name: Text
    pretraining: Text  # what it was trained on


class Value(_Model):
    """One value of a metric; the columns are those of results/README.md."""

    category: Name
    subset: Name = "all"
    metric: Name
    convention: Phrase
    seed: Seed
    value: float = Field(ge=0, le=1)

    @property
    def place(self) -> tuple[str, int, str, str, str]:
        return self.category, self.seed, self.subset, self.metric, self.convention


class Submission(_Model):
    """What manifest and record both say of a submission: one variant on one data set under one protocol."""

    name: Text
    method: Name
    variant: Name
    dataset: Name
    protocol: Name
    selection: Name = "last"
    teacher: Teacher | None = None
    budget: dict[Name, bool | Number | Text] = Field({}, max_length=50)  # epochs, batch_size, image_size, precision
    licence: Name  # of maps and numbers; an SPDX identifier
    contact: Text
    url: Url | None = None


class Map(_Model):
    """One anomaly map, the member `maps/seedSEED/IMAGE.npy`, with the score of its image."""

    image: Key  # the data set's key, "bottle/test/broken_large/000"
    seed: Seed
    score: float  # higher is more anomalous; NaN is read, so that the report can name the image
    bytes: int = Field(gt=0, le=MAX_MAP_BYTES)
    sha256: Digest

    @property
    def member(self) -> str:
        return f"maps/seed{self.seed}/{self.image}.npy"

    @property
    def category(self) -> str:
        return self.image.partition("/")[0]

    @property
    def place(self) -> tuple[str, int, str]:
        return self.category, self.seed, self.image


class Weights(_Model):
    """A file of weights, the member `weights/NAME`. It is hashed and never loaded."""

    name: Annotated[Name, StringConstraints(pattern=r"\.safetensors$")]
    bytes: int = Field(gt=0, le=MAX_WEIGHTS_BYTES)
    sha256: Digest

    @property
    def member(self) -> str:
        return f"weights/{self.name}"


class RunRecord(_Model):
    """What the record of a run says of how it was made."""

    split: Name
    seed: Seed
    fingerprint: Name | None = None
    fingerprint_parts: dict[Text, Text] = {}
    data: dict[Text, JsonValue] = {}
    environment: dict[Text, JsonValue] = {}


class Manifest(Submission):
    """The first member of a bundle, `manifest.json`. The others follow in the order in which it lists them."""

    format: Literal["proctor-bundle"]
    schema_: Literal[1] = Field(alias="schema")
    hyper_parameters: dict[Text, JsonValue] = {}
    paper: str = ""
    source: str = ""
    deviations: list[str] = []
    runs: list[RunRecord] = Field([], max_length=MAX_MEMBERS)
    claims: list[Value] = Field(min_length=1, max_length=MAX_MEMBERS)
    maps: list[Map] = Field(min_length=1, max_length=MAX_MEMBERS)
    weights: list[Weights] = Field([], max_length=100)

    @model_validator(mode="after")
    def _ordered(self) -> Manifest:
        for before, after in pairwise(self.maps):
            if before.place >= after.place:
                raise ValueError(f"maps: {after.member} stands twice, or the list is not by category, seed and image")
        if len({entry.seed for entry in self.maps}) > MAX_SEEDS:
            raise ValueError(f"maps: more than {MAX_SEEDS} seeds")
        if len({claim.place for claim in self.claims}) < len(self.claims):
            raise ValueError("claims: one is made twice")
        if len({entry.name for entry in self.weights}) < len(self.weights):
            raise ValueError("weights: a name stands twice")
        return self


class Record(Submission):
    """A submission on the board: what `leaderboard/` keeps of a bundle."""

    schema_: Literal[1] = Field(alias="schema")
    bundle: Name  # file name
    sha256: Digest  # of the bundle
    seeds: list[Seed] = Field(min_length=1)
    metrics: list[Value] = Field(min_length=1)
    verified: bool  # recomputed from the maps; else as claimed
    proctor: Text  # the version that wrote the record
    data_revision: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")] | None  # of the verifier's copy
    date: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d{2}-\d{2}$")]

    @model_validator(mode="after")
    def _consistent(self) -> Record:
        if self.seeds != sorted({row.seed for row in self.metrics}):
            raise ValueError("seeds: they must be those of `metrics`, rising")
        if len({row.place for row in self.metrics}) < len(self.metrics):
            raise ValueError("metrics: a value stands twice")
        return self


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
        (_entry(record["seed"], key, float(score), one), one)
        for record, predictions in loaded
        for keys, scores, of_category in predictions.values()
        for key, score, one in zip(keys, scores, of_category, strict=True)
    ]
    maps.sort(key=lambda pair: pair[0].place)
    files = [(_weights(path), path) for path in sorted(weights, key=lambda path: path.name)]
    claims = _claims(folders[0].parent.name, records)
    manifest = _manifest(about, records, claims, [entry for entry, _ in maps], [entry for entry, _ in files])
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with (
            partial.open("wb") as file,
            gzip.GzipFile("", "wb", 6, file, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            _add(tar, MANIFEST, manifest.model_dump_json(indent=1, by_alias=True).encode() + b"\n")
            for entry, one in maps:
                _add(tar, entry.member, _npy(one))
            for entry_of_weights, path in files:
                _add(tar, entry_of_weights.member, path.read_bytes())
        digest = sha256(partial)
        partial.replace(target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error}). Choose another place, or make room.") from None
    finally:
        partial.unlink(missing_ok=True)
    return manifest, digest


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
    store.write_json(path, entry.model_dump(by_alias=True))


def complaint(error: ValidationError) -> str:
    """The first thing that a model refuses, without repeating what it was given beyond plain ASCII."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(ascii(part)[1:-1] if isinstance(part, str) else str(part) for part in first["loc"])
    return (where[:100] + ": " if where else "") + ascii(first["msg"].removeprefix("Value error, "))[1:-1]


def _folders(names: Sequence[str]) -> list[Path]:
    """The folders of runs, each once, in a fixed order."""
    found: set[Path] = set()
    for name in names:
        folder = store.RESULTS / "predictions" / name.rstrip("/")
        runs = {folder} if (folder / "record.json").is_file() else {p.parent for p in folder.glob("*/record.json")}
        if not runs:
            raise InputError(
                f"There is no finished run {name!r} in {store.RESULTS / 'predictions'}. Name a group "
                "(VARIANT-DATASET-PROTOCOL) or a run (GROUP/SPLIT-seedK); `proctor status` lists them."
            )
        found |= runs
    return sorted(found)


def _load(folder: Path) -> tuple[dict[str, Any], dict[str, tuple[list[str], np.ndarray, np.ndarray]]]:
    try:
        return store.load(folder)
    except ValueError as error:
        raise InputError(f"{error}. Run `dvc repro` to make it again.") from None


def _refuse_mixed(folders: Sequence[Path], records: Sequence[dict[str, Any]]) -> None:
    """A bundle is one experiment: only split and seed differ between its runs."""
    for name in ("variant", "method", "dataset", "protocol", "selection", "teacher", "compute", "hyper_parameters"):
        for folder, entry in zip(folders, records, strict=True):
            if entry.get(name) != records[0].get(name):
                raise InputError(
                    f"{folder.parent.name}/{folder.name} has another {name} than "
                    f"{folders[0].parent.name}/{folders[0].name}; a bundle is one experiment. Write two bundles."
                )


def _claims(group: str, records: Sequence[dict[str, Any]]) -> list[Value]:
    """The scored values of these runs.

    Raises:
        InputError: a run has not been scored as it is now.
    """
    rows = summary.read_scores([group])
    claims = []
    for entry in records:
        of_run = rows[rows["fingerprint"] == entry["fingerprint"]]
        if set(of_run["category"]) != set(entry["categories"]):
            raise InputError(
                f"{store.RESULTS}/scores/{group}.csv does not hold the stored run {entry['split']}-seed"
                f"{entry['seed']}: `dvc repro` scores it."
            )
        for row in of_run[of_run["value"].notna()].to_dict("records"):
            claims.append(Value.model_validate({name: row[name] for name in Value.model_fields}))
    return sorted(claims, key=lambda claim: (claim.category, claim.seed))


def _manifest(
    about: dict[str, Any],
    records: Sequence[dict[str, Any]],
    claims: Sequence[Value],
    maps: Sequence[Map],
    weights: Sequence[Weights],
) -> Manifest:
    first = records[0]
    parameters = first["hyper_parameters"]
    budget = {name: parameters[name] for name in ("epochs", "batch_size", "image_size") if name in parameters}
    teacher = first.get("teacher")
    runs = [
        {name: entry[name] for name in ("split", "seed", "fingerprint", "fingerprint_parts", "data")}
        # The name of the host and of the job say nothing of the numbers, but may say something of the user.
        | {"environment": {k: v for k, v in entry["provenance"].items() if k not in ("host", "job")}}
        for entry in records
    ]
    try:
        return Manifest.model_validate(
            {
                "format": "proctor-bundle",
                "schema": 1,
                "name": first["variant"],
                **about,
                **{name: first[name] for name in ("method", "variant", "dataset", "protocol", "selection")},
                "teacher": {name: teacher[name] for name in ("name", "pretraining")} if teacher else None,
                "budget": budget | {"precision": first["compute"]["precision"]},
                **{name: first[name] for name in ("hyper_parameters", "paper", "source", "deviations")},
                "runs": runs,
                "claims": claims,
                "maps": maps,
                "weights": weights,
            }
        )
    except ValidationError as error:
        raise InputError(f"A bundle cannot say this: {complaint(error)}. {FORMAT} has the alphabets.") from None


def _entry(seed: int, key: str, score: float, one: np.ndarray) -> Map:
    content = _npy(one)
    digest = hashlib.sha256(content).hexdigest()
    try:
        return Map(image=key, seed=seed, score=score, bytes=len(content), sha256=digest)
    except ValidationError as error:
        raise InputError(f"{key}: cannot be named in a bundle: {complaint(error)}. Rename the image.") from None


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
