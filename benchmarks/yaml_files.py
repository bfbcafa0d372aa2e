"""YAML files that people write: read as DVC reads them (YAML 1.2), or refused in one line. A leaf."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, MappingNode, Node, SequenceNode
from ruamel.yaml.error import MarkedYAMLError

from methods.base import InputError

MOST_VALUES = 10_000  # with every alias written out; far more is a mistake or an attack


def read(path: Path) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{path}, line {line}: not UTF-8 text. Save the file as UTF-8.") from None


def parse(text: str, source: str | Path) -> dict[str, Any]:
    """The entries of a YAML mapping.

    Args:
        text: the content of the file.
        source: how messages name it.

    Raises:
        InputError: the text is not valid YAML, not a mapping, or names an entry twice; names the line.
    """
    if conflict := re.search(r"^(<{7}|>{7})(?![<>])", text, re.MULTILINE):
        line = text.count("\n", 0, conflict.start()) + 1
        raise InputError(f"{source}, line {line}: an unresolved merge conflict. Resolve it, then try again.")
    try:
        root = _yaml().compose(text)
        if _size(root, {}) > MOST_VALUES:
            raise InputError(f"{source} has more than {MOST_VALUES} values, its aliases written out. Shorten it.")
        value = _yaml().load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = str(error.problem).partition(" with value")[0]  # of a repeated entry
        raise InputError(f"{source}{f', line {mark.line + 1}' if mark else ''}: {problem}.") from None
    except InputError:
        raise
    except Exception as error:  # the parser raises many kinds: nesting too deep, a date with a month 13, a null byte
        raise InputError(f"{source} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(value, dict):
        kind = "empty" if value is None else f"a {'list' if isinstance(value, list) else 'single value'}"
        raise InputError(f"{source} is {kind}; it must have entries, such as `suite: toy`.")
    return value


def excerpt(text: str, names: Collection[str]) -> str:
    """Some top-level entries of a YAML mapping as they are written, with the comments in and directly above them.

    >>> print(excerpt("a: 1\\n# two\\nb: 2  # b\\nc: 3\\n", ["b"]), end="")
    # two
    b: 2  # b
    """
    root = _yaml().compose(text)
    keys = {key.value: key.start_mark.line for key, _ in root.value} if isinstance(root, MappingNode) else {}
    lines = text.splitlines()
    starts = {name: _first_comment(lines, line) for name, line in keys.items()}
    ends = [*list(starts.values())[1:], len(lines)]
    kept = []
    for (name, start), end in zip(starts.items(), ends, strict=True):
        if name in names:
            kept.append("\n".join(lines[start:end]).rstrip() + "\n")
    return "".join(kept)


def dump(value: dict[str, Any]) -> str:
    """A mapping as YAML."""
    stream = StringIO()
    YAML().dump(value, stream)  # unlike the safe type's, in the order of `value`
    return stream.getvalue()


def _yaml() -> YAML:
    return YAML(typ="safe", pure=True)


def _size(node: Node | None, sizes: dict[int, float]) -> float:
    """How many values a node holds, with every alias written out; infinite for one that contains itself."""
    if id(node) not in sizes:
        sizes[id(node)] = math.inf
        children: list[Node] = []
        if isinstance(node, SequenceNode):
            children = node.value
        elif isinstance(node, MappingNode):
            children = [child for pair in node.value for child in pair]
        sizes[id(node)] = 1 + sum(_size(child, sizes) for child in children)
    return sizes[id(node)]


def _first_comment(lines: list[str], line: int) -> int:
    """The first of the comment lines directly above a line."""
    while line and lines[line - 1].startswith("#"):
        line -= 1
    return line
