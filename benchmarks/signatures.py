"""The hyper-parameters of a method, read from its file: importing a method imports torch, which takes seconds."""

from __future__ import annotations

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path

ROOT = ("methods.base", "Method")


def hyper_parameters(method: str) -> set[str] | None:
    """The names that `methods/METHOD.py` declares or inherits; None if that cannot be told without importing it.

    >>> sorted(hyper_parameters("padim"))
    ['channels', 'epsilon', 'image_size', 'teacher']
    """
    module = f"methods.{method}"
    found = [of for name in _classes(module) if (of := _fields(module, name)) is not None]
    return set().union(*found) if found else None


def _fields(module: str, name: str) -> set[str] | None:
    """The annotated attributes of a class and of its bases; None if one of them is not a class of `methods`."""
    if (module, name) == ROOT:
        return set()
    node, imported = _classes(module).get(name), _imported(module)
    if node is None:
        return None
    names = _own(node)
    for base in node.bases:
        if not isinstance(base, ast.Name):
            return None
        inherited = _fields(imported.get(base.id, module), base.id)
        if inherited is None:
            return None
        names |= inherited
    return names


def _own(node: ast.ClassDef) -> set[str]:
    annotated = [item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
    return {ast.unparse(item.target) for item in annotated if not ast.unparse(item.annotation).startswith("ClassVar")}


def _statements(module: str) -> list[ast.stmt]:
    """Those of a module of `methods`; none of another one, or if it is not there."""
    spec = find_spec(module) if module.startswith("methods.") else None
    return _parsed(Path(spec.origin).read_text(encoding="utf-8")) if spec and spec.origin else []


@cache
def _parsed(text: str) -> list[ast.stmt]:
    return ast.parse(text).body


def _classes(module: str) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in _statements(module) if isinstance(node, ast.ClassDef)}


def _imported(module: str) -> dict[str, str]:
    """The modules that names come from."""
    imports = [node for node in _statements(module) if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: node.module or "" for node in imports for alias in node.names}
