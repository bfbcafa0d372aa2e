"""Networks that another library asks timm or torchvision for, with the weights of our teachers instead of downloads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import timm
import torchvision
from torch import nn

from methods.base import InputError
from methods.components.teachers import Teacher


def architecture(teacher: Teacher) -> str:
    """As timm and torchvision call it, without timm's tag."""
    return teacher.architecture.partition(".")[0]


@contextmanager
def replace_downloads(teacher: Teacher | None, encoder: Path | None) -> Iterator[None]:
    """Inside, pretrained networks that timm or torchvision are asked for get these weights, and none is downloaded.

    Args:
        encoder: a weight file in timm's naming, for a network that is no teacher.

    Raises:
        InputError: a network of another architecture is asked for, or a layer that the teacher does not have.
    """
    create = timm.create_model

    def from_timm(name: str, pretrained: bool = False, **how: Any) -> nn.Module:
        if pretrained and encoder:
            return create(name, pretrained=True, pretrained_cfg_overlay={"file": str(encoder)}, **how)
        network = create(name, pretrained=False, **how)
        if pretrained:
            _load(network, name, teacher, optional=())
        return network

    def from_torchvision(name: str) -> Any:
        def build(weights: None) -> nn.Module:
            return _load(
                builder(weights=None), name, teacher, optional=("layer4", "fc")
            )  # cut off by those who use torchvision

        builder = getattr(torchvision.models, name)
        return mock.patch.object(torchvision.models, name, build)

    names = [architecture(teacher)] if teacher and hasattr(torchvision.models, architecture(teacher)) else []
    no_weights = SimpleNamespace(DEFAULT=None)
    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(timm, "create_model", from_timm))
        patches.enter_context(mock.patch.object(torchvision.models, "get_model_weights", lambda name: no_weights))
        for name in names:
            patches.enter_context(from_torchvision(name))
        yield


def _load(network: nn.Module, name: str, teacher: Teacher | None, optional: tuple[str, ...]) -> nn.Module:
    """Copy the teacher's weights into another network of its architecture; layers of `optional` names may have none."""
    if teacher is None or architecture(teacher) != name:
        raise InputError(f"weights of {name} are asked for: name it as `teacher`, or a weight file as `encoder`.")
    source: Any = teacher.network
    weights = {_flat(key): value for key, value in source.model.state_dict().items()}
    needed = [key for key in network.state_dict() if not key.startswith(optional)]
    if missing := [key for key in needed if _flat(key) not in weights]:
        raise InputError(
            f"layers of {name} beyond stride 16 are asked for, which a teacher does not have, such as {missing[0]}. "
            "Choose other `layers` under `arguments`."
        )
    network.load_state_dict({key: weights[_flat(key)] for key in needed}, strict=not optional)
    return network


def _flat(key: str) -> str:
    """The name of a weight, the same whether timm has flattened the network's stages or not."""
    return key.replace(".", "_")
