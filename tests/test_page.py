"""The one offline page: what it holds, and how it behaves in a real Chromium, where one is installed."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import factories
import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure

from reports import build, figures, load, specs
from reports.aggregate import Cell
from reports.render import drilldown, html, svg
from reports.tables import Table
from tests.speed import bench_page

CATEGORIES = {"mvtec_ad": ["screw", "toothbrush"]}
SPECS = ("per_category", "degradation_per_category", "ranks")
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variants, two categories, two protocols, two seeds; fd's toothbrush has not been scored under one_class."""
    folder = tmp_path_factory.mktemp("page") / "results"
    bench_page.write(folder, CATEGORIES, ["rd", "fd"], [0, 1])
    scores = folder / "scores" / "fd-mvtec_ad-one_class.csv"
    rows = pd.read_csv(scores)
    rows[rows.category != "toothbrush"].to_csv(scores, index=False)
    return folder


@pytest.fixture(scope="module")
def index(results: Path) -> Path:
    """The page of three kinds of tables and one of figures."""
    folder = results.parent / "specs"
    folder.mkdir()
    for name in SPECS:
        (folder / f"{name}.yaml").write_bytes((specs.FOLDER / f"{name}.yaml").read_bytes())
    figure = {"title": "{dataset} {protocol}", "figure": "roc", "from": "details", "each": ["dataset", "protocol"]}
    (folder / "roc.yaml").write_text(yaml.safe_dump(figure))
    return build.build(results, results.parent / "build", folder)


def payloads(text: str, prefix: str = "payload") -> dict[str, Any]:
    """What stands behind the cells, by the name of its payload; or, of `items`, what explorers can show."""
    found = re.findall(rf'<script type="text/plain" id="{prefix}-([^"]+)">([^<]+)</script>', text)
    return {name: json.loads(zlib.decompress(base64.b64decode(payload))) for name, payload in found}


def tables(text: str) -> str:
    """The markup of all tables."""
    return "".join(item["html"] for item in payloads(text, "items")["tables"].values())


def test_every_link_leads_to_something_that_is_there(index: Path) -> None:
    text = index.read_text()
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    behind = payloads(text)
    targets = re.findall(r'href="#cell/([^"]+)"', text + tables(text))
    assert len(targets) > 50
    for target in targets:
        words = [unquote(word) for word in target.split("/")]
        for group, category in zip(words[::2], words[1::2], strict=True):
            assert category in {*behind[group]["categories"], "mean"}
    anchors = {name for name in re.findall(r'href="#([^"]+)"', text) if not name.startswith("cell/")}
    assert anchors <= set(ids)
    shown = tables(text)
    assert set(re.findall(r'href="#([^"/]+)"', shown)) <= set(re.findall(r' id="([^"]+)"', shown))
    files = re.findall(r'href="((?:tables|figures)/[^"]+)"', text + shown)
    assert files and all((index.parent / unquote(name)).exists() for name in files)


def test_every_number_of_a_table_leads_to_its_records_and_what_has_none_says_why(index: Path) -> None:
    text = tables(index.read_text())
    cells = {cell: re.sub("<[^>]+>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", text)}
    numbers = [cell for cell, text in cells.items() if re.match(r"[-+]?\d", text)]
    assert len(numbers) > 50 and all(cell.startswith('<a href="#cell/') for cell in numbers)
    empty = [cell for cell, text in cells.items() if text.startswith("\N{EN DASH}")]
    assert empty and all("<sup><a href=" in cell for cell in empty)


def test_a_difference_leads_to_both_protocols(index: Path) -> None:
    assert "#cell/rd-mvtec_ad-one_class/screw/rd-mvtec_ad-multi_class/screw" in tables(index.read_text())


def test_a_payload_has_the_records_scores_curves_maps_and_log_of_its_cells(index: Path, results: Path) -> None:
    group = payloads(index.read_text())["rd-mvtec_ad-multi_class"]
    cell = group["categories"]["screw"]
    (record,) = [run for run in group["runs"] if run["seed"] == 1]
    stored = json.loads((results / "predictions/rd-mvtec_ad-multi_class/all-seed1/record.json").read_text())
    assert record["facts"]["hyper_parameters"] == stored["hyper_parameters"]
    assert record["facts"]["provenance"] == stored["provenance"]
    assert record["log"].endswith("a line of the log, number 19")
    epochs, values = record["losses"]["level1"]
    assert (epochs[0], epochs[-1]) == (1, bench_page.EPOCHS) and len(epochs) == drilldown.EPOCHS
    assert values[-1] == pytest.approx(stored["history"][-1]["terms"]["level1"], rel=1e-3)
    rows = pd.read_csv(results / "scores" / "rd-mvtec_ad-multi_class.csv")
    of_cell = rows[(rows.category == "screw") & (rows.seed == 1)]
    assert cell["scores"]["1"] == pytest.approx(of_cell.value.tolist(), abs=1e-5)
    assert {len(cell["curves"]["0"][name][0]) <= drilldown.POINTS for name in ("roc", "pro")} == {True}
    assert cell["curves"]["0"]["roc"][0][0] == 0 and cell["curves"]["0"]["roc"][1][-1] == 1000
    assert len(cell["maps"]["0"]["scores"]) == bench_page.EXAMPLES


def test_a_thinned_curve_keeps_its_ends_and_its_corner() -> None:
    x = np.r_[np.zeros(100), np.linspace(0, 1, 100)]
    y = np.r_[np.linspace(0, 0.9, 100), np.linspace(0.9, 1, 100)]
    thin = drilldown._thinned({"fpr": x.tolist(), "tpr": y.tolist()})
    assert [axis[0] for axis in thin] == [0, 0] and [axis[-1] for axis in thin] == [1000, 1000]
    area = np.trapezoid(thin[1], thin[0]) / 1e6
    assert area == pytest.approx(0.95, abs=0.005)


def test_a_cell_takes_so_little_that_a_full_suite_fits(index: Path) -> None:
    sizes = {
        name: len(payload) for name, payload in re.findall(r'id="payload-([^"]+)">([^<]+)</script>', index.read_text())
    }
    cells = sum(len(bench_page.PROTOCOLS) * 2 * len(names) * 2 for names in CATEGORIES.values())
    of_cells = sum(size for name, size in sizes.items() if not name.startswith("examples-"))
    full = 6 * 32 * 3 * 2 * of_cells / cells + 32 * sizes["examples-mvtec_ad"] / 2
    assert full + html.BUDGET < 13e6  # which leaves two megabytes for the tables; larger groups payload more tightly


def test_a_damaged_file_of_maps_costs_its_maps_alone(results: Path, tmp_path: Path) -> None:
    problems: list[str] = []
    details = load.read_details(results, problems)
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"PK")
    arrays = [broken if i == 0 else path for i, path in enumerate(details.arrays)]
    found = drilldown.payloads([], load.read_scores(results, problems), details.assign(arrays=arrays), {}, problems)
    assert len(problems) == 1 and "broken.npz: its maps are not shown" in problems[0]
    assert "examples-mvtec_ad" in found


def test_a_number_that_is_none_reaches_the_page_as_a_word() -> None:
    record = factories.record(hyper_parameters={"rate": float("nan")})
    problems: list[str] = []
    packed = drilldown.payloads([record], load.read_scores(Path("none"), problems), pd.DataFrame(), {}, problems)
    group = json.loads(zlib.decompress(base64.b64decode(packed["rd-toy-one_class"])))
    assert group["runs"][0]["facts"]["hyper_parameters"] == {"rate": "NaN"}


def picture(folder: Path, name: str, **place: str) -> html.Figure:
    """A figure with a curve, a picture and text."""
    drawn = Figure(figsize=(2, 1))
    axis = drawn.subplots()
    axis.imshow(np.random.default_rng(0).random((20, 20)))
    axis.plot([0, 10], [0, 10], color="#222222", label="a")
    axis.legend()
    paths = figures.save(drawn, folder / name)
    return html.Figure("kind", name, name, "Says what it is.", place, paths, svg.inline(paths[0], name))


def test_a_figure_beyond_the_budget_is_only_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = picture(tmp_path, "small", protocol="one_class"), picture(tmp_path, "large", protocol="multi_class")
    large = large._replace(markup=large.markup + "<path/>" * 9000)
    monkeypatch.setattr(html, "BUDGET", len(large.markup))
    text = html.render(html.Content("s", [], [small, large], [], {}, []))
    items = payloads(text, "items")["kind"]
    assert "<svg" in items["small"]["html"] and "<svg" not in items["large"]["html"]
    assert "Too large for this page" in items["large"]["html"] and "figures/large.pdf" in items["large"]["html"]


def test_a_figure_in_the_page_has_no_style_that_the_policy_forbids_and_ids_of_its_own(tmp_path: Path) -> None:
    one, other = (picture(tmp_path, name).markup for name in ("one", "other"))
    assert "style" not in one and 'stroke="#222222"' in one and "data:image/webp" in one and "image/png" not in one
    ids = [set(re.findall(r' id="([^"]+)"', text)) for text in (one, other)]
    assert ids[0] and not ids[0] & ids[1]
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)', one)) <= {(i, "") for i in ids[0]} | {
        ("", i) for i in ids[0]
    }


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page in which every name that a user may choose is HTML."""
    group = f"{HOSTILE}-toy-one_class"
    record = factories.record(
        variant=HOSTILE, method=HOSTILE, split=HOSTILE, paper=HOSTILE, deviations=[HOSTILE],
        hyper_parameters={HOSTILE: HOSTILE}, categories={HOSTILE: {"keys": []}},
        history=[{"epoch": e, "terms": {HOSTILE: 1 / e}} for e in (1, 2)], provenance={"git_commit": HOSTILE},
    )  # fmt: skip
    logs = {f"{group}/{HOSTILE}-seed0": f"</script><script>alert(1)</script>{HOSTILE}"}
    packed = drilldown.payloads([record], load.read_scores(Path("none"), []), pd.DataFrame(), logs, [])
    # As the name of a group cannot hold a slash or a bracket on disk, the page's own name for it is a tame one.
    tame = {"tame": packed[group]}
    cell = Cell(
        0.5, 0.1, {0: 0.4, 1: 0.6}, HOSTILE, ("results/predictions/tame/x-seed0/record.json",), category=HOSTILE
    )
    grid = pd.DataFrame({HOSTILE: [cell]}, index=pd.Index([HOSTILE], name=HOSTILE))
    table = Table("kind", "name", HOSTILE, [HOSTILE] * 4, {"dataset": HOSTILE}, grid)
    path = tmp_path_factory.mktemp("hostile") / "index.html"
    path.write_text(html.render(html.Content(HOSTILE, [], [table], [record], tame, [HOSTILE], [HOSTILE])))
    return path


def test_names_that_hold_html_are_text(hostile: Path) -> None:
    text = hostile.read_text()
    text += tables(text)
    assert "<img" not in text and "alert(1)</script>" not in text and "&lt;img src=x" in text


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as running:
        try:
            found = bench_page.chromium(running)
        except playwright.Error:
            pytest.skip("no Chromium is installed: `apt install chromium` or `playwright install chromium`")
        yield found
        found.close()


class Opened:
    """A page in a tab, with all that it asked for and said."""

    def __init__(self, browser: Any, path: Path, fragment: str = "", **options: Any) -> None:
        options = {"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce"} | options
        self.tab = browser.new_context(**options).new_page()
        self.requests: list[str] = []
        self.said: list[str] = []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("console", lambda message: self.said.append(message.text))
        self.tab.on("pageerror", lambda error: self.said.append(str(error)))
        self.tab.goto(path.as_uri() + fragment)

    def choose(self, explorer: str, **facets: str) -> None:
        """Choose what an explorer shows by its controls, in this order."""
        for facet, value in facets.items():
            control = self.tab.locator(f'[data-name="{explorer}"] select[name="{facet}"]')
            control.select_option(value)
            self.tab.wait_for_function(
                "([name, facet, value]) => location.search.includes(name) && value === "
                "document.querySelector(`[data-name='${name}'] select[name='${facet}']`)?.value",
                arg=[explorer, facet, value],
            )

    def open(self, group: str, category: str) -> Any:
        """The dialog of a cell, opened from a table by the keyboard."""
        self.tab.locator(f'td a[href="#cell/{group}/{category}"]').first.press("Enter")
        dialog = self.tab.locator("dialog[open]")
        dialog.wait_for()
        return dialog


SCREENS = {
    "light": {},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True},
}


@pytest.mark.parametrize("screen", SCREENS)
def test_the_page_asks_for_nothing_says_no_error_and_never_scrolls_sideways(
    browser: Any, index: Path, screen: str
) -> None:
    opened = Opened(browser, index, **SCREENS[screen])
    dialog = opened.open("rd-mvtec_ad-one_class", "screw")
    opened.tab.wait_for_timeout(200)
    assert [url for url in opened.requests if not url.startswith("data:")] == [index.as_uri()]
    assert opened.said == []
    sideways = "element => element.scrollWidth > element.clientWidth"
    assert not opened.tab.locator("html").evaluate(sideways)
    assert not dialog.evaluate(sideways)


def test_the_policy_of_the_page_forbids_requests_and_foreign_scripts(browser: Any, index: Path) -> None:
    opened = Opened(browser, index)
    blocked = """async () => { try { await fetch("https://example.org/"); return false; } catch { return true; } }"""
    assert opened.tab.evaluate(blocked)
    opened.tab.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))"
    )
    assert opened.tab.evaluate("window.ran") is None
    assert any("Content Security Policy" in text for text in opened.said)


def test_the_first_view_holds_the_leaderboards_and_what_became_of_published_numbers(browser: Any, index: Path) -> None:
    opened = Opened(browser, index)
    boards = opened.tab.locator("section.board")
    assert [board.locator("h3").inner_text() for board in boards.all()] == [
        "MVTec AD, one-class",
        "MVTec AD, multi-class",
    ]
    for board in boards.all():
        box = board.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 800
        assert "published number" in board.locator(".verdicts").inner_text()
        assert board.locator("td .place").first.inner_text() == "1"
    assert re.search(r"(RD leads FD|FD leads RD) by [\d.]+ points of image AUROC", boards.nth(1).inner_text())


def test_every_link_of_the_contents_lands_at_its_heading_at_the_first_click(browser: Any, index: Path) -> None:
    for place in range(Opened(browser, index).tab.locator("nav a, .kinds a").count()):
        opened = Opened(browser, index)
        link = opened.tab.locator("nav a, .kinds a").nth(place)
        heading = opened.tab.locator(link.get_attribute("href"))
        link.click()
        top = heading.bounding_box()["y"]
        left = "document.documentElement.scrollHeight - innerHeight - scrollY"
        assert 0 <= top < 40 or (top < 800 and opened.tab.evaluate(left) < 1), heading.inner_text()


def test_controls_change_the_table_and_the_address_brings_it_back(browser: Any, index: Path) -> None:
    opened = Opened(browser, index)
    caption = opened.tab.locator('[data-name="tables"] caption')
    assert caption.inner_text() == "image AUROC · MVTec AD · one-class · all anomalies"
    opened.choose("tables", metric="pixel AUROC", protocol="multi-class")
    assert caption.inner_text() == "pixel AUROC (native size) · MVTec AD · multi-class · all anomalies"
    opened.choose("tables", metric="AUPRO")
    assert caption.inner_text().startswith("AUPRO (") and "multi-class" in caption.inner_text()
    assert opened.tab.evaluate("document.activeElement.name") == "metric"
    again = Opened(browser, index, opened.tab.url.removeprefix(index.as_uri()))
    again.tab.wait_for_function(
        "() => document.querySelector('[data-name=\"tables\"] select[name=\"metric\"]').value === 'AUPRO'"
    )
    assert again.tab.locator('[data-name="tables"] caption').inner_text() == caption.inner_text()
    opened.choose("tables", table="Ranks")
    assert caption.inner_text().startswith("Ranks over categories: AUPRO") and "multi-class" in caption.inner_text()
    opened.choose("roc", protocol="multi-class")
    assert "multi-class" in opened.tab.locator('[data-name="roc"] figcaption').inner_text()
    assert "tables=ranks" in opened.tab.url and "roc=roc" in opened.tab.url and opened.said == []


def test_a_dialog_leaves_what_was_chosen_in_the_address(browser: Any, index: Path) -> None:
    opened = Opened(browser, index)
    opened.choose("tables", protocol="multi-class")
    address = opened.tab.url
    opened.open("rd-mvtec_ad-multi_class", "screw")
    opened.tab.keyboard.press("Escape")
    opened.tab.locator("dialog").wait_for(state="hidden")
    assert opened.tab.url == address


def test_latex_bibtex_and_commands_are_copied(browser: Any, index: Path) -> None:
    opened = Opened(browser, index, permissions=["clipboard-read", "clipboard-write"])
    dialog = opened.open("rd-mvtec_ad-one_class", "screw")
    places = [(dialog, "Copy", "proctor run --variant rd"), (opened.tab, "Copy LaTeX", r"\toprule"),
              (opened.tab, "Copy BibTeX", "@misc{fd,")]  # fmt: skip
    for place, label, copied in places:
        button = place.get_by_role("button", name=label, exact=True).first
        button.click()
        opened.tab.wait_for_function("() => document.activeElement.textContent === 'Copied'")
        assert copied in opened.tab.evaluate("navigator.clipboard.readText()")
        if place is dialog:
            opened.tab.keyboard.press("Escape")


def column(opened: Opened, place: int) -> list[str]:
    rows = opened.tab.locator("figure.table table").first.locator("tbody tr")
    return [row.locator("th, td").nth(place).inner_text() for row in rows.all()]


def test_a_column_sorts_by_click_and_by_key_and_the_mean_stays_last(browser: Any, index: Path) -> None:
    opened = Opened(browser, index)
    head = opened.tab.locator("figure.table thead th")
    before = column(opened, 0)
    head.nth(0).locator("button").click()
    head.nth(0).locator("button").press("Enter")
    assert head.nth(0).get_attribute("aria-sort") == "descending"
    assert column(opened, 0) == sorted(before, reverse=True)
    head.nth(2).locator("button").press("Space")
    assert [head.nth(i).get_attribute("aria-sort") for i in (0, 2)] == ["none", "descending"]
    values = [float(text.split()[0]) for text in column(opened, 2)]
    assert values == sorted(values, reverse=True)
    head.nth(2).locator("button").click()
    head.nth(2).locator("button").click()
    assert column(opened, 0) == before and head.nth(2).get_attribute("aria-sort") == "none"
    assert opened.tab.locator("figure.table tfoot th").first.inner_text() == "mean"


def test_an_empty_cell_sorts_last_in_either_direction(browser: Any, index: Path) -> None:
    opened = Opened(browser, index)
    button = opened.tab.locator("figure.table thead th").nth(1).locator("button")
    assert button.inner_text().startswith("FD")
    for _ in range(2):
        button.click()
        assert column(opened, 1)[-1].startswith("\N{EN DASH}")


def test_a_cell_opens_what_stands_behind_it_and_gives_the_focus_back(browser: Any, index: Path) -> None:
    opened = Opened(browser, index)
    dialog = opened.open("rd-mvtec_ad-one_class", "screw")
    assert opened.tab.evaluate("document.activeElement.textContent") == "RD · screw · MVTec AD · one-class"
    text = dialog.inner_text()
    for said in ("seed 0", "seed 1", "image AUROC", "learning_rate", "git_commit", "Deviations", "created"):
        assert said in text
    assert "proctor run --variant rd --dataset mvtec_ad --protocol one_class --split screw --seed 1" in text
    assert "a line of the log, number 19" in dialog.locator("details pre").first.text_content()
    assert [figure.inner_text() for figure in dialog.locator("figure h4").all()] == ["ROC", "PRO", "Loss"]
    assert dialog.locator("figure").first.locator("path.line").count() >= 2
    loaded = "images => images.length === 5 && images.every(image => image.complete && image.naturalWidth > 0)"
    opened.tab.wait_for_function(f"({loaded})([...document.querySelectorAll('dialog img')])")
    opened.tab.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert opened.tab.evaluate("document.activeElement.getAttribute('href')") == "#cell/rd-mvtec_ad-one_class/screw"
    assert "#" not in opened.tab.url


def test_a_mean_leads_to_its_categories_and_back_leads_out_again(browser: Any, index: Path) -> None:
    opened = Opened(browser, index)
    dialog = opened.open("rd-mvtec_ad-multi_class", "mean")
    printed = opened.tab.locator('td a[href="#cell/rd-mvtec_ad-multi_class/mean"]').first.inner_text()
    assert dialog.locator("tfoot td").first.inner_text() == printed
    dialog.get_by_role("link", name="toothbrush").click()
    opened.tab.get_by_role("heading", name="RD · toothbrush").wait_for()
    opened.tab.go_back()
    opened.tab.get_by_role("heading", name="RD · all categories").wait_for()
    opened.tab.go_back()
    dialog.wait_for(state="hidden")


def test_an_address_opens_its_cell_and_one_of_nothing_says_so(browser: Any, index: Path) -> None:
    assert (
        "FD · screw"
        in Opened(browser, index, "#cell/fd-mvtec_ad-one_class/screw").tab.locator("h2#opened").inner_text()
    )
    nothing = Opened(browser, index, "#cell/none-mvtec_ad-one_class/screw")
    nothing.tab.get_by_role("heading", name="This page has no such record").wait_for()
    assert nothing.said == []


def test_keyboard_and_screen_reader_find_their_way(browser: Any, index: Path) -> None:
    opened = Opened(browser, index)
    opened.tab.keyboard.press("Tab")
    assert opened.tab.evaluate("document.activeElement.textContent") == "Skip to the results"
    opened.tab.keyboard.press("Enter")
    assert opened.tab.evaluate("document.activeElement.id") == "results"
    levels = [
        int(tag[1]) for tag in opened.tab.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => h.tagName)")
    ]
    assert levels.count(1) == 1 and all(b <= a + 1 for a, b in pairwise(levels))
    assert [opened.tab.locator(mark).count() for mark in ("main", "nav[aria-label]", "body > header")] == [1, 1, 1]
    assert opened.tab.locator("main table").count() == opened.tab.locator("main table > caption").count()
    assert opened.tab.locator("main th:not([scope])").count() == 0
    assert opened.tab.locator("main img:not([alt])").count() == 0


def test_html_in_names_stays_text_in_the_dialog(browser: Any, hostile: Path) -> None:
    opened = Opened(browser, hostile)
    opened.tab.locator("td a").first.press("Enter")
    dialog = opened.tab.locator("dialog[open]")
    dialog.wait_for()
    assert HOSTILE in dialog.inner_text()
    assert opened.tab.locator("img").count() == 0 and opened.said == []
