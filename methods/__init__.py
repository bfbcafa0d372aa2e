"""Methods: one file each, found by its name. A new file is a new method; there is nothing to register.

Create a method by name, fit it to normal images, predict others:

>>> import torch
>>> import methods
>>> from methods.base import Context, Sample
>>> def stripes(seed: int, defect: bool = False) -> Sample:
...     image = torch.randint(90, 110, (3, 64, 64), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
...     image[:, ::8] += 80
...     if defect:
...         image[:, 20:36, 20:36] = 250
...     return Sample(f"stripes/{seed}", "stripes", lambda: image)
>>> method = methods.create("fd", teacher="test_resnet.untrained", image_size=64, epochs=10, batch_size=4)
>>> method = method.fit([stripes(seed) for seed in range(8)], validation=[], context=Context())
>>> normal, defective = method.predict([stripes(8), stripes(9, defect=True)], Context())
>>> defective.score > normal.score
True
>>> defective.anomaly_map.shape
torch.Size([64, 64])
"""

from __future__ import annotations

import pkgutil
import traceback
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from methods.base import InputError, Method, did_you_mean, expand_path


def load(name: str) -> type[Method]:
    """The method class in `methods/<name>.py`.

    Raises:
        InputError: there is no such file, it cannot be imported, or it defines no method.
    """
    if name not in _files():
        hint = did_you_mean(name, names())
        raise InputError(f"There is no method {name!r}. {hint} To add it, create methods/{name}.py.")
    classes = _defined_in(_module(name))
    if len(classes) != 1:
        raise InputError(f"methods/{name}.py must define one complete subclass of Method; it has {len(classes)}.")
    return classes[0]


def is_method(name: str) -> bool:
    """Whether `methods/<name>.py` is there and defines a method."""
    return name in _files() and bool(_defined_in(_module(name)))


def names() -> list[str]:
    """The names of all methods, sorted."""
    return [name for name in sorted(_files()) if is_method(name)]


def hyper_parameters(method: type[Method]) -> list[str]:
    """The names of a method's hyper-parameters, in the order of its definition.

    >>> hyper_parameters(load("rd"))[-2:]
    ['loss', 'bottleneck_width']
    """
    return [field.name for field in fields(method)]


def create(name: str, **values: Any) -> Method:
    """A method with some hyper-parameters overridden.

    Raises:
        InputError: the method or a hyper-parameter is unknown, or a value has the wrong type or is out of range.
    """
    method = load(name)
    hints, known = get_type_hints(method), hyper_parameters(method)
    checked = {}
    for key, value in values.items():
        if key not in known:
            raise InputError(f"Method {name!r} has no hyper-parameter {key!r}. {did_you_mean(key, known)}")
        try:
            validated = TypeAdapter(hints[key]).validate_python(value)
        except ValidationError as error:
            reasons = "; ".join(str(part["msg"]) for part in error.errors())
            raise InputError(f"Method {name!r}, {key}={value!r}: {reasons}.") from None
        checked[key] = expand_path(validated) if isinstance(validated, Path) else validated
    return method(**checked)


def _files() -> set[str]:
    return {module.name for module in pkgutil.iter_modules(__path__)}


def _module(name: str) -> ModuleType:
    try:
        return import_module(f"methods.{name}")
    except Exception as error:
        if isinstance(error, SyntaxError):
            place, message = f"{error.filename}, line {error.lineno}", error.msg
        else:
            frames = traceback.extract_tb(error.__traceback__)
            ours = [frame for frame in frames if any(Path(frame.filename).is_relative_to(path) for path in __path__)]
            place, message = f"{ours[-1].filename}, line {ours[-1].lineno}", str(error)
        raise InputError(f"{place}: {type(error).__name__}: {message}") from error


def _defined_in(module: ModuleType) -> list[type[Method]]:
    classes = [item for item in vars(module).values() if isinstance(item, type) and item.__module__ == module.__name__]
    return [item for item in classes if issubclass(item, Method) and not getattr(item, "__abstractmethods__", None)]
