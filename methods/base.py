"""The interface between Proctor and a method: what a method receives, and what it must return."""

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
    from torch import Tensor, nn


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
    """One image as a method receives it: no label, no mask, and a key that reveals neither.

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
        """The image at native resolution, (3, H, W) uint8 RGB. Decoded at each access."""
        return self.read()


class Prediction(NamedTuple):
    """A method's output for one image; higher is more anomalous."""

    score: float
    anomaly_map: Tensor  # (h, w) float32, in the frame of the full image, any size


class Progress(NamedTuple):
    """How far a running method has come."""

    phase: Literal["amplify", "fit", "predict"]  # amplify: training of AAND's amplifiers, before the fit
    done: int  # epochs, or images in predict
    total: int
    terms: Mapping[str, float] = {}  # loss terms of the epoch, by name


# Takes a function from test samples to predictions, returns metrics by name.
TestEvaluation = Callable[[Callable[[Sequence[Sample]], Iterator[Prediction]]], Mapping[str, float]]


@dataclass(frozen=True)
class Context:
    """What a method receives besides data and hyper-parameters.

    Attributes:
        seed: seeds every random generator that the method uses.
        device: a torch device string.
        precision: of the student's forward and backward pass; others than float32 are autocast.
        channels_last: memory format of images and student.
        deterministic: ask torch for deterministic algorithms.
        weights: local weight files by teacher name; teachers not named here come from the hub.
        cache: a folder that belongs to this revision of the data set, shared by all runs; None: no disk cache.
        cache_gib: memory in GiB that cached teacher features may take before they go to `cache`.
        predict_batch: images that are predicted at a time; the runner lowers it if a GPU's memory is short.
        checkpoint: the file in which a fit saves its state and from which it resumes; None: neither.
        evaluate_test: calls a function that predicts the test images and returns metrics by name; the ground truth
            stays hidden. A method may record them in its history; to select an epoch by them is a diagnostic only.
        evaluate_every: epochs from one call of `evaluate_test` to the next; the last epoch is always evaluated.
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

    `__init__` stores, `fit` learns, and the names of learned attributes end in an underscore.
    """

    paper: ClassVar[str]  # citation with arXiv number or venue
    source: ClassVar[str]  # official code and commit, or "none found"
    deviations: ClassVar[tuple[str, ...]] = ()  # differences from paper or code, printed with every table

    @abstractmethod
    def fit(self, train: Sequence[Sample], validation: Sequence[Sample], context: Context) -> Self:
        """Learn from normal images.

        Args:
            train: normal images, of one category or of many.
            validation: other normal images, for selection and normalisation; empty if the data set has none.

        Raises:
            InputError: the images or hyper-parameters cannot be used; the message says why and what to do.
        """

    @abstractmethod
    def predict(self, test: Sequence[Sample], context: Context) -> Iterator[Prediction]:
        """Yield one prediction per image, in order."""

    def state(self) -> dict[str, Tensor] | None:
        """All that `predict` needs of what `fit` learned, without the teacher, by name; None: it cannot be stored."""
        return None

    def load_state(self, state: Mapping[str, Tensor], context: Context) -> Self:
        """Take over the `state` of a fitted method of the same hyper-parameters, in place of a fit.

        `predict` then gives the same bits; `record` tells of a fit alone.

        Raises:
            KeyError, RuntimeError: the state is of another method, or of other hyper-parameters.
            InputError: the teacher cannot be used.
        """
        raise NotImplementedError(f"{type(self).__name__} has no state")

    def network(self) -> nn.Module | None:
        """The fitted method as one network, to be exported; None: it cannot be.

        From images, (B, 3, image_size, image_size) float32 in [0, 1], to scores, (B,), and anomaly maps, (B, h, w).
        """
        return None

    def held_out(self, train: Sequence[Sample], validation: Sequence[Sample]) -> list[Sample]:
        """Those of the training images that `fit`, given the same, does not train on."""
        return []

    def unsupported(self, dataset: str, protocol: str) -> str | None:
        """The reason why this method cannot run on a data set under a protocol, or None if it can."""
        return None

    @property
    def record(self) -> dict[str, Any]:
        """What is stored with the results after `fit`, as JSON values: loss history, selected epoch, teacher."""
        return {}
