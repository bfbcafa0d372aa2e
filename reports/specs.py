"""Specs: one YAML file in `specs/` for each kind of table or figure; CONTRIBUTING.md lists their entries."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from pathlib import Path
from string import Formatter
from typing import Any

import yaml

from methods.base import did_you_mean
from reports.vocabulary import FACETS, KNOWN, OF_FACET, WHERE, sentence

FOLDER = Path(__file__).parent / "specs"
FIGURES = Path(__file__).parent / "figures"
_SCORES = ("dataset", "protocol", "subset", "metric", "variant", "category", "convention", "selection", "teacher")
_DETAILS = ("dataset", "protocol", "variant", "category")
_EPOCHS = ("dataset", "protocol", "variant")
SOURCES: dict[str, tuple[str, ...]] = {  # what `from` may name, and the facets of its rows; `build` computes them
    "cells": _SCORES,
    "protocols": _SCORES,
    "interference": _SCORES,
    "details": _DETAILS,
    "spro": _DETAILS,
    "examples": _DETAILS,
    "composites": _DETAILS,
    "losses": _EPOCHS,
    "trajectory": _EPOCHS,
    "papers": (*(name for name in _SCORES if name != "convention"), "paper", "table", "method"),
    "reproduction": (*_SCORES, "paper", "table", "entry", "quantity"),
    "verdicts": ("dataset", "protocol", "variant", "teacher", "entry", "quantity"),
    "comparisons": (*_SCORES, "entry", "quantity"),
    "ranks": (*_SCORES, "entry", "quantity"),
    "selections": ("dataset", "protocol", "metric", "variant", "convention", "selection", "teacher", "quantity"),
    "conventions": _SCORES,
    "costs": _SCORES,
}
AGGREGATIONS = ("mean", "median")  # over seeds
HIGHLIGHTS = ("significant", "none")  # which cells are bold


def read_specs(folder: Path, problems: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """The specs by name, in their `order`; a sentence is added to `problems` for each that is not valid."""
    specs = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            spec = yaml.safe_load(path.read_text(encoding="utf-8"))
            check(spec or {})
        except (ValueError, TypeError, OSError, yaml.YAMLError) as error:
            problems.append(sentence(f"{folder.name}/{path.name} was left out: {' '.join(f'{error}'.split())}"))
            continue
        specs.append((path.stem, spec))
    return sorted(specs, key=lambda named: named[1].get("order", 100))


def check_all(folder: Path = FOLDER) -> list[str]:
    """A sentence for each spec that is not valid: unknown or missing entries, figures, sources and facets.

    >>> check_all()
    []
    """
    problems: list[str] = []
    read_specs(folder, problems)
    return problems


def figure_names() -> list[str]:
    """The figures that a spec can name: the modules of `reports/figures`."""
    return sorted(path.stem for path in FIGURES.glob("*.py") if not path.name.startswith("_"))


def axis_facets(spec: Mapping[str, Any], axis: str) -> list[str]:
    """The facets in `rows` or `columns` of a spec: one or several."""
    return [spec[axis]] if isinstance(spec[axis], str) else list(spec[axis])


def check(spec: Any) -> None:
    """Refuse a spec that misses an entry, or has an unknown one.

    Raises:
        ValueError: names the entry, and what it may be.
    """
    if not isinstance(spec, Mapping):
        raise ValueError("a spec is a mapping of entries")
    needed = {"title", "each"} | ({"figure", "from"} if "figure" in spec else {"rows", "columns"})
    optional = {"order", "where"} | (set() if "figure" in spec else {"from", "aggregation", "highlight"})
    if missing := sorted(needed - set(spec)):
        raise ValueError(f"missing: {', '.join(missing)}")
    if unknown := sorted(set(spec) - needed - optional):
        raise ValueError(f"unknown entry '{unknown[0]}'. {did_you_mean(unknown[0], sorted(needed | optional))}")
    for facet, names in spec.get("where", {}).items():
        if not isinstance(names, list):
            raise ValueError(f"`where` gives {facet} {names!r}; it takes a list: [{names}]")
    axes = [facet for axis in ("rows", "columns") if axis in spec for facet in axis_facets(spec, axis)]
    choices: list[tuple[str, list[str], tuple[str, ...]]] = [
        ("figure", [spec["figure"]] if "figure" in spec else [], tuple(figure_names())),
        ("from", [spec.get("from", "cells")], tuple(SOURCES)),
        ("each", spec["each"], FACETS),
        ("where", list(spec.get("where", {})), WHERE),
        ("rows` or `columns", axes, FACETS),
        ("aggregation", [spec.get("aggregation", "mean")], AGGREGATIONS),
        ("highlight", [spec.get("highlight", "significant")], HIGHLIGHTS),
    ]
    for entry, names, known in choices:
        for name in names:
            if name not in known:
                raise ValueError(f"unknown `{entry}` '{name}'. {did_you_mean(name, known)}")
    if not isinstance(spec.get("order", 0), int):
        raise ValueError(f"`order` must be a whole number, not {spec['order']!r}")
    _check_facets(spec, {*spec["each"], *axes})


def _check_facets(spec: Mapping[str, Any], placed: Set[str]) -> None:
    """Refuse facets that the source does not have, or that are left open.

    Raises:
        ValueError: names the facet.
    """
    source, where = spec.get("from", "cells"), spec.get("where", {})
    facets = [name for name in WHERE if name in SOURCES[source]]
    for name in (*placed, *where):
        if name not in facets:
            raise ValueError(f"'{source}' has no facet '{name}'. {did_you_mean(name, facets)}")
    for facet in {"metric", "protocol", "selection"} & set(where):
        for name in where[facet]:
            if name not in KNOWN[facet]:
                raise ValueError(f"unknown {facet} '{name}'. {did_you_mean(name, KNOWN[facet])}")
    fields = {name for _, name, _, _ in Formatter().parse(spec["title"]) if name is not None}
    if unknown := sorted(fields - {*spec["each"]}):
        raise ValueError(f"`title` has {{{unknown[0]}}}, which is not in `each`: {', '.join(spec['each'])}")
    if "figure" not in spec and (left := open_facets(spec, placed, facets)):
        raise ValueError(f"{left[0]} must be in `each`, `rows` or `columns`, or have one value in `where`")


def open_facets(spec: Mapping[str, Any], placed: Set[str], facets: Collection[str]) -> list[str]:
    """The facets by which several results would fall into one place of a table."""
    fixed = {*placed, *(facet for facet, names in spec.get("where", {}).items() if len(names) == 1)}
    fixed |= {implied for facet in fixed for implied in OF_FACET.get(facet, ())}
    return [facet for facet in FACETS if facet in facets and facet not in fixed]
