"""Methods: one file each, found by its name. A new file is a new method; there is nothing to register."""

from __future__ import annotations

import pkgutil
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
        InputError: there is no such file, or it defines no method.
    """
    if name not in _files():
        raise InputError(f"There is no method {name!r}. {did_you_mean(name, names())} A new one is methods/{name}.py.")
    found = _defined_in(import_module(f"methods.{name}"))
    if len(found) != 1:
        raise InputError(f"methods/{name}.py must define one complete subclass of Method; it has {len(found)}.")
    return found[0]


def is_method(name: str) -> bool:
    """Whether `methods/<name>.py` is there and defines a method."""
    return name in _files() and bool(_defined_in(import_module(f"methods.{name}")))


def names() -> list[str]:
    """All methods, sorted."""
    return [name for name in sorted(_files()) if is_method(name)]


def hyper_parameters(method: type[Method]) -> list[str]:
    """The names of a method's hyper-parameters, in the order of its definition."""
    return [field.name for field in fields(method)]


def create(name: str, **values: Any) -> Method:
    """A method with some hyper-parameters overridden.

    Raises:
        InputError: the method or a hyper-parameter is unknown, or a value is of the wrong kind or out of range.
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
            complaints = "; ".join(str(part["msg"]) for part in error.errors())
            raise InputError(f"Method {name!r}, {key}={value!r}: {complaints}.") from None
        checked[key] = expand_path(validated) if isinstance(validated, Path) else validated
    return method(**checked)


def _files() -> set[str]:
    return {module.name for module in pkgutil.iter_modules(__path__)}


def _defined_in(module: ModuleType) -> list[type[Method]]:
    classes = [item for item in vars(module).values() if isinstance(item, type) and item.__module__ == module.__name__]
    return [item for item in classes if issubclass(item, Method) and not getattr(item, "__abstractmethods__", None)]
