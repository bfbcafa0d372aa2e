"""One HTML page that needs nothing else: tables whose cells link to their records, figures inlined, no request made."""

from __future__ import annotations

import base64
import io
import shlex
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from reports.tables import Table


class Picture(NamedTuple):
    """A figure on disk; `paths` begins with its PNG."""

    kind: str  # the spec it comes from
    title: str
    place: Mapping[str, str]  # what holds for the whole figure: dataset, protocol, ...
    paths: Sequence[Path]


def render(shown: Sequence[Table | Picture], records: Sequence[Mapping[str, Any]], problems: Sequence[str]) -> str:
    """The page. The same input gives the same text: it bears no date."""
    # Autoescape: names of data sets and categories are the user's own.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.globals.update(inline=inline, polyline=polyline, command=command, terms=terms, size=size)
    groups = _records(records)
    return environment.get_template("page.html.j2").render(
        datasets=_by(shown, "dataset", lambda part: _by(part, "protocol", lambda items: _by(items, "spec", list))),
        groups=groups,
        anchors={*groups, *(f"{group}-{split}" for group, splits in groups.items() for split in splits)},
        methods={record["variant"]: record for record in records},
        seeds=sorted({record["seed"] for record in records}),
        commits=sorted({_commit(record) for record in records}),
        count=len(records),
        problems=problems,
    )


def _by(shown: Sequence[Table | Picture], key: str, then: Any) -> dict[str, Any]:
    """The items by dataset, protocol or spec in order of appearance; "" stands for items over all of them."""

    def value(item: Table | Picture) -> str:
        return item.kind if key == "spec" else item.place.get(key, "")

    names = dict.fromkeys(map(value, shown))
    if key != "spec":
        names = dict.fromkeys(sorted(names))
    return {name: then([item for item in shown if value(item) == name]) for name in names}


def _records(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[Mapping[str, Any]]]]:
    """Records by group, then by split, seeds in order."""

    def group(record: Mapping[str, Any]) -> str:
        return str(record["folder"]).split("/")[0]

    ordered = sorted(records, key=lambda record: (group(record), record["split"], record["seed"]))
    return {
        name: {split: list(seeds) for split, seeds in groupby(of_group, key=lambda r: r["split"])}
        for name, of_group in groupby(ordered, key=group)
    }


def _commit(record: Mapping[str, Any]) -> str:
    provenance = record.get("provenance", {})
    commit = str(provenance.get("git_commit") or "unknown commit")[:12]
    return commit + (" with uncommitted changes" if provenance.get("git_dirty") else "")


def inline(picture: Picture) -> str:
    """The figure as a data URI; WebP takes a third of the PNG's size."""
    stream = io.BytesIO()
    with Image.open(picture.paths[0]) as image:
        image.convert("RGB").save(stream, "WEBP", quality=88, method=4)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


def size(picture: Picture) -> tuple[int, int]:
    """Width and height in CSS pixels; the file has twice as many, for sharp screens."""
    with Image.open(picture.paths[0]) as image:
        return image.width // 2, image.height // 2


def terms(record: Mapping[str, Any]) -> dict[str, list[float]]:
    """The loss history by term."""
    history = [epoch.get("terms", {}) for epoch in record.get("history", ())]
    return {name: [epoch[name] for epoch in history] for name in (history[0] if history else ())}


def polyline(values: Sequence[float], width: int = 240, height: int = 40) -> str:
    """Points of an SVG line over `values`, at most 120 of them, the highest value on top."""
    step = max(1, -(-len(values) // 120))
    kept = list(values)[::step]
    low, high = min(kept), max(kept)
    scale = (high - low) or 1.0
    return " ".join(
        f"{width * i / max(len(kept) - 1, 1):.1f},{height * (1 - (v - low) / scale):.1f}" for i, v in enumerate(kept)
    )


def command(record: Mapping[str, Any]) -> str:
    """The command that repeats this run."""
    names = ("variant", "dataset", "protocol", "split", "seed")
    return shlex.join(["proctor", "run", *(word for name in names for word in (f"--{name}", str(record[name])))])
