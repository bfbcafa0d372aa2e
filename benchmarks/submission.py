"""What a submission says of itself: the manifest of a bundle, and the record that the board keeps of it.

Both are read from strangers, so that whatever is not as stated here is refused. `leaderboard/bundle-format.md` says the
same for other software.
"""

from __future__ import annotations

from datetime import date
from itertools import pairwise
from typing import Annotated, Literal

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

FORMAT = "leaderboard/bundle-format.md"
MANIFEST = "manifest.json"

# What a reader accepts, so that a hostile bundle costs little. An honest one stays far below.
MAX_MANIFEST_BYTES = 16 << 20
MAX_VALUES = 400_000  # of its JSON; one may take a kilobyte while it is read
MAX_ENTRIES = 20_000  # of maps, of claims
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
    value: float = Field(allow_inf_nan=False)

    @field_validator("value")
    @classmethod
    def _is_possible(cls, value: float, info: ValidationInfo) -> float:
        metric = METRICS.get(info.data.get("metric", ""))
        if metric and not metric.is_possible(value):
            raise ValueError(f"{metric.title} lies in [{metric.bounds[0]:g}, {metric.bounds[1]:g}]")
        return value

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
    runs: list[RunRecord] = Field([], max_length=MAX_ENTRIES)
    claims: list[Value] = Field(min_length=1, max_length=MAX_ENTRIES)
    maps: list[Map] = Field(min_length=1, max_length=MAX_ENTRIES)
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
    date: Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]

    @model_validator(mode="after")
    def _consistent(self) -> Record:
        if self.seeds != sorted({row.seed for row in self.metrics}):
            raise ValueError("seeds: they must be those of `metrics`, rising")
        if len({row.place for row in self.metrics}) < len(self.metrics):
            raise ValueError("metrics: a value stands twice")
        date.fromisoformat(self.date)
        return self


def complaint(error: ValidationError) -> str:
    """The first thing that a model refuses, without repeating what it was given beyond plain ASCII."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(ascii(part)[1:-1] if isinstance(part, str) else str(part) for part in first["loc"])
    message = ascii(first["msg"].removeprefix("Value error, "))[1:-1].replace("\\\\", "\\")
    return f"{where[:100]}: {message}" if where else message
