"""What the site adds to the files in docs/: pages of other folders, and tables generated from the code."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import methods
from benchmarks.metrics.conventions import CONVENTIONS

ROOT = Path(__file__).parent.parent
OTHER_PAGES = (
    "CONTRIBUTING.md", "CHANGELOG.md", "results/README.md", "reports/published/README.md",
    "leaderboard/README.md", "leaderboard/bundle-format.md",
)  # fmt: skip


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/, under their path in the repository."""
    for name in OTHER_PAGES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    if page.file.src_uri in OTHER_PAGES:
        markdown = re.sub(r"\]\(((?:\.\./)*)docs/", r"](\1", markdown)
    elif not page.file.src_uri.startswith("api/"):
        markdown = markdown.replace("](../", "](")
    for name, table in (("methods", _methods), ("conventions", _conventions)):
        if (marker := f"<!-- generated: {name} -->") in markdown:
            markdown = markdown.replace(marker, table())
    return markdown


def _methods() -> str:
    return "\n\n".join(_method(name) for name in methods.names())


def _method(name: str) -> str:
    method = methods.load(name)
    deviations = "\n".join(f"- {deviation}" for deviation in method.deviations or ("none",))
    return (
        f"## `{name}`\n\n{inspect.getdoc(inspect.getmodule(method))}\n\n**Paper:** {method.paper}\n\n"
        f"**Source:** {method.source}\n\n**Deviations:**\n\n{deviations}"
    )


def _conventions() -> str:
    """A row for each convention, a column for each of its fields."""
    rows = [convention._asdict() for convention in CONVENTIONS.values()]
    lines = [[field.replace("_", " ") for field in rows[0]], ["---"] * len(rows[0])]
    lines += [["as annotated" if value is None else str(value) for value in row.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
