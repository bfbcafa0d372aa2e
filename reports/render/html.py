"""One HTML file that needs nothing else: tables whose cells open their records, figures inlined, no request made."""

from __future__ import annotations

import base64
import hashlib
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from benchmarks.records import Record
from benchmarks.wording import counted
from reports.aggregate import Cell
from reports.analysis import reproduction, significance
from reports.analysis.standings import Leaderboard
from reports.render import drilldown, latex
from reports.tables import BOLD, Table
from reports.vocabulary import DASH, MEAN, PROTOCOLS, as_printed, metric, slug

HERE = Path(__file__).parent
BUDGET = 6 << 20  # characters of all figures: what tables, curves and maps of a full suite leave of 10 MB
ACRONYMS = {word.lower(): word for word in ("AAND", "ADer", "DSKD", "FD", "PRO", "RD", "ROC", "SNL", "sPRO")}
# Dark to bright in steps of equal size: the colour map of figures, which the page applies to grey maps.
INFERNO = (
    "000004", "0b0724", "210c4a", "3d0965", "57106e", "71196e", "8a226a", "a32c61", "bc3754", "d24644", "e45a31",
    "f1731d", "f98e09", "fcac11", "f9cb35", "f2ea69", "fcffa4",
)  # fmt: skip


class Figure(NamedTuple):
    """A figure on disk; `paths` begins with its SVG."""

    kind: str  # the spec it comes from
    name: str  # of its files
    title: str
    description: str  # what is drawn, in a sentence or two
    place: Mapping[str, str]  # what holds for the whole figure: dataset, protocol, ...
    paths: Sequence[Path]
    markup: str  # the figure itself, to stand in the page


class Choice(NamedTuple):
    """One of the items that a place of the page can show."""

    name: str
    facets: dict[str, str]  # what it is about, as the controls print it


class Explorer(NamedTuple):
    """A place of the page that shows one item at a time, which controls choose by its facets."""

    name: str  # its anchor, and its entry in the address
    title: str
    choices: list[Choice]
    first: Markup  # the item that is shown at first
    items: str  # all of them, packed: by name what it shows, and the LaTeX to copy

    @property
    def facets(self) -> str:
        """The choices as JSON."""
        return json.dumps([choice._asdict() for choice in self.choices])


class Content(NamedTuple):
    """All that a page shows."""

    suite: str
    boards: Sequence[Leaderboard]
    items: Sequence[Table | Figure]  # in the order in which they are to appear
    records: Sequence[Record]  # the finished runs
    payloads: Mapping[str, str]  # the details behind the cells, from `drilldown.payloads`
    problems: Sequence[str]  # sentences that are shown at the top
    allowed: Sequence[str] = ()  # findings that are no problem, each with the reason


def render(content: Content) -> str:
    """The page. The same input gives the same text: it has no date."""
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    # Autoescape: names of data sets and categories are the user's own.
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters["printed"] = as_printed
    environment.globals.update(
        counted=counted,
        imported={record.variant for record in content.records if record.is_imported},
        inferno={channel: _levels(place) for place, channel in enumerate("RGB")},
        mean=MEAN,
        median=median,
        metric=metric,
        slug=slug,
        target=lambda cell: target(cell, content.payloads),
    )
    items = _in_order(content.items)
    tables = [item for item in items if isinstance(item, Table)]
    figures = [item for item in items if isinstance(item, Figure)]
    show = environment.get_template("items.html.j2").module
    inlined = inline(figures)
    records = content.records
    return environment.get_template("page.html.j2").render(
        # The browser runs and applies nothing but these two, whatever a name in the results contains.
        policy=f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'",
        style=style,
        script=script,
        content=content,
        rules=[BOLD, *significance.RULE, *reproduction.RULE],
        bibtex=latex.bibtex,
        tables=_tables([table for table in tables if not table.is_blank], show),
        blank=[table for table in tables if table.is_blank],
        figures=[
            _figures(kind, [figure for figure in figures if figure.kind == kind], inlined, show)
            for kind in dict.fromkeys(figure.kind for figure in figures)
        ],
        methods={record.variant: record for record in records},
        groups=_groups(records),
        datasets=_names(records, "dataset"),
        protocols=_names(records, "protocol"),
        seeds=_names(records, "seed"),
        commits=sorted({_commit(record) for record in records}),
    )


def _levels(channel: int) -> str:
    """A channel of the colour map, as the filter of the page lists it."""
    return " ".join(f"{int(colour[2 * channel :][:2], 16) / 255:.3f}" for colour in INFERNO)


def _in_order(items: Sequence[Table | Figure]) -> list[Table | Figure]:
    """Kinds as they come, and within each the data sets and protocols as the leaderboards have them."""
    kinds = list(dict.fromkeys(item.kind for item in items))
    protocols = {name: place for place, name in enumerate(PROTOCOLS)}

    def place(item: Table | Figure) -> tuple[int, str, int]:
        protocol = item.place.get("protocol", "")
        return kinds.index(item.kind), item.place.get("dataset", ""), protocols.get(protocol, len(protocols))

    return sorted(items, key=place)


def _tables(tables: Sequence[Table], show: Any) -> list[Explorer]:
    """One place for all tables; none without a table."""
    choices = [Choice(table.name, {"table": heading(table.kind)} | _facets(table.place)) for table in tables]
    items = {table.name: {"html": show.table(table), "latex": latex.latex(table)} for table in tables}
    return _explorers("tables", "Tables", choices, items)


def _figures(kind: str, figures: Sequence[Figure], inlined: Mapping[str, str], show: Any) -> Explorer:
    """One place for the figures of a kind."""
    choices = [Choice(figure.name, _facets(figure.place)) for figure in figures]
    items = {
        figure.name: {
            "html": show.figure(figure, Markup(inlined[figure.name])),
            "latex": latex.figure(figure.name, figure.title, figure.description),
        }
        for figure in figures
    }
    return _explorers(kind, heading(kind), choices, items)[0]


def _explorers(name: str, title: str, choices: list[Choice], items: Mapping[str, Mapping[str, str]]) -> list[Explorer]:
    if not items:
        return []
    first = Markup(next(iter(items.values()))["html"])
    return [Explorer(name, title, choices, first, drilldown.packed(items))]


def _facets(place: Mapping[str, str]) -> dict[str, str]:
    """What an item is about, as the page's controls print it."""
    words = {"subset": {"all": "all anomalies"}}
    return {
        facet: metric(value).title if facet == "metric" else words.get(facet, {}).get(value, as_printed(value))
        for facet, value in place.items()
        if value
    }


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _names(records: Iterable[Record], field: str) -> list[str]:
    names = {getattr(record, field) for record in records}
    known = {name: place for place, name in enumerate(PROTOCOLS)}
    return [as_printed(str(name)) for name in sorted(names, key=lambda name: (known.get(name, -1), name))]


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


def inline(figures: Sequence[Figure]) -> dict[str, str]:
    """The markup of the figures by their name.

    Where all of it is more than `BUDGET`, it is empty for the largest ones, which the page only links.
    """
    left = BUDGET
    inlined = {}
    for figure in sorted(figures, key=lambda figure: len(figure.markup)):
        inlined[figure.name] = figure.markup if len(figure.markup) <= left else ""
        left -= len(figure.markup)
    return inlined
