"""The file of a fitted method: safetensors, whose metadata says what the tensors belong to. A leaf.

The metadata has one entry, `proctor`: JSON of `About`. The tensors are the method's state, `state/NAME`, and for each
category what the method predicts for some normal images, `normal/CATEGORY`. The teacher is named, not copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

if TYPE_CHECKING:
    from torch import Tensor

NAME = "model.safetensors"
SCHEMA = 1
ENTRY = "proctor"


class TeacherName(BaseModel, frozen=True):
    name: str
    sha256: str


class About(BaseModel):
    """What a model is, apart from its tensors."""

    model_config = ConfigDict(frozen=True, populate_by_name=True, extra="forbid")

    schema_: Literal[1] = Field(1, alias="schema")
    fingerprint: str  # of the run that fitted it
    variant: str
    method: str
    hyper_parameters: dict[str, Any]
    teacher: TeacherName | None
    image_size: int | None
    dataset: str
    protocol: str
    split: str
    seed: int
    compute: dict[str, Any]
    normal_from: str  # "validation", "held out" or "training": which normal images `normal` is of


class Model(NamedTuple):
    about: About
    state: dict[str, Tensor]
    normal: dict[str, Tensor]  # category -> (N, 2) float32: of each image the score, and the median of the map


def write(path: Path, about: About, state: Mapping[str, Tensor], normal: Mapping[str, Tensor]) -> None:
    """Write a model.

    Raises:
        OSError: the disk is full.
    """
    from safetensors.torch import save

    tensors = {f"state/{name}": tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    tensors |= {f"normal/{category}": tensor for category, tensor in normal.items()}
    # Not `save_file`, which reports a full disk by an error of its own.
    path.write_bytes(save(tensors, {ENTRY: about.model_dump_json(by_alias=True)}))


def read(path: Path) -> Model:
    """A model from its file. Nothing in it is executed: safetensors holds names, shapes and numbers.

    Raises:
        ValueError: the file is missing or damaged, no model, or of another schema; the message names it.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            about = About.model_validate_json((file.metadata() or {}).get(ENTRY, ""))
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is missing or damaged ({error})") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path} is not a model of schema {SCHEMA} ({where}: {first['msg']})") from None
    return Model(about, _below(tensors, "state/"), _below(tensors, "normal/"))


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
