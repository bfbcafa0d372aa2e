"""Specs: one YAML file in `specs/` for each kind of table or figure; CONTRIBUTING.md lists their entries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from methods.base import did_you_mean
from reports.vocabulary import FACETS, WHERE, sentence

FOLDER = Path(__file__).parent / "specs"
FIGURES = Path(__file__).parent / "figures"
SOURCES = (  # what `from` may name; `build` computes them
    "cells",
    "protocols",
    "interference",
    "details",
    "spro",
    "composites",
    "losses",
    "trajectory",
    "papers",
    "reproduction",
    "verdicts",
    "comparisons",
    "ranks",
    "selections",
    "conventions",
    "costs",
)
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
        ("from", [spec.get("from", "cells")], SOURCES),
        ("each", spec["each"], FACETS),
        ("where", list(spec.get("where", {})), WHERE),
        ("rows or columns", axes, FACETS),
        ("aggregation", [spec.get("aggregation", "mean")], AGGREGATIONS),
        ("highlight", [spec.get("highlight", "significant")], HIGHLIGHTS),
    ]
    for entry, names, known in choices:
        for name in names:
            if name not in known:
                raise ValueError(f"unknown `{entry}` '{name}'. {did_you_mean(name, known)}")
