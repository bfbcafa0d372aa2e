"""`params.yaml`: what to run and where, checked."""

from __future__ import annotations

from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, StringConstraints, ValidationError

from methods.base import InputError

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$")]


class Compute(BaseModel, extra="forbid", frozen=True):
    """How numbers are computed where that can change their last digits: part of every fingerprint."""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = False
    compile: bool = False
    deterministic: bool = True


class Interference(BaseModel, extra="forbid", frozen=True):
    """What probes of cross-class interference are made, for each category: see `benchmarks/interference.py`."""

    ratios: list[Annotated[float, Field(gt=0, lt=1)]] = Field([0.3, 0.5, 0.7], min_length=1)
    patch: float = Field(0.1875, gt=0, le=0.5)  # sides of the patch as a share of the image's: 48 of 256 px
    images: int = Field(100, ge=1)  # of each ratio, and with a patch


class Resources(BaseModel, extra="forbid", frozen=True):
    """What each run may take. All but `threads` is asked of SLURM only; None leaves it to the cluster."""

    threads: int = Field(0, ge=0)  # 0: the cores shared out over the jobs; with SLURM 4
    partition: str | None = None
    account: str | None = None
    minutes: int = Field(24 * 60, ge=1)  # a run that needs longer goes on from its last checkpoint, in a new job
    gpus: int = Field(1, ge=0)
    memory_gib: float | None = Field(None, gt=0)


class Executor(Resources):
    """Where runs are executed: part of no fingerprint, so that changing it re-runs nothing."""

    # A file in benchmarks/execution/executors/. local: processes on this machine; slurm: job arrays on a cluster.
    name: Name = "local"
    device: str = "auto"  # a torch device; auto: cuda where there is one, with SLURM where `gpus` is not 0
    jobs: int = Field(0, ge=0)  # runs at a time; 0: one per GPU, else one per core; with SLURM as many as it will
    cache_gib: float = Field(4.0, ge=0)  # memory of each run for teacher features
    resources: dict[str, Resources] = {}  # for groups (VARIANT-DATASET-PROTOCOL) that match a pattern; later ones win
    slurm_setup: list[str] = []  # shell commands before a job's Python: `module load cuda`, `source …`
    slurm_python: str | None = None  # how a job starts Python: `apptainer exec --nv lab.sif python`; None: as here
    slurm_additional: dict[str, str | int | bool] = {}  # further options of sbatch: `{qos: long, constraint: a100}`

    def for_group(self, group: str) -> Executor:
        """These settings, with what `resources` says of a group."""
        stated = [r.model_dump(exclude_unset=True) for pattern, r in self.resources.items() if fnmatch(group, pattern)]
        return self.model_copy(update={name: value for entry in stated for name, value in entry.items()})


class Variant(BaseModel, extra="allow", frozen=True):
    """A method with some hyper-parameters overridden."""

    method: Name

    @property
    def overrides(self) -> dict[str, Any]:
        return self.model_extra or {}


class Params(BaseModel, extra="forbid", frozen=True):
    """The whole of `params.yaml`; its comments say what each entry means."""

    suite: str
    methods: list[Name] = Field(min_length=1)
    variants: dict[Name, Variant] = {}
    hyper_parameters: dict[str, Any] = {}
    datasets: list[Name] = Field(min_length=1)
    roots: dict[Name, Path] = {}
    categories: dict[Name, list[str]] = {}
    protocols: list[Name] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)
    weights: dict[str, Path] = {}
    pretrain: list[Name]
    conventions: list[Name] = Field(min_length=1)
    allow: dict[str, str]  # by kind of finding, or KIND:GROUP, why the report may have it: see reports/lint.py
    evaluate_every: int = Field(0, ge=0)  # epochs from one look at the test images to the next; 0: none
    interference: Interference | None = None
    compute: Compute = Compute()
    executor: Executor = Executor()

    @property
    def weight_files(self) -> dict[str, Path]:
        """Local weight files by teacher: those that the pipeline pre-trains, and those that `weights` names."""
        return {name: Path("results") / "teachers" / f"{name}.safetensors" for name in self.pretrain} | self.weights


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check a parameter file.

    Raises:
        InputError: the file is absent or no YAML, or an entry is unknown, missing or of the wrong kind.
    """
    try:
        params = Params.model_validate(yaml.safe_load(path.read_text()))
    except FileNotFoundError:
        raise InputError(f"There is no {path} in {Path.cwd()}: run proctor in the project's folder.") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from None
    except ValidationError as error:
        raise InputError("\n".join(f"{path}: {_explain(dict(entry))}" for entry in error.errors())) from None
    lists = {entry: getattr(params, entry) for entry in ("methods", "datasets", "protocols", "seeds")}
    if params.interference:
        lists["interference.ratios"] = params.interference.ratios
    for entry, listed in lists.items():
        if len(set(listed)) < len(listed):
            raise InputError(f"{path}: `{entry}` lists something twice: {listed}. Remove the repetition.")
    return params


def _explain(entry: dict[str, Any]) -> str:
    where = ".".join(map(str, entry["loc"])) or "the file"
    if entry["type"] == "extra_forbidden":
        kinds: dict[str, type[BaseModel]] = {"compute": Compute, "executor": Executor, "interference": Interference}
        known = kinds.get(str(entry["loc"][0]), Params).model_fields
        near = get_close_matches(where.rpartition(".")[2], known, 1)
        return f"there is no entry `{where}`; " + (
            f"did you mean `{near[0]}`?" if near else f"known: {', '.join(known)}."
        )
    if entry["type"] == "missing":
        return f"`{where}` is missing; add it (`proctor use toy` writes a complete file)."
    return f"`{where}`: {entry['msg']}; it is {entry['input']!r}."
