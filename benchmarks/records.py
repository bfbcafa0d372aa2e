"""`record.json`: what a finished run says of itself, in one model that everything reads. A leaf."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.schema import IMPORTED, NOT_STATED, SCHEMA, group_name
from benchmarks.storage.digests import json_digest


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, populate_by_name=True)


class Teacher(_Model):
    name: str
    sha256: str = ""
    pretraining: str  # what it was trained on

    @property
    def title(self) -> str:
        """As tables print it."""
        return self.name if self.name == NOT_STATED else f"{self.name} ({self.pretraining})"


class Epoch(_Model):
    epoch: int  # from 1
    seconds: float = 0.0
    terms: dict[str, float] = {}  # mean of each loss term
    measured: dict[str, float] = {}  # on held-out normal images, or on test images as a diagnostic


class Array(_Model):
    """What an array beside the record must be."""

    shape: list[int]
    dtype: str = "float32"
    digest: str  # BLAKE2b of the file, 32 hex digits


class Images(_Model):
    """The images of a category in the order of their arrays. Of probes only the first have a map."""

    keys: list[str]
    scores: Array | None = None
    maps: Array | None = None


class ModelFile(_Model):
    """What the fitted method's file beside the record must be."""

    bytes: int
    digest: str  # BLAKE2b of the file, 32 hex digits


class Data(_Model):
    revision: str = ""
    train: int | None = None  # numbers of images
    validation: int | None = None


class Provenance(BaseModel, extra="allow", frozen=True):
    """Where, when and with what a run was made."""

    created: str = ""
    git_commit: str | None = None
    git_dirty: bool = False
    git_patch: str | None = None  # SHA-256 of the uncommitted difference
    host: str = ""
    device: str = ""
    driver: str | None = None
    threads: int | None = None
    versions: dict[str, str | int | None] = {}
    job: str | None = None  # of SLURM
    attempts: int = 1
    queue_seconds: float = 0.0
    wall_seconds: float | None = None
    fit_seconds: float | None = None
    predict_seconds: float | None = None
    predict_batch: int | None = None
    test_images_per_second: float | None = None
    peak_memory_bytes: int | None = None
    peak_device_memory_bytes: int | None = None


class Record(BaseModel):
    """A finished run. What a method adds to its record (`lambda`, `scales`, `amplification`) is in `model_extra`."""

    schema_: Literal[2] = Field(2, alias="schema")
    variant: str
    method: str
    dataset: str
    protocol: str
    split: str
    seed: int
    digest: str  # of all other entries
    fingerprint: str = ""
    fingerprint_parts: dict[str, str] = {}
    categories: dict[str, Images] = {}
    hyper_parameters: dict[str, Any] = {}
    paper: str = ""
    source: str = ""
    deviations: list[str] = []
    selection: str = "last"
    data: Data = Data()
    compute: dict[str, Any] = {}
    epoch: int | None = None
    history: list[Epoch] = []
    teacher: Teacher | None = None
    image_size: int | None = None
    parameters: dict[str, int] = {}  # numbers of weights of teacher and student
    provenance: Provenance = Provenance()
    interference: dict[str, Images] = {}  # probes
    private: dict[str, Images] = {}  # test images whose truth only a server knows
    validation_pixels: dict[str, dict[str, float]] = {}  # category -> images, mean, std
    model: ModelFile | None = None  # None: it was not kept, or the method cannot be stored

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)

    @property
    def is_imported(self) -> bool:
        """Whether its maps were made by other software: see `benchmarks/imports.py`."""
        return self.method == IMPORTED

    @property
    def group(self) -> str:
        return group_name(self.variant, self.dataset, self.protocol)

    @property
    def group_key(self) -> tuple[str, str, str]:
        """Variant, data set and protocol."""
        return self.variant, self.dataset, self.protocol

    @property
    def stem(self) -> str:
        """Its name within the group."""
        return f"{self.split}-seed{self.seed}"

    @property
    def histories(self) -> dict[str, list[Epoch]]:
        """The history of each phase of training: "" for the main one, else the name of the entry that has it."""
        extra = self.model_extra or {}
        further = {
            name: [Epoch.model_validate(epoch) for epoch in part["history"]]
            for name, part in extra.items()
            if isinstance(part, dict) and isinstance(part.get("history"), list)
        }
        return {"": self.history, **further}


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a record with its digest, which `read` compares."""
    plain = {name: value for name, value in content.items() if name != "digest"}
    return {**plain, "digest": json_digest(plain)}


def read(path: Path) -> Record:
    """A record from its file.

    Raises:
        ValueError: the file is missing, not JSON, of another schema, was edited after it was written, or an entry is
            missing or of the wrong type; the message names the file and the entry.
    """
    try:
        content = json.loads(path.read_bytes())
        record = Record.model_validate(content)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        reason = f"{where}: {first['msg']}" if where else first["msg"]
        raise ValueError(f"{path} is not a record of schema {SCHEMA} ({reason})") from None
    except (ValueError, RecursionError) as error:  # the latter from brackets within brackets
        raise ValueError(f"{path} is not JSON ({error})") from None
    if sealed(content)["digest"] != record.digest:
        raise ValueError(f"{path} was changed after it was written")
    return record
