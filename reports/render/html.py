"""One HTML file that needs nothing else: tables whose cells open their records, figures inlined, no request made."""

from __future__ import annotations

import base64
import hashlib
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib import colormaps
from PIL import Image

from benchmarks.records import Record
from benchmarks.wording import counted
from reports.aggregate import Cell
from reports.tables import Table
from reports.vocabulary import DASH, MEAN, PROTOCOLS, slug

HERE = Path(__file__).parent
BUDGET = 6 << 20  # bytes of base64 for all figures: what tables, curves and maps of a full suite leave of 15 MB
ENCODINGS = ((1.0, 85), (0.5, 75))  # share of the PNG's pixels along a side and WebP quality: tried in turn
ACRONYMS = {word.lower(): word for word in ("AAND", "ADer", "DSKD", "FD", "PRO", "RD", "ROC", "SNL", "sPRO")}
# Dark to bright in steps of equal size, by channel: the colour map that the page applies to grey maps, as in figures.
INFERNO = {
    channel: " ".join(f"{level:.3f}" for level in levels)
    for channel, levels in zip("RGB", colormaps["inferno"](np.linspace(0, 1, 17))[:, :3].T, strict=True)
}


class Figure(NamedTuple):
    """A figure on disk; `paths` begins with its PNG."""

    kind: str  # the spec it comes from
    title: str
    description: str  # what is drawn, in a sentence or two
    place: Mapping[str, str]  # what holds for the whole figure: dataset, protocol, ...
    paths: Sequence[Path]


class Inlined(NamedTuple):
    """A figure as the page has it; `uri` is empty where the budget has no room for it."""

    uri: str
    width: int  # CSS pixels; the PNG has twice as many, for sharp screens
    height: int


def render(
    items: Sequence[Table | Figure],
    records: Sequence[Record],
    payloads: Mapping[str, str],
    problems: Sequence[str],
) -> str:
    """The page. The same input gives the same text: it has no date.

    Args:
        items: tables and figures, in the order in which they are to appear.
        records: the finished runs.
        payloads: the details behind the cells, from `drilldown.payloads`.
        problems: sentences that are shown at the top.
    """
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    # Autoescape: names of data sets and categories are the user's own.
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    inlined = inline([item for item in items if isinstance(item, Figure)])
    environment.globals.update(
        heading=heading,
        inferno=INFERNO,
        inlined=lambda figure: inlined[figure.paths[0]],
        mean=MEAN,
        counted=counted,
        median=median,
        slug=slug,
        target=lambda cell: target(cell, payloads),
    )
    return environment.get_template("page.html.j2").render(
        # The browser runs and applies nothing but these two, whatever a name in the results contains.
        policy=f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'",
        style=style,
        script=script,
        payloads=payloads,
        sections=_by(items, "dataset", lambda part: _by(part, "protocol", lambda of: _by(of, "kind", list))),
        methods={record.variant: record for record in records},
        groups=_groups(records),
        records=records,
        datasets=_names(records, "dataset"),
        protocols=_names(records, "protocol"),
        seeds=_names(records, "seed"),
        commits=sorted({_commit(record) for record in records}),
        problems=problems,
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _by(items: Sequence[Table | Figure], key: str, then: Callable[[list[Table | Figure]], Any]) -> dict[str, Any]:
    """The items by dataset, protocol or kind in order of appearance; "" stands for items over all, and comes last."""

    def value(item: Table | Figure) -> str:
        return item.kind if key == "kind" else item.place.get(key, "")

    names = list(dict.fromkeys(map(value, items)))
    if key != "kind":
        names.sort(key=lambda name: (name == "", _place(name)))
    return {name: then([item for item in items if value(item) == name]) for name in names}


def _names(records: Sequence[Record], field: str) -> list[Any]:
    return sorted({getattr(record, field) for record in records}, key=_place)


def _place(name: Any) -> tuple[int, Any]:
    """What protocols are sorted by: one_class comes first; everything else by itself."""
    return (PROTOCOLS.index(name) if name in PROTOCOLS else 0, name)


def _groups(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The records by group, in order."""
    groups: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: (record.group, record.split, record.seed)):
        groups.setdefault(record.group, []).append(record)
    return groups


def median(records: Sequence[Record], name: str, form: str, unit: float = 1) -> str:
    """The median of an entry of the records' provenance, formatted; a dash where none has it."""
    values = [getattr(record.provenance, name) for record in records]
    known = [value for value in values if value is not None]
    return form % (statistics.median(known) / unit) if known else DASH


def _commit(record: Record) -> str:
    commit = (record.provenance.git_commit or "")[:12] or "unknown commit"
    return commit + (" with uncommitted changes" if record.provenance.git_dirty else "")


def heading(kind: str) -> str:
    """The name of a spec as a heading: "per_category" is "Per category"."""
    first, *others = (ACRONYMS.get(word, word) for word in kind.split("_"))
    return " ".join([first if first in ACRONYMS.values() else first.capitalize(), *others])


def target(cell: Cell, payloads: Mapping[str, str]) -> str:
    """What the page shows of a cell's records, as the fragment of a link: group and category, group and category, ...

    Empty where the page has none of its records.
    """
    groups = dict.fromkeys(PurePosixPath(record).parent.parent.name for record in cell.records)
    return "/".join(f"{quote(group)}/{quote(cell.category, safe='')}" for group in groups if group in payloads)


def inline(figures: Sequence[Figure]) -> dict[Path, Inlined]:
    """The figures as data URIs by the path of their PNG: sharp if `BUDGET` allows it, otherwise smaller.

    If even that is too much, the largest ones are only linked, as files beside the page.
    """
    sizes = {figure.paths[0]: _size(figure.paths[0]) for figure in figures}
    encoded: dict[Path, str] = {}
    for share, quality in ENCODINGS:
        encoded = {path: _encode(path, share, quality) for path in sizes}
        if sum(map(len, encoded.values())) <= BUDGET:
            break
    left = BUDGET
    inlined = {}
    for path, uri in sorted(encoded.items(), key=lambda pair: len(pair[1])):
        inlined[path] = Inlined(uri if len(uri) <= left else "", *sizes[path])
        left -= len(uri)
    return inlined


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.width // 2, image.height // 2


def _encode(path: Path, share: float, quality: int) -> str:
    stream = io.BytesIO()
    with Image.open(path) as image:
        small = image.convert("RGB").resize((round(image.width * share), round(image.height * share)))
        small.save(stream, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
