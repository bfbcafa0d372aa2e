"""Imports: anomaly maps that other software made, and what their author states of them.

`imports/GROUP/seedK/` holds the maps and image scores of a group's test images as arrays, and `import.json`, their
digests. `proctor import` writes it; a run takes its predictions from it in place of a fit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from benchmarks import plan, results
from benchmarks.plan import Run
from benchmarks.records import Images, Teacher
from benchmarks.schema import NOT_STATED
from methods.base import InputError, did_you_mean

if TYPE_CHECKING:  # imports torch, which `proctor --help` need not do
    from benchmarks.datasets.base import Dataset
    from benchmarks.protocols.base import Split
    from benchmarks.storage.arrays import Predictions

FOLDER = Path("imports")
NO_TEACHER = "none"
MAXIMUM, GIVEN = "maximum of the map", "given with the maps"  # where image scores come from
Count = Annotated[int, Field(ge=0, strict=True)]


class Stated(BaseModel, extra="forbid", frozen=True):
    """What the author states, as a variant of the method `imported` has it; what is left out is "not stated"."""

    teacher: str | None = Field(None, min_length=1)  # "none": the method has no teacher
    pretraining: str | None = Field(None, min_length=1)  # what the teacher was trained on
    epochs: Count | None = None  # 0: it does not train by epochs
    batch_size: Count | None = None
    image_size: Count | None = None  # in pixels
    selection: Literal["last", "validation", "oracle"] | None = None
    paper: str | None = None
    source: str | None = None


class Import(BaseModel, frozen=True, populate_by_name=True):
    """`import.json`: what the arrays beside it are."""

    schema_: Literal[1] = Field(1, alias="schema")
    image_score: str  # MAXIMUM or GIVEN
    categories: dict[str, Images]


def stated(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a variant, checked.

    Raises:
        InputError: an entry is unknown or of the wrong type.
    """
    try:
        return Stated.model_validate(entries).model_dump(exclude_none=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        raise InputError(f"imported maps state no {name!r}. {did_you_mean(name, Stated.model_fields)}")
    raise InputError(f"imported maps, {name}={first['input']!r}: {first['msg']}.")


def folder(group: str, seed: int) -> Path:
    return FOLDER / group / f"seed{seed}"


def seeds(group: str) -> list[int]:
    """The seeds of which a group has an import."""
    found = (path.parent.name.removeprefix("seed") for path in (FOLDER / group).glob("seed*/import.json"))
    return sorted(int(seed) for seed in found if seed.isdecimal())


def command(variant: str, dataset: str, protocol: str, seed: int) -> str:
    """What imports the maps of a group with a seed."""
    return f"proctor import DIR --variant {variant} --dataset {dataset} --protocol {protocol} --seed {seed}"


def read(group: str, seed: int) -> Import:
    """What an import says of itself.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = folder(group, seed) / "import.json"
    try:
        return Import.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}). Import its maps again with --force.") from None
    except ValidationError:
        raise InputError(f"{path} is damaged. Import its maps again with --force.") from None


def write(target: Path, image_score: str, keys: Mapping[str, list[str]]) -> Import:
    """Write the `import.json` of a folder whose arrays are complete."""
    imported = Import(image_score=image_score, categories=results.describe(target, keys))
    results.write_json(target / "import.json", json.loads(imported.model_dump_json(by_alias=True)))
    return imported


def digest(run: Run, split: Split) -> str:
    """Of the maps and scores that a run takes.

    Raises:
        InputError: they are not imported, or not of the images that the data set has now.
    """
    return plan.digest({category: images.model_dump() for category, images in _listed(run, split).items()})


def outcome(run: Run, dataset: Dataset, split: Split) -> tuple[dict[str, Predictions], dict[str, Any]]:
    """What an imported run gives: its predictions by category (arrays memory-mapped), and entries of its record.

    Raises:
        InputError: as `digest`, or an array was changed after it was imported.
    """
    listed, image_score = _listed(run, split), read(run.group, run.seed).image_score
    try:
        predictions = results.read_arrays(folder(run.group, run.seed), listed)
    except ValueError as error:
        raise InputError(f"{error}. {_cure(run)}") from None
    says = Stated.model_validate(run.hyper_parameters)
    budget = {name: getattr(says, name) for name in ("epochs", "batch_size", "image_size")}
    return predictions, {
        "hyper_parameters": {name: value for name, value in budget.items() if value is not None}
        | {"image_score": image_score},
        "paper": says.paper or "",
        "source": says.source or "",
        "selection": says.selection or NOT_STATED,
        "teacher": _teacher(says),
        # That it was trained on the data set's own images is what the import claims.
        "data": {
            "revision": dataset.revision(split.test),
            "train": len(split.train),
            "validation": len(split.validation),
        },
    }


def _teacher(says: Stated) -> dict[str, Any] | None:
    if says.teacher == NO_TEACHER:
        return None
    pretraining = says.pretraining or f"pretraining {NOT_STATED}"
    return Teacher(name=says.teacher or NOT_STATED, pretraining=pretraining).model_dump()


def _listed(run: Run, split: Split) -> dict[str, Images]:
    imported = read(run.group, run.seed)
    for category, items in split.test.items():
        images = imported.categories.get(category)
        if images is None or images.keys != [item.key for item in items]:
            what = "no maps" if images is None else "maps of other images than the data set has now"
            path = folder(run.group, run.seed) / "import.json"
            raise InputError(f"{run.name}: {path} holds {what} of {category}. {_cure(run)}")
    return {category: imported.categories[category] for category in split.test}


def _cure(run: Run) -> str:
    return f"Import them again: `{command(run.variant, run.dataset, run.protocol, run.seed)} --force`."
