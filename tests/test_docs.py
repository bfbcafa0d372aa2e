"""The documentation names only what exists."""

import re
from pathlib import Path

import pytest
import typer.main
import yaml

from benchmarks.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Made by the pipeline or the user; not in a fresh clone.
MADE = ("reports/build/", "results/plan", "results/logs/", "results/scratch/", "site/", "data/")
# Names to be replaced by the reader's own: NAME, CATEGORY, STEM, …
PLACEHOLDER = re.compile(r"\b[A-Z]{2,}\b(?!\.md)|[*…<{]")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def code(text: str) -> list[str]:
    """What stands in backticks, and the lines of code blocks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```\w*\n.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    return inline + [line for block in blocks for line in block.splitlines()]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def paths(text: str) -> set[str]:
    """Files and folders of the project that a page names in backticks."""
    words = {word.rstrip(",;:)") for snippet in code(text) for word in snippet.split()}
    tops = {path.name for path in ROOT.iterdir() if path.is_dir()}
    named = {word for word in words if word.partition("/")[0] in tops and "/" in word}
    return {word for word in named if not PLACEHOLDER.search(word) and not word.startswith(MADE)}


def commands(text: str, program: str) -> set[str]:
    """The first argument of each call of a program."""
    calls = (re.search(rf"(?:^|\s){program} ([\w-]+)", snippet.partition("#")[0]) for snippet in code(text))
    return {call.group(1) for call in calls if call}


def options(text: str) -> set[tuple[str, str]]:
    """Each command of `proctor` with each option that is given to it."""
    lines = [snippet.partition(" #")[0] for snippet in code(text)]
    calls = [match for line in lines if (match := re.match(r"\s*proctor ([\w-]+)(.*)", line))]
    return {(call.group(1), option) for call in calls for option in re.findall(r"\s(--?[a-z][\w-]*)", call.group(2))}


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text().split()) < 900


@pages
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not link.startswith(("http:", "https:", "mailto:")):
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pages
def test_every_path_exists(page: Path) -> None:
    assert [path for path in sorted(paths(page.read_text())) if not (ROOT / path).exists()] == []


@pages
def test_every_command_exists(page: Path) -> None:
    text = page.read_text()
    assert commands(text, "proctor") <= set(typer.main.get_command(app).commands)
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert commands(text, "make") <= targets


@pages
def test_every_option_exists(page: Path) -> None:
    known = typer.main.get_command(app).commands
    for command, option in options(page.read_text()):
        assert option in {name for parameter in known[command].params for name in parameter.opts}, (command, option)


def test_every_suite_is_described() -> None:
    described = (ROOT / "docs" / "using.md").read_text()
    suites = {path.stem for path in (ROOT / "benchmarks" / "suites").glob("*.yaml")}
    assert {name for name in suites if f"`{name}`" not in described} == set()


def test_every_page_is_in_the_site() -> None:
    listed = (ROOT / "mkdocs.yml").read_text()
    assert [page.name for page in PAGES[2:] if page.relative_to(ROOT / "docs").as_posix() not in listed] == []


def test_the_site_loads_nothing_from_the_network() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert site["theme"]["font"] is False
    assert not {"extra_css", "extra_javascript", "extra"} & set(site)


def test_version_is_the_same_everywhere() -> None:
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version.group(1)
    assert f"## {version.group(1)} (" in (ROOT / "CHANGELOG.md").read_text()
