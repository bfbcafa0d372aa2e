"""`params.yaml`: what to run and where. What can be checked without code, data or weights is checked here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from reprlib import Repr
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, StringConstraints, ValidationError

from benchmarks import yaml_files
from methods.base import InputError, did_you_mean, expand_path


def _distinct(values: list[Any]) -> list[Any]:
    if repeated := [value for value in dict.fromkeys(values) if values.count(value) > 1]:
        raise ValueError(f"repeats {', '.join(map(repr, repeated))}; remove the repetition")
    return values


def _scalar(value: Any) -> Any:
    if not isinstance(value, str | int | float):  # bool is an int
        raise ValueError(f"must be text, a number, true or false, not {_short.repr(value)}")
    return value


PATH = Path("params.yaml")
NOT_EMPTY, DISTINCT = Field(min_length=1), AfterValidator(_distinct)
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$")]
Names = Annotated[list[Name], DISTINCT]
Count = Annotated[int, Field(ge=0, strict=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Scalar = Annotated[Any, AfterValidator(_scalar)]
Ratio = Annotated[Number, Field(gt=0, lt=1)]
LoggerName = Literal["tensorboard", "mlflow", "wandb"]
ExpandedPath = Annotated[Path, AfterValidator(expand_path)]  # `~`, `$NAME` and `${NAME}` are replaced


class Compute(BaseModel, extra="forbid", frozen=True):
    """How numbers are computed where that can change their last digits: part of every fingerprint."""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = False
    deterministic: bool = True


class Interference(BaseModel, extra="forbid", frozen=True):
    """Which probes of cross-class interference are made of each category: see `benchmarks/interference.py`."""

    ratios: Annotated[list[Ratio], NOT_EMPTY, DISTINCT] = [0.3, 0.5, 0.7]
    patch: Number = Field(0.1875, gt=0, le=0.5)  # sides of the patch as a share of the image's: 48 of 256 px
    images: Count = Field(100, ge=1)  # of each ratio, and with a patch


class Resources(BaseModel, extra="forbid", frozen=True):
    """What each run may use. All but `threads` is asked of SLURM only; None leaves it to the cluster."""

    threads: Count = 0  # 0: the cores shared out over the jobs; with SLURM 4
    partition: str | None = None
    account: str | None = None
    minutes: Count = Field(24 * 60, ge=1)  # a run that needs longer resumes from its last checkpoint, in a new job
    gpus: Count = 1
    memory_gib: Number | None = Field(None, gt=0)


class Executor(Resources):
    """Where runs are executed: part of no fingerprint, so changing it re-runs nothing."""

    # A file in benchmarks/execution/executors/. local: processes on this machine; slurm: job arrays on a cluster.
    name: Name = "local"
    # auto: cuda where there is a GPU, with SLURM where `gpus` is not 0. CUDA_VISIBLE_DEVICES chooses among GPUs.
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    jobs: Count = 0  # runs at a time; 0: one per GPU, else one per core; with SLURM as many as it allows
    cache_gib: Number = Field(4.0, ge=0)  # memory of each run for teacher features
    logger: LoggerName | None = None  # which program also gets the loss terms: see benchmarks/execution/loggers.py
    resources: dict[str, Resources] = {}  # for groups (VARIANT-DATASET-PROTOCOL) that match a pattern; later ones win
    slurm_setup: list[str] = []  # shell commands before a job's Python: `module load cuda`, `source …`
    slurm_python: str | None = None  # how a job starts Python: `apptainer exec --nv lab.sif python`; None: as here
    slurm_additional: dict[str, Scalar] = {}  # further options of sbatch: `{qos: long, constraint: a100}`

    def for_group(self, group: str) -> Executor:
        """These settings, with those that `resources` has for a group."""
        stated = [r.model_dump(exclude_unset=True) for pattern, r in self.resources.items() if fnmatch(group, pattern)]
        return self.model_copy(update={name: value for entry in stated for name, value in entry.items()})


class Variant(BaseModel, extra="allow", frozen=True):
    """A method with some hyper-parameters overridden."""

    method: Name

    @property
    def overrides(self) -> dict[str, Any]:
        return self.model_extra or {}


READ_BY_DVC = ("pretrain", "conventions", "allow")  # entries with a default that dvc.yaml needs to be written out


class Params(BaseModel, extra="forbid", frozen=True):
    """The whole of `params.yaml`; the comments of `suites/toy.yaml` explain each entry."""

    suite: str = Field(min_length=1)
    methods: Annotated[Names, NOT_EMPTY]
    variants: dict[Name, Variant] = {}
    hyper_parameters: dict[str, Any] = {}
    datasets: Annotated[Names, NOT_EMPTY]
    roots: dict[Name, ExpandedPath] = {}
    categories: dict[Name, Annotated[list[str], NOT_EMPTY, DISTINCT]] = {}
    protocols: Annotated[Names, NOT_EMPTY]
    seeds: Annotated[list[Count], NOT_EMPTY, DISTINCT]
    weights: dict[str, ExpandedPath] = {}
    pretrain: Names = []
    conventions: Annotated[Names, NOT_EMPTY] = ["default"]
    allow: dict[str, str] = {}  # KIND or KIND:GROUP of a finding -> why the report may have it
    evaluate_every: Count = 0  # epochs from one evaluation on the test images to the next; 0: none
    interference: Interference | None = None
    keep_models: bool = True  # store each run's fitted method beside its predictions; part of no fingerprint
    compute: Compute = Compute()
    executor: Executor = Executor()

    @property
    def weight_files(self) -> dict[str, Path]:
        """Local weight files by teacher: those that the pipeline pre-trains, and those that `weights` names."""
        return {name: Path("results") / "teachers" / f"{name}.safetensors" for name in self.pretrain} | self.weights


def load(path: Path = PATH) -> Params:
    """Read and check a parameter file.

    Raises:
        InputError: the file is absent or not valid YAML, or an entry is unknown, missing or of the wrong type.
    """
    try:
        text = yaml_files.read(path)
    except FileNotFoundError:
        raise InputError(
            f"There is no {path} in {Path.cwd()}: run proctor in a project's folder. `proctor init DIR` makes one."
        ) from None
    return check(yaml_files.parse(text, path), path)


def check(entries: dict[str, Any], source: str | Path) -> Params:
    """The parameters in the entries of a file, which messages call `source`.

    Raises:
        InputError: an entry is unknown, missing or of the wrong type; one line for each kind of mistake.
    """
    try:
        return Params.model_validate(entries)
    except ValidationError as error:
        raise InputError("\n".join(f"{source}: {message}" for message in _messages(error))) from None


def needed_by_dvc(params: Params) -> list[str]:
    """Entries that dvc.yaml reads have to be written, even where they are the default: a sentence if any is not."""
    absent = [name for name in READ_BY_DVC if name not in params.model_fields_set]
    defaults = [f"`{name}: {json.dumps(Params.model_fields[name].default)}`" for name in absent]
    return [f"no {', '.join(absent)}, which dvc.yaml reads. Add the default: {', '.join(defaults)}."] if absent else []


_MODELS: dict[str, type[BaseModel]] = {"compute": Compute, "executor": Executor, "interference": Interference}
_EXPECTED = {
    "list_type": "must be a list",
    "dict_type": "must be a mapping, `{name: value}`",
    "model_type": "must be a mapping, `{name: value}`",
    "string_type": "must be text",
    "path_type": "must be a path",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_pattern_mismatch": "must consist of a-z, 0-9 and _",
}
_short = Repr()
_short.maxstring = 80


def _messages(error: ValidationError) -> Iterator[str]:
    """What is wrong, mistakes of one kind together."""
    missing: list[str] = []
    unknown: dict[str, list[str]] = {}  # hint -> entries
    wrong: dict[tuple[str, str], list[str]] = {}  # entry and what it must be -> values
    for entry in error.errors(include_url=False):
        place, kind, value = entry["loc"], entry["type"], entry["input"]
        is_name = place[-1] == "[key]"
        path = [str(part) for part in (place[:-2] if is_name else place) if not isinstance(part, int)]
        name = f"`{'.'.join(path)}`"
        if is_name or isinstance(place[-1], int):
            name = f"each {'name in' if is_name else 'of'} {name}"
        if kind == "invalid_key":
            wrong.setdefault(("each name of an entry", "must be text"), []).append(_short.repr(value))
        elif kind == "missing":
            missing.append(name)
        elif kind == "extra_forbidden":
            unknown.setdefault(did_you_mean(path[-1], _known(path)), []).append(name)
        elif value is None:
            wrong[name, "has no value: give it one, or remove it"] = []
        elif kind == "value_error":
            wrong[name, str(entry["ctx"]["error"]).rstrip(".")] = []
        elif kind in ("too_short", "string_too_short"):
            wrong[name, "is empty"] = []
        else:
            expected = _EXPECTED.get(kind, entry["msg"].replace("Input should", "must"))
            wrong.setdefault((name, expected), []).append(_short.repr(value))
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        yield f"{', '.join(missing)} {verb} missing (`benchmarks/suites/toy.yaml` explains every entry)."
    for hint, names in unknown.items():
        yield f"unknown {'entry' if len(names) == 1 else 'entries'} {', '.join(names)}. {hint}"
    for (name, expected), values in wrong.items():
        yield f"{name} {expected}{', not ' if values else ''}{', '.join(values)}."


def _known(path: list[str]) -> list[str]:
    """The entries that there are beside an unknown one."""
    if path[:2] == ["executor", "resources"]:
        return list(Resources.model_fields)
    return list((Params if len(path) == 1 else _MODELS[path[0]]).model_fields)
