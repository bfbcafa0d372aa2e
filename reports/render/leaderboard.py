"""The leaderboard: accepted submissions, ranked by data set and protocol, as Markdown and as one offline HTML file.

A submission is better than another if its mean over categories is better and Wilcoxon's signed-rank test over the
categories, each the mean over its seeds, gives p < `LEVEL` after Holm's correction for all pairs of the table. Its
rank is one more than the number of submissions that are better: equal ranks do not differ significantly. Submissions
are compared only on the same categories under the same convention, and never where the data are known to differ.

Records are those of `benchmarks.submissions.schema.Record`, as JSON. Their texts come from
strangers and are never treated as markup.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pandas as pd
from huggingface_hub.repocard_data import EvalResult, eval_results_to_model_index
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from tabulate import tabulate

from benchmarks.schema import IMAGE_CONVENTION
from benchmarks.wording import counted
from reports.analysis.significance import LEVEL, holm, wilcoxon
from reports.vocabulary import as_printed, is_image_metric, metric, number, sign

SHOWN = ("image_auroc", "pixel_auroc", "aupro", "spro")
HEAD = ["rank", "submission", "method"]
TAIL = ["teacher", "budget", "seeds", "status", "date"]
EMPTY = "No submission has been accepted yet."
RULE = (
    "Percent: mean over the categories, ± sample standard deviation over seeds. The rank is by the first metric, a "
    "number in brackets by that column. A rank is one more than the number of submissions that are better by "
    f"Wilcoxon's signed-rank test over categories (means over seeds), with p < {LEVEL} after Holm's correction for all "
    "pairs of a column: equal ranks do not differ significantly. With fewer than six categories none can. "
    "Verified: every value was recomputed from the submitted maps. Self-reported: as the submitter states them."
)
MARKUP = str.maketrans({**{c: f"\\{c}" for c in r"\`*_[]#|~@$"}, "&": "&amp;", "<": "&lt;", ">": "&gt;"})
Record = Mapping[str, Any]


class Standing(NamedTuple):
    """What one submission reached in one column."""

    rank: int  # 0 where it has no value
    mean: float  # NaN where it has no value
    std: float  # over seeds, NaN with one
    reason: str  # why there is no value
    percent: bool = True  # whether the metric is a fraction

    @property
    def text(self) -> str:
        """Percent, e.g. "97.1 ± 0.3"; the reason where there is none."""
        if self.reason:
            return self.reason
        deviation = "" if math.isnan(self.std) else f" ± {number(self.std, self.percent)}"
        return number(self.mean, self.percent) + deviation


class Section(NamedTuple):
    """The submissions that report the same categories of a data set under a protocol."""

    dataset: str
    protocol: str
    categories: list[str]
    columns: list[tuple[str, str]]  # metric, convention
    rows: list[tuple[Record, list[Standing]]]  # best first

    @property
    def title(self) -> str:
        return f"{as_printed(self.dataset)}, {as_printed(self.protocol)}"

    @property
    def subtitle(self) -> str:
        return f"{counted(len(self.categories), 'category', 'categories')}: {', '.join(self.categories)}."

    @property
    def header(self) -> list[str]:
        return [*HEAD, *(_label(*column) for column in self.columns), *TAIL]


def sections(records: Sequence[Record]) -> list[Section]:
    groups: dict[tuple[str, str, tuple[str, ...]], list[Record]] = {}
    for record in sorted(records, key=lambda record: (record["date"], record["name"])):
        categories = tuple(sorted({row["category"] for row in record["metrics"]}))
        groups.setdefault((record["dataset"], record["protocol"], categories), []).append(record)
    return [_section(*key, groups[key]) for key in sorted(groups, key=lambda key: (*key[:2], -len(key[2]), key[2]))]


def _section(dataset: str, protocol: str, categories: tuple[str, ...], records: list[Record]) -> Section:
    values = [_values(record) for record in records]
    present = {(row["metric"], row["convention"]) for rows in values for row in rows.to_dict("records")}
    columns = sorted(present, key=lambda column: (SHOWN.index(column[0]), column[1]))
    revisions = [record["data_revision"] for record in records]
    by_column = [
        _standings(
            [_table(rows, column, record["seeds"], categories) for rows, record in zip(values, records, strict=True)],
            revisions,
            column[0],
        )
        for column in columns
    ]
    rows = [(record, [of_column[i] for of_column in by_column]) for i, record in enumerate(records)]
    signs = [sign(name) for name, _ in columns]
    rows.sort(
        key=lambda row: [
            (cell.rank or math.inf, -of * cell.mean if cell.rank else 0) for of, cell in zip(signs, row[1], strict=True)
        ]
    )
    return Section(dataset, protocol, list(categories), columns, rows)


def _values(record: Record) -> pd.DataFrame:
    rows = pd.DataFrame(record["metrics"])
    return rows[(rows["subset"] == "all") & rows["metric"].isin(SHOWN)]


def _table(rows: pd.DataFrame, column: tuple[str, str], seeds: list[int], categories: Sequence[str]) -> pd.DataFrame:
    """A submission's values of one column: a row per category, a column per seed; NaN where one is missing."""
    of_column = rows[(rows["metric"] == column[0]) & (rows["convention"] == column[1])]
    return of_column.pivot(index="category", columns="seed", values="value").reindex(
        index=list(categories), columns=seeds
    )


def _standings(tables: list[pd.DataFrame], revisions: list[str | None], name: str) -> list[Standing]:
    whole = [i for i, table in enumerate(tables) if table.notna().all(axis=None)]
    means = {i: tables[i].mean(axis=1) for i in whole}  # over seeds, by category
    pairs = [(i, j) for i, j in combinations(whole, 2) if len({revisions[i], revisions[j]} - {None}) < 2]
    better = dict.fromkeys(whole, 0)  # how many submissions are better
    for (i, j), p in zip(pairs, holm([wilcoxon(means[i], means[j]) for i, j in pairs]), strict=True):
        if p < LEVEL and means[i].mean() != means[j].mean():
            better[i if sign(name) * (means[i].mean() - means[j].mean()) < 0 else j] += 1
    return [
        Standing(better[i] + 1, float(table.mean().mean()), float(table.mean().std()), "", metric(name).is_fraction)
        if i in better
        else Standing(0, math.nan, math.nan, _reason(table))
        for i, table in enumerate(tables)
    ]


def _reason(table: pd.DataFrame) -> str:
    if table.isna().all(axis=None):
        return "not reported"
    missing = table.isna().to_numpy().nonzero()
    return f"no value for {table.index[missing[0][0]]}, seed {table.columns[missing[1][0]]}"


def _label(name: str, convention: str) -> str:
    return metric(name).title + ("" if convention == IMAGE_CONVENTION else f" ({convention})")


def cells(section: Section) -> list[list[str]]:
    """The rows of a section's table as plain text; the columns are `HEAD`, the section's, `TAIL`."""
    rows = []
    for record, standings in section.rows:
        first, *others = standings or [Standing(0, math.nan, math.nan, "")]
        values = [first.text, *(f"{cell.text} [{cell.rank}]" if cell.rank else cell.text for cell in others)]
        teacher = record["teacher"]
        budget = [f"{name} {value}" for name, value in record["budget"].items()]
        selection = [] if record["selection"] == "last" else [f"selection {record['selection']}"]
        data = f" (data {record['data_revision'][:8]})" if record["data_revision"] else ""
        rows.append(
            [
                str(first.rank or "none"),
                record["name"],
                record["method"] + (f" ({record['variant']})" if record["variant"] != record["method"] else ""),
                *(values if standings else []),
                f"{teacher['name']} ({teacher['pretraining']})" if teacher else "none",
                ", ".join(budget + selection) or "not stated",
                str(len(record["seeds"])),
                ("verified" if record["verified"] else "self-reported") + data,
                record["date"],
            ]
        )
    return rows


def url(record: Record) -> str:
    """The submission's address, percent-encoded so that it ends no attribute and no Markdown; empty if it has none."""
    address = record["url"] or ""
    return quote(address, safe="/:?&=#%+,;@-._~") if re.match(r"https?://", address) else ""


def plain(text: str) -> str:
    """Markdown that shows a text as it is: no markup, no link that GitHub would make of it by itself."""
    return re.sub(r"(?i)www\.|://", lambda match: re.sub(r"[.:]", r"\\\g<0>", match[0]), text.translate(MARKUP))


def markdown(records: Sequence[Record]) -> str:
    lines = ["# Leaderboard", "", RULE if records else EMPTY, ""]
    for section in sections(records):
        rows = [[plain(cell) for cell in row] for row in cells(section)]
        for row, (record, _) in zip(rows, section.rows, strict=True):
            if address := url(record):
                row[HEAD.index("submission")] = f"[{row[HEAD.index('submission')]}](<{address}>)"
        header = [plain(title) for title in section.header]
        lines += [f"## {plain(section.title)}", "", plain(section.subtitle), ""]
        lines += [tabulate(rows, header, tablefmt="pipe", disable_numparse=True), ""]
    return "\n".join(lines)


def page(records: Sequence[Record]) -> str:
    """One HTML file without scripts, which makes no request."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined,
    )  # fmt: skip
    environment.globals.update(cells=cells, url=url)
    template = environment.get_template("leaderboard.html.j2")
    style = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    return template.render(sections=sections(records), rule=RULE if records else EMPTY, style=style)


def model_index(records: Sequence[Record], method: str) -> list[dict[str, Any]]:
    """The `model-index` of a Hugging Face model card: one model for each submission of a method, with its means.

    Values are fractions in [0, 1]. https://github.com/huggingface/hub-docs/blob/main/modelcard.md describes the block.
    """
    index: list[dict[str, Any]] = []
    of_method = [record for record in records if record["method"] == method]
    for section in sections(of_method):
        for record, standings in section.rows:
            status = "verified" if record["verified"] else "self-reported"
            results = [
                EvalResult(
                    task_type="image-classification" if is_image_metric(name) else "image-segmentation",
                    task_name="Anomaly detection" if is_image_metric(name) else "Anomaly localization",
                    dataset_type=section.dataset,
                    dataset_name=section.dataset,
                    dataset_config=section.protocol,
                    dataset_split="test",
                    dataset_args={"categories": section.categories},
                    metric_type=name,
                    metric_name=metric(name).title,
                    metric_value=round(cell.mean, 6),
                    metric_args={"convention": convention, "seeds": record["seeds"], "status": status}
                    | ({} if math.isnan(cell.std) else {"std": round(cell.std, 6)}),
                    source_name=record["name"] if url(record) else None,
                    source_url=url(record) or None,
                )
                for (name, convention), cell in zip(section.columns, standings, strict=True)
                if not cell.reason
            ]
            index += eval_results_to_model_index(record["name"], results)
    return index
