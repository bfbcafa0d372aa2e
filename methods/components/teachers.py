"""Teachers: frozen timm feature extractors with three stages, at strides 4, 8 and 16.

A teacher is named in one of three ways:

- by timm's pinned tag (`wide_resnet50_2.tv_in1k`), from timm's hub or from a local file in timm's naming;
- by architecture and `untrained` (`resnet18.untrained`): random weights, always the same, for tests and comparison;
- by any other name, for a local safetensors file whose metadata has an entry `teacher`: JSON with `architecture` and
  `pretraining`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import load_state_dict
from torch import Tensor, nn

from methods.base import InputError

STRIDES = (4, 8, 16)
UNTRAINED = "untrained"


class _Origin(NamedTuple):
    architecture: str  # a timm name, with its tag
    pretraining: str
    file: Path | None


class Teacher(nn.Module):
    """A frozen network whose three feature maps a student learns.

    Attributes:
        name: as given to `load`.
        digest: identifies the weights: the SHA-256 of a local file, or the pinned name on timm's hub.
        pretraining: the training data, such as "ImageNet-1k".
        channels: of the three feature maps, finest first.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, origin: _Origin, digest: str, network: Any) -> None:
        super().__init__()
        self.name, self.digest, self.pretraining = name, digest, origin.pretraining
        self.architecture = origin.architecture
        self.network: nn.Module = network
        self.channels: list[int] = network.feature_info.channels()
        settings = network.pretrained_cfg
        for statistic, default in (("mean", IMAGENET_DEFAULT_MEAN), ("std", IMAGENET_DEFAULT_STD)):
            self.register_buffer(statistic, torch.tensor(settings.get(statistic, default)).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: the batch-norm statistics of a frozen teacher are frozen as well."""
        return super().train(False)

    def normalise(self, images: Tensor) -> Tensor:
        """(B, 3, s, s) uint8 in [0, 255] to float32, normalised as in the teacher's own training."""
        return (images.float() / 255 - self.mean) / self.std

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images, (B, 3, s, s), to three maps, (B, C_l, s/4, s/4) to (B, C_l, s/16, s/16)."""
        return self.network(images)

    def check(self, size: int) -> None:
        """Make sure that images of size x size pixels give maps at these strides; some transformers accept one size.

        Raises:
            InputError: they do not.
        """
        try:
            sides = [tuple(level.shape[2:]) for level in self(self.mean.new_zeros(1, 3, size, size))]
        except (AssertionError, RuntimeError) as error:
            raise InputError(
                f"Teacher {self.name!r} does not accept images of {size} pixels ({error}). Set image_size to what it "
                "asks for, if that is a multiple of 32, or choose another teacher."
            ) from None
        if sides != [(size // stride, size // stride) for stride in STRIDES]:
            raise InputError(
                f"Teacher {self.name!r} returns maps of {sides} for images of {size} pixels, not at strides 4, 8 and "
                "16. Choose another teacher."
            )

    def untrained_copy(self) -> nn.Module:
        """The same architecture with new random weights, trainable."""
        network = _build(self.architecture)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d) and module.affine:
                nn.init.ones_(module.weight)  # as torchvision; timm starts the last one of a residual block at zero
        return network

    @property
    def record(self) -> dict[str, str]:
        return {"name": self.name, "sha256": self.digest, "pretraining": self.pretraining}


def load(name: str, weights: Mapping[str, Path]) -> Teacher:
    """Build a teacher on the CPU.

    Args:
        name: see the module's description.
        weights: local weight files by teacher name.

    Raises:
        InputError: the name is unknown, the architecture has no maps at strides 4, 8 and 16, the weights cannot be
            downloaded, or the file is missing, unreadable or of another architecture.
    """
    origin = _origin(name, weights)
    digest_ = digest(name, weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # an untrained teacher is always the same
        if name.endswith("." + UNTRAINED):
            network = _build(origin.architecture)
        elif origin.file:
            network = _build_from_file(name, origin.architecture, origin.file)
        else:
            network = _build_from_hub(name)
    return Teacher(name, origin, digest_, network)


def digest(name: str, weights: Mapping[str, Path]) -> str:
    """Identify a teacher's weights without loading them: the file's SHA-256, else the hub's pinned name.

    Raises:
        InputError: the name is unknown, or the file is missing.
    """
    origin = _origin(name, weights)
    if origin.file:
        with origin.file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    if name.endswith("." + UNTRAINED):
        return f"{name}, torch seed 0"
    pinned: Any = timm.get_pretrained_cfg(name)
    return f"hub:{pinned.hf_hub_id}"


def _origin(name: str, weights: Mapping[str, Path]) -> _Origin:
    architecture, _, tag = name.partition(".")
    file = Path(os.path.expanduser(os.path.expandvars(weights[name]))) if name in weights else None
    if file and not file.is_file():
        raise InputError(f"The weight file of teacher {name!r} is missing: {file}. Correct its path under `weights`.")
    if file and (metadata := _metadata(file)).get("architecture"):
        return _Origin(metadata["architecture"], metadata.get("pretraining", "not stated in its file"), file)
    if not timm.is_model(architecture):
        similar = ", ".join(timm.list_models(f"*{architecture}*")[:3])
        hint = f"timm has {similar}." if similar else "Give a timm model with its tag, such as resnet18.tv_in1k."
        raise InputError(f"Teacher {name!r} is unknown to timm and has no file under `weights`. {hint}")
    if tag == UNTRAINED:
        return _Origin(architecture, "random weights (untrained)", None)
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    if tag not in tags:
        raise InputError(f"Teacher {name!r} needs one of timm's tags for {architecture}: {', '.join(tags)}.")
    return _Origin(name, _training_data(tag), file)


def _metadata(file: Path) -> dict[str, str]:
    if file.suffix != ".safetensors":
        return {}
    try:
        with safe_open(file, "pt") as opened:
            return json.loads((opened.metadata() or {}).get("teacher", "{}"))
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise InputError(f"{file} is not a readable safetensors file ({error}). Download it again.") from None


def _training_data(tag: str) -> str:
    """The training data that a timm tag stands for.

    >>> _training_data("tv_in1k"), _training_data("fb_ft_in22k_in1k")
    ('ImageNet-1k', 'ImageNet-1k after other data, timm tag fb_ft_in22k_in1k')
    """
    data = re.search(r"in(1|12|21|22)k$", tag)
    if not data:
        return f"timm tag {tag}"
    return f"ImageNet-{data[1]}k" + (f" after other data, timm tag {tag}" if "_ft_" in tag else "")


def _build(architecture: str, **arguments: Any) -> nn.Module:
    """The architecture up to stride 16. timm's "getter" leaves out every layer after the last map."""
    try:
        with torch.device("meta"):
            whole: Any = timm.create_model(architecture, features_only=True)
        strides = whole.feature_info.reduction()
        indices = [strides.index(stride) for stride in STRIDES]
    except ValueError:
        raise InputError(
            f"{architecture} cannot be a teacher: it has feature maps at strides {strides}, not at 4, 8 and 16."
        ) from None
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        raise InputError(f"{architecture} cannot be a teacher: timm offers no feature maps of it ({error}).") from None
    return timm.create_model(architecture, features_only=True, feature_cls="getter", out_indices=indices, **arguments)


def _build_from_hub(name: str) -> nn.Module:
    try:
        return _build(name, pretrained=True)
    except InputError:
        raise
    except Exception as error:  # the hub's client raises errors of several libraries
        raise _no_hub(name, error) from error


def check_hub(name: str, weights: Mapping[str, Path]) -> None:
    """Make sure that the hub has a teacher's weights, or has given them before, without fetching them.

    Raises:
        InputError: the name is unknown, or the hub cannot be reached or does not have them.
    """
    origin = _origin(name, weights)
    if origin.file or name.endswith("." + UNTRAINED):
        return
    pinned: Any = timm.get_pretrained_cfg(name)
    if not pinned.hf_hub_id:
        return  # timm has only the address of a file, and fetches it when it is needed
    repository, _, revision = pinned.hf_hub_id.partition("@")
    file = pinned.hf_hub_filename or "model.safetensors"
    if isinstance(try_to_load_from_cache(repository, file, revision=revision or None), str):
        return
    try:
        get_hf_file_metadata(hf_hub_url(repository, file, revision=revision or None), timeout=10)
    except Exception as error:  # as in `_build_from_hub`
        raise _no_hub(name, error) from error


def _no_hub(name: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())
    return InputError(
        f"The weights of teacher {name!r} cannot be downloaded ({type(error).__name__}: {reason}). "
        f"Without a network, download the file elsewhere and give its path: `weights: {{{name}: PATH}}`."
    )


def _build_from_file(name: str, architecture: str, file: Path) -> nn.Module:
    """Load a local file after a check that it is of this architecture: timm itself would skip what differs."""
    try:
        state = load_state_dict(str(file))
    except Exception as error:  # torch and safetensors raise many kinds for a broken file
        raise InputError(
            f"{file}, the weights of teacher {name!r}, cannot be read ({error}). Download it again."
        ) from error
    with torch.device("meta"):
        whole = timm.create_model(architecture).state_dict()
        needed = {key.removeprefix("model."): value for key, value in _build(architecture).state_dict().items()}
    missing = [key for key in needed if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in whole]
    reshaped = [key for key in needed if key in state and state[key].shape != needed[key].shape]
    if missing or unknown or reshaped:
        problems = {"missing": missing, "unknown": unknown, "of another shape": reshaped}
        examples = ", ".join(f"{len(keys)} {problem} ({keys[0]})" for problem, keys in problems.items() if keys)
        raise InputError(
            f"{file} does not hold weights of {architecture}, as teacher {name!r} requires: layers {examples}. "
            "Give a file of this architecture, or the name of the teacher that the file holds."
        )
    return _build(architecture, pretrained=True, pretrained_cfg_overlay={"file": str(file)})
