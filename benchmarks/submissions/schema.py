"""The schema of a submission: the manifest of a bundle, and the record that the leaderboard keeps of it.

Both come from untrusted sources, so that anything that is not stated here is refused. `leaderboard/bundle-format.md`
describes the same for authors of other software.
"""

from __future__ import annotations

from datetime import date
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple, TypeVar

from pydantic import (
    BaseModel,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from benchmarks.metrics.registry import METRICS
from benchmarks.submissions.formats import check_json

FORMAT = "leaderboard/bundle-format.md"
MANIFEST = "manifest.json"

# Limits of what a reader accepts, so that a malicious bundle cannot exhaust memory. Usual ones stay far below.
MAX_MANIFEST_BYTES = 16 << 20
MAX_VALUES = 400_000  # in the manifest's JSON; one may take a kilobyte while it is parsed
MAX_ENTRIES = 20_000  # of the list of maps, and of the list of claims
MAX_MAP_BYTES = 64 << 20  # of one map
MAX_CELL_BYTES = 4 << 30  # of the maps of one category and seed, which are in memory together
MAX_WEIGHTS_BYTES = 4 << 30  # of one file
MAX_RATIO = 200  # unpacked to packed size; float32 maps reach about 1.1, constant ones more than 500
MAX_SMALL_BYTES = 64 << 20  # a bundle with a smaller unpacked size may have any ratio
MAX_SEEDS = 100

# Text from a bundle reaches terminals, paths and web pages, so each kind has a restricted set of characters.
_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,90}"  # no leading dot: no hidden file, no parent folder
Name = Annotated[str, StringConstraints(pattern=rf"^{_SEGMENT}$")]
Key = Annotated[str, StringConstraints(pattern=rf"^{_SEGMENT}(/{_SEGMENT})+$", max_length=130)]  # fits a ustar header
Phrase = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.,<>= -]+$", max_length=100)]
Text = Annotated[str, StringConstraints(pattern=r"^\P{C}+$", max_length=200)]  # no control or direction characters
Url = Annotated[str, StringConstraints(pattern=r"^https?://[\x21-\x7e]+$", max_length=300)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Number = Annotated[int, Field(ge=-(2**53), le=2**53)] | Annotated[float, Field(allow_inf_nan=False)]


class _Model(BaseModel, extra="forbid", frozen=True, strict=True):
    """No unknown fields, no type conversion."""


_ModelT = TypeVar("_ModelT", bound=_Model)


class Teacher(_Model):
    name: Text
    pretraining: Text  # its training data


class ValueKey(NamedTuple):
    category: str
    seed: int
    subset: str
    metric: str
    convention: str


class Value(_Model):
    """One value of a metric. The fields are columns of `scores/GROUP.csv`, which results/README.md describes."""

    category: Name
    subset: Name = "all"
    metric: Name
    convention: Phrase
    seed: Seed
    value: float = Field(allow_inf_nan=False)

    @field_validator("value")
    @classmethod
    def _is_possible(cls, value: float, fields: ValidationInfo) -> float:
        metric = METRICS.get(fields.data.get("metric", ""))
        if metric and not metric.is_possible(value):
            raise ValueError("it must be in [{:g}, {:g}] for this metric".format(*metric.bounds))
        return value

    @property
    def key(self) -> ValueKey:
        """What identifies the value within a submission."""
        return ValueKey(self.category, self.seed, self.subset, self.metric, self.convention)


class Submission(_Model):
    """The fields that manifest and record share. A submission is one variant on one data set under one protocol."""

    name: Text
    method: Name
    variant: Name
    dataset: Name
    protocol: Name
    selection: Name = "last"
    teacher: Teacher | None = None
    budget: dict[Name, bool | Number | Text] = Field({}, max_length=50)  # epochs, batch_size, image_size, precision
    licence: Name  # of the maps and values; an SPDX identifier
    contact: Text
    url: Url | None = None


class Map(_Model):
    """One anomaly map, the member `maps/seedSEED/IMAGE.npy`, with the score of its image."""

    image: Key  # its key in the data set, such as "bottle/test/broken_large/000"
    seed: Seed
    score: float = Field(allow_inf_nan=False)  # higher is more anomalous
    bytes: int = Field(gt=0, le=MAX_MAP_BYTES)
    sha256: Digest

    @property
    def member(self) -> str:
        return f"maps/seed{self.seed}/{self.image}.npy"

    @property
    def category(self) -> str:
        return self.image.partition("/")[0]

    @property
    def sort_key(self) -> tuple[str, int, str]:
        return self.category, self.seed, self.image


class Weights(_Model):
    """A file of model weights, the member `weights/NAME`. Its digest is compared; it is never loaded."""

    name: Annotated[Name, StringConstraints(pattern=r"\.safetensors$")]
    bytes: int = Field(gt=0, le=MAX_WEIGHTS_BYTES)
    sha256: Digest

    @property
    def member(self) -> str:
        return f"weights/{self.name}"


class RunRecord(_Model):
    """How a run was made: fields of its `record.json`."""

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
    runs: list[RunRecord] = Field([], max_length=MAX_ENTRIES)
    claims: list[Value] = Field(min_length=1, max_length=MAX_ENTRIES)
    maps: list[Map] = Field(min_length=1, max_length=MAX_ENTRIES)
    weights: list[Weights] = Field([], max_length=100)

    @model_validator(mode="after")
    def _is_sorted_without_duplicates(self) -> Manifest:
        for before, after in pairwise(self.maps):
            if before.sort_key >= after.sort_key:
                raise ValueError(f"maps: {after.member} is a duplicate, or not sorted by category, seed and image")
        if len({entry.seed for entry in self.maps}) > MAX_SEEDS:
            raise ValueError(f"maps: more than {MAX_SEEDS} seeds")
        if len({claim.key for claim in self.claims}) < len(self.claims):
            raise ValueError("claims: duplicate value")
        if len({entry.name for entry in self.weights}) < len(self.weights):
            raise ValueError("weights: duplicate name")
        return self


class Record(Submission):
    """An entry of the leaderboard: what `leaderboard/records/` keeps of a bundle."""

    schema_: Literal[1] = Field(alias="schema")
    bundle: Name  # file name
    sha256: Digest  # of the bundle
    seeds: list[Seed] = Field(min_length=1)
    metrics: list[Value] = Field(min_length=1)
    verified: bool  # whether the values were recomputed from the maps
    proctor: Text  # the version that wrote the record
    data_revision: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")] | None  # on which they were recomputed
    date: Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]

    @model_validator(mode="after")
    def _consistent(self) -> Record:
        if self.seeds != sorted({row.seed for row in self.metrics}):
            raise ValueError("seeds: they must be the seeds of `metrics`, in ascending order")
        if len({row.key for row in self.metrics}) < len(self.metrics):
            raise ValueError("metrics: duplicate value")
        date.fromisoformat(self.date)
        return self


def parse_manifest(text: bytes) -> Manifest:
    """Parse the content of `manifest.json`.

    Raises:
        ValueError: it is larger than the limits, ambiguous JSON, or not a manifest. The message names the field.
    """
    if len(text) > MAX_MANIFEST_BYTES:
        raise ValueError(f"{len(text)} bytes, more than {MAX_MANIFEST_BYTES}")
    if sum(text.count(mark) for mark in (b",", b"[", b"{")) > MAX_VALUES:  # before anything is allocated for them
        raise ValueError(f"more than {MAX_VALUES} values")
    return _parse(Manifest, text)


def parse_record(text: bytes) -> Record:
    """Parse a record of the leaderboard.

    Raises:
        ValueError: it is ambiguous JSON or not a record. The message names the field.
    """
    return _parse(Record, text)


def first_error(error: ValidationError) -> str:
    """The first error of a validation, in printable ASCII and without the value, which may be long."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(ascii(part)[1:-1] if isinstance(part, str) else str(part) for part in first["loc"])
    message = ascii(first["msg"].removeprefix("Value error, "))[1:-1].replace("\\\\", "\\")
    return f"{field[:100]}: {message}" if field else message


def _parse(model: type[_ModelT], text: bytes) -> _ModelT:
    check_json(text)
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(first_error(error)) from None
