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

from reports.tables import MEAN, PROTOCOLS, Cell, Table, slug

HERE = Path(__file__).parent
BUDGET = 6 << 20  # bytes of base64 for all figures: what tables, curves and maps of a full suite leave of 15 MB
ENCODINGS = ((1.0, 85), (0.5, 75))  # share of the PNG's pixels along a side and WebP quality: tried in turn
ACRONYMS = {word.lower(): word for word in ("AAND", "ADer", "DSKD", "FD", "PRO", "RD", "ROC", "SNL", "sPRO")}
# Dark to bright in steps of equal size, by channel: what the page shows grey maps in, like the figures.
INFERNO = {
    channel: " ".join(f"{level:.3f}" for level in levels)
    for channel, levels in zip("RGB", colormaps["inferno"](np.linspace(0, 1, 17))[:, :3].T, strict=True)
}


class Picture(NamedTuple):
    """A figure on disk; `paths` begins with its PNG."""

    kind: str  # the spec it comes from
    title: str
    says: str  # what is drawn, in a sentence or two
    place: Mapping[str, str]  # what holds for the whole figure: dataset, protocol, ...
    paths: Sequence[Path]


class Inlined(NamedTuple):
    """A picture as the page has it; `uri` is empty where the budget has no room for it."""

    uri: str
    width: int  # CSS pixels; the PNG has twice as many, for sharp screens
    height: int


def render(
    shown: Sequence[Table | Picture],
    records: Sequence[Mapping[str, Any]],
    packs: Mapping[str, str],
    problems: Sequence[str],
) -> str:
    """The page. The same input gives the same text: it bears no date.

    Args:
        shown: tables and figures, in the order in which they are to appear.
        records: the finished runs.
        packs: what stands behind the cells, from `evidence.packs`.
        problems: sentences that are shown at the top.
    """
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    # Autoescape: names of data sets and categories are the user's own.
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    inlined = inline([item for item in shown if isinstance(item, Picture)])
    environment.globals.update(
        heading=heading,
        inferno=INFERNO,
        inlined=lambda picture: inlined[picture.paths[0]],
        mean=MEAN,
        median=median,
        slug=slug,
        target=lambda cell: target(cell, packs),
    )
    return environment.get_template("page.html.j2").render(
        # The browser runs and applies nothing but these two, whatever a name in the results may hold.
        policy=f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'",
        style=style,
        script=script,
        packs=packs,
        sections=_by(shown, "dataset", lambda part: _by(part, "protocol", lambda items: _by(items, "kind", list))),
        methods={record["variant"]: record for record in records},
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


def _by(shown: Sequence[Table | Picture], key: str, then: Callable[[list[Table | Picture]], Any]) -> dict[str, Any]:
    """The items by dataset, protocol or kind in order of appearance; "" stands for items over all, and comes last."""

    def value(item: Table | Picture) -> str:
        return item.kind if key == "kind" else item.place.get(key, "")

    names = list(dict.fromkeys(map(value, shown)))
    if key != "kind":
        names.sort(key=lambda name: (name == "", _place(name)))
    return {name: then([item for item in shown if value(item) == name]) for name in names}


def _names(records: Sequence[Mapping[str, Any]], field: str) -> list[Any]:
    return sorted({record[field] for record in records}, key=_place)


def _place(name: Any) -> tuple[int, Any]:
    """What protocols are sorted by: one_class comes first; everything else by itself."""
    return (PROTOCOLS.index(name) if name in PROTOCOLS else 0, name)


def _groups(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The records by group, in order."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for record in sorted(records, key=lambda record: (record["folder"].split("/")[0], record["split"], record["seed"])):
        found.setdefault(record["folder"].split("/")[0], []).append(record)
    return found


def median(records: Sequence[Mapping[str, Any]], name: str, form: str, unit: float = 1) -> str:
    """The median of an entry of the records' provenance, written; a dash where none has it."""
    values = [record.get("provenance", {}).get(name) for record in records]
    known = [value for value in values if value is not None]
    return form % (statistics.median(known) / unit) if known else "\N{EN DASH}"


def _commit(record: Mapping[str, Any]) -> str:
    provenance = record.get("provenance", {})
    commit = (provenance.get("git_commit") or "")[:12] or "unknown commit"
    return commit + (" with uncommitted changes" if provenance.get("git_dirty") else "")


def heading(kind: str) -> str:
    """The name of a spec as a heading: "per_category" is "Per category"."""
    first, *others = (ACRONYMS.get(word, word) for word in kind.split("_"))
    return " ".join([first if first in ACRONYMS.values() else first.capitalize(), *others])


def target(cell: Cell, packs: Mapping[str, str]) -> str:
    """What the page shows of a cell's records, as the fragment of a link: group and category, group and category, ...

    Empty where none of its records is there.
    """
    groups = dict.fromkeys(PurePosixPath(record).parent.parent.name for record in cell.records)
    return "/".join(f"{quote(group)}/{quote(cell.category, safe='')}" for group in groups if group in packs)


def inline(pictures: Sequence[Picture]) -> dict[Path, Inlined]:
    """The pictures as data URIs by the path of their PNG: sharp if `BUDGET` allows it, otherwise smaller.

    If even that is too much, those that take most are left to their files, beside the page.
    """
    sizes = {picture.paths[0]: _size(picture.paths[0]) for picture in pictures}
    encoded: dict[Path, str] = {}
    for share, quality in ENCODINGS:
        encoded = {path: _encode(path, share, quality) for path in sizes}
        if sum(map(len, encoded.values())) <= BUDGET:
            break
    left = BUDGET
    found = {}
    for path, uri in sorted(encoded.items(), key=lambda pair: len(pair[1])):
        found[path] = Inlined(uri if len(uri) <= left else "", *sizes[path])
        left -= len(uri)
    return found


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.width // 2, image.height // 2


def _encode(path: Path, share: float, quality: int) -> str:
    stream = io.BytesIO()
    with Image.open(path) as image:
        small = image.convert("RGB").resize((round(image.width * share), round(image.height * share)))
        small.save(stream, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
