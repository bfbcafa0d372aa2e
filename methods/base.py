"""The whole contract between Proctor and a method: what it may see, what it must give back."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

if TYPE_CHECKING:  # importing torch takes seconds, which `proctor status` need not spend
    from torch import Tensor


class InputError(ValueError):
    """Bad input. The message names the file, the value and what to do."""


def did_you_mean(name: object, known: Iterable[str], otherwise: str = "") -> str:
    """The end of a message about an unknown name: the nearest known name, else `otherwise`, else all of them.

    >>> did_you_mean("one_clas", ["one_class", "multi_class"])
    "Did you mean 'one_class'?"
    >>> did_you_mean("few_shot", ["one_class", "multi_class"])
    'Known: one_class, multi_class.'
    """
    names = list(known)
    near = get_close_matches(str(name), names, 1)
    return f"Did you mean {near[0]!r}?" if near else otherwise or f"Known: {', '.join(names) or 'none'}."


def expand_path(path: str | Path) -> Path:
    """A path with `~`, `$NAME` and `${NAME}` replaced.

    Raises:
        InputError: an environment variable is not set.

    >>> expand_path("/data/toy")
    PosixPath('/data/toy')
    """
    expanded = os.path.expanduser(os.path.expandvars(path))
    if unset := re.search(r"\$(\w+|\{\w+\})", expanded):
        raise InputError(f"{path}: the environment variable {unset[0].strip('${}')} is not set.")
    return Path(expanded)


@dataclass(frozen=True)
class Sample:
    """What a method may see of one image: no label, no mask, and a key that gives neither away.

    Attributes:
        key: unique and stable, "category/split/hash", e.g. "bottle/test/1f0c3b7a52e9".
        category: for reading back results; a multi-class method must not train on it.
        read: decodes the image; called by `image`.
    """

    key: str
    category: str
    read: Callable[[], Tensor]

    @property
    def image(self) -> Tensor:
        """The image at native resolution, (3, H, W) uint8 RGB. Decoded anew at each access."""
        return self.read()


class Prediction(NamedTuple):
    """A method's answer for one image; higher is more anomalous."""

    score: float
    anomaly_map: Tensor  # (h, w) float32, in the frame of the full image, any size


class Progress(NamedTuple):
    """One report from a running method."""

    phase: Literal["amplify", "fit", "predict"]  # amplify: of a teacher, before the fit
    done: int  # epochs, or images in predict
    total: int
    terms: Mapping[str, float] = {}  # loss terms of the epoch, by name


TestEvaluation = Callable[[Callable[[Sequence[Sample]], Iterator[Prediction]]], Mapping[str, float]]


@dataclass(frozen=True)
class Context:
    """Everything a run gives to a method besides data and hyper-parameters.

    Attributes:
        seed: seeds every random generator that the method uses.
        device: a torch device string.
        precision: of the student's forward and backward pass; anything but float32 is autocast.
        channels_last: memory format of images and student.
        deterministic: ask torch for deterministic algorithms.
        weights: local weight files by teacher name; teachers not named here come from the hub.
        cache: a folder that belongs to this revision of the data set, shared by all runs; None: no disk cache.
        cache_gib: memory that cached teacher features may take before they go to `cache`.
        predict_batch: images that are predicted at a time; the runner lowers it where a GPU's memory is short.
        checkpoint: where a fit saves its state, and from where it resumes; None: neither.
        evaluate_test: has a function predict the test images and measures the result, without showing the truth. A
            method may record it, as the course of training; to choose an epoch by it is a diagnostic, labelled so.
        evaluate_every: epochs from one call of `evaluate_test` to the next; the last epoch is evaluated in any case.
        progress: called after every epoch and every predicted batch.
    """

    seed: int = 0
    device: str = "cpu"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = False
    deterministic: bool = True
    weights: Mapping[str, Path] = field(default_factory=dict)
    cache: Path | None = None
    cache_gib: float = 4.0
    predict_batch: int = 16
    checkpoint: Path | None = None
    evaluate_test: TestEvaluation | None = None
    evaluate_every: int = 1
    progress: Callable[[Progress], None] = lambda progress: None


@dataclass(kw_only=True, eq=False)
class Method(ABC):
    """An anomaly-detection method. Its hyper-parameters are the fields of the dataclass, with the paper's values.

    `__init__` stores, `fit` learns, and what is learnt ends in an underscore.
    """

    paper: ClassVar[str]  # citation with arXiv number or venue
    source: ClassVar[str]  # official code and commit, or "none found"
    deviations: ClassVar[tuple[str, ...]] = ()  # where this differs from paper or code, printed with every table

    @abstractmethod
    def fit(self, train: Sequence[Sample], validation: Sequence[Sample], context: Context) -> Self:
        """Learn from normal images.

        Args:
            train: normal images, of one category or of many.
            validation: further normal images for selection and normalisation; empty where the data set has none.

        Raises:
            InputError: the images or hyper-parameters cannot be used; says why and what to do.
        """

    @abstractmethod
    def predict(self, test: Sequence[Sample], context: Context) -> Iterator[Prediction]:
        """Yield one prediction per image, in order."""

    @classmethod
    def unsupported(cls, dataset: str, protocol: str) -> str | None:
        """The reason why this method cannot run there, or None if it can."""
        return None

    @property
    def record(self) -> dict[str, Any]:
        """What `fit` wants remembered with the results, as JSON values: loss history, chosen epoch, teacher."""
        return {}
