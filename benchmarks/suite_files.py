"""Suites: parameter files with a name, and how one of them becomes `params.yaml`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import params, yaml_files
from methods.base import InputError, did_you_mean
from methods.components.atomic import replacing

SUITES = Path(__file__).parent / "suites"
SCHEMA_LINE = "# yaml-language-server: $schema=benchmarks/params.schema.json"  # by which editors check params.yaml
YOURS = ("executor", "roots", "weights")  # what a user's machine decides, and no suite of ours states


class Selected(NamedTuple):
    """What happened to the entries of `YOURS` that the parameter file had."""

    kept: list[str]
    replaced: list[str]  # by the suite's own, and left as comments


def select(suite: str, target: Path, check: Callable[[dict[str, Any], str | Path], object] = params.check) -> Selected:
    """Write a suite into a parameter file, whole or not at all.

    Args:
        suite: the name of a file in `benchmarks/suites`, or the path of another.
        target: the parameter file. Its `executor`, `roots` and `weights` stay as they are written there.
        check: raises an InputError if the entries of a file are wrong.

    Raises:
        InputError: there is no such suite, it or the parameter file is wrong, or the latter cannot be written; it is
            then as it was.
    """
    source = _find(suite)
    text = yaml_files.read(source)
    chosen = yaml_files.parse(text, source)
    defaults = {name: params.Params.model_fields[name].default for name in params.READ_BY_DVC if name not in chosen}
    check(chosen | defaults, source)
    before_text, before = _before(target)
    stated = [name for name in YOURS if name in before]
    kept = {name: before[name] for name in stated if name not in chosen}
    replaced = [name for name in stated if name in chosen and chosen[name] != before[name]]
    entries = chosen | defaults | kept
    check(entries, target)

    # As text, so that comments reach the reader.
    text = re.sub(r"^# yaml-language-server:.*\n+", "", text).rstrip() + "\n"  # its schema's path is the suite's
    if defaults:
        text += f"\n# Defaults, which dvc.yaml reads.\n{yaml_files.dump(defaults)}"
    if kept:
        text += f"\n# Yours: kept by `proctor use`.\n\n{yaml_files.excerpt(before_text, kept)}"
    if not _holds(text, entries):  # one of the files has its entries in braces, or marks the end of a document
        text = yaml_files.dump(entries)
    if replaced:
        old = yaml_files.excerpt(before_text, replaced)
        text += "\n# Replaced by the suite's own:\n\n" + "".join(f"# {line}\n" for line in old.splitlines())
    try:
        with replacing(target.resolve()) as partial:
            partial.write_text(f"{SCHEMA_LINE}\n\n{text}", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror}.") from None
    return Selected(list(kept), replaced)


def _find(suite: str) -> Path:
    known = sorted(path.stem for path in SUITES.glob("*.yaml"))
    if suite in known:
        return SUITES / f"{suite}.yaml"
    if not Path(suite).exists():
        raise InputError(f"There is no suite or file {suite!r}. {did_you_mean(suite, known)}")
    return Path(suite)


def _before(target: Path) -> tuple[str, dict[str, Any]]:
    """Text and entries of the parameter file so far."""
    try:
        text = yaml_files.read(target)
        return text, yaml_files.parse(text, target) if text.strip() else {}
    except FileNotFoundError:
        return "", {}
    except InputError as error:
        raise InputError(f"{error} Nothing was written: correct {target}, or move it away.") from None


def _holds(text: str, entries: dict[str, Any]) -> bool:
    try:
        return yaml_files.parse(text, "") == entries
    except InputError:
        return False
