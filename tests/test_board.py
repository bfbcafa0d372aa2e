"""The leaderboard: ranks, ties, what is refused, and that no text of a submission becomes markup."""

import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.submissions import leaderboard as leaderboard
from methods.base import InputError
from reports.render import leaderboard as board

ROOT = Path(__file__).parent.parent
CATEGORIES = ("bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather")
SHARES = (0.0, 0.01, -0.02, 0.03, -0.01, 0.02, -0.03)  # by category


def record(name: str = "RD", value: float = 0.9, **changes: Any) -> dict[str, Any]:
    """A record with two seeds on seven categories; `changes` may name `categories`, `metric` and `convention`."""
    categories = changes.pop("categories", CATEGORIES)
    row = {
        "subset": "all",
        "metric": changes.pop("metric", "image_auroc"),
        "convention": changes.pop("convention", "folder label"),
    }
    metrics = [
        {"category": category, **row, "seed": seed, "value": value + share + seed * 0.002}
        for category, share in zip(categories, SHARES, strict=False)
        for seed in (0, 1)
    ]
    return {
        "schema": 1, "name": name, "bundle": f"{name.split()[0].lower()}.tar.gz",
        "sha256": hashlib.sha256(name.encode()).hexdigest(), "method": "rd", "variant": "rd", "dataset": "mvtec_ad",
        "protocol": "one_class", "selection": "last",
        "teacher": {"name": "resnet18.tv_in1k", "pretraining": "ImageNet-1k"},
        "budget": {"epochs": 10, "precision": "bfloat16"}, "seeds": [0, 1], "metrics": metrics, "verified": True,
        "proctor": "0.1.0", "data_revision": "a" * 32, "date": "2026-01-31", "licence": "CC-BY-4.0",
        "contact": "someone@example.org", "url": "https://example.org/rd",
    } | changes  # fmt: skip


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    """Writes a record to its own path, or to another one."""

    def write(content: Any, path: str = "") -> Path:
        if not path:
            path = f"{content['dataset']}/{content['protocol']}/{content['bundle'].removesuffix('.tar.gz')}.json"
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content if isinstance(content, str) else json.dumps(content))
        return target

    return write


def ranks(*records: dict[str, Any]) -> dict[str, int]:
    (section,) = board.sections(records)
    return {row["name"]: standings[0].rank for row, standings in section.rows}


# Ranks.


def test_a_submission_that_is_better_on_every_category_ranks_before_the_other() -> None:
    assert ranks(record("worse", 0.8), record("better", 0.9)) == {"better": 1, "worse": 2}


def test_submissions_without_a_significant_difference_share_a_rank_in_the_order_of_the_means() -> None:
    near = record("near", 0.9)
    for row, away in zip(near["metrics"], [0.01, 0.01, -0.01, -0.01] * 4, strict=False):
        row["value"] += away + 0.001
    result = ranks(record("far", 0.8), record("first", 0.9), near)
    assert result == {"near": 1, "first": 1, "far": 3}
    assert list(result) == ["near", "first", "far"]


def test_with_fewer_than_six_categories_no_difference_is_significant() -> None:
    few = {"categories": CATEGORIES[:5]}
    assert ranks(record("worse", 0.1, **few), record("better", 0.9, **few)) == {"better": 1, "worse": 1}


def test_holm_corrects_for_the_number_of_submissions() -> None:
    """With seven categories, the smallest p is 2 / 2^7 = 0.016: below 0.05 for three pairs, not for six."""
    result = [record(str(i), 0.7 + 0.05 * i) for i in range(4)]
    assert set(ranks(*result[:3]).values()) == {1, 2, 3}
    assert set(ranks(*result).values()) == {1}


def test_submissions_on_different_data_are_not_compared() -> None:
    other = record("other", 0.8, data_revision="b" * 32)
    assert ranks(record("RD", 0.9), other) == {"RD": 1, "other": 1}
    unknown = record("other", 0.8, data_revision=None, verified=False)
    assert ranks(record("RD", 0.9), unknown) == {"RD": 1, "other": 2}


def test_each_protocol_and_set_of_categories_has_its_own_table() -> None:
    result = board.sections(
        [record("RD"), record("part", categories=CATEGORIES[:2]), record("all", protocol="multi_class")]
    )
    assert [(part.title, len(part.categories)) for part in result] == [
        ("MVTec AD, multi-class", 7), ("MVTec AD, one-class", 7), ("MVTec AD, one-class", 2),
    ]  # fmt: skip


def test_each_convention_has_its_own_column_and_an_empty_cell_has_a_reason() -> None:
    incomplete = record("hole", metric="aupro", convention="pooled, FPR<=0.3, mask>0, 128 px")
    del incomplete["metrics"][3]
    (section,) = board.sections(
        [incomplete, record("RD", metric="aupro", convention="pooled, FPR<=0.3, mask>0, 256 px")]
    )
    assert section.header[3:5] == [
        "AUPRO (pooled, FPR<=0.3, mask>0, 128 px)", "AUPRO (pooled, FPR<=0.3, mask>0, 256 px)"
    ]  # fmt: skip
    by_name = {row["name"]: [cell.text for cell in standings] for row, standings in section.rows}
    assert by_name == {"RD": ["not reported", "90.1 ± 0.1"], "hole": ["no value for cable, seed 1", "not reported"]}


def test_mean_and_deviation_are_over_categories_within_a_seed_then_over_seeds() -> None:
    (section,) = board.sections([record("RD", 0.9)])
    cell = section.rows[0][1][0]
    assert cell.mean == pytest.approx(0.901)
    assert cell.std == pytest.approx(0.002 / 2**0.5)


# What is shown.


def test_a_row_shows_how_the_values_were_obtained() -> None:
    (section,) = board.sections([record("RD", variant="rd_pixel", selection="oracle")])
    assert board.cells(section) == [[
        "1", "RD", "rd (rd_pixel)", "90.1 ± 0.1", "resnet18.tv_in1k (ImageNet-1k)",
        "epochs 10, precision bfloat16, selection oracle", "2", "verified (data aaaaaaaa)", "2026-01-31",
    ]]  # fmt: skip


def test_an_empty_leaderboard_has_a_notice() -> None:
    assert board.EMPTY in board.markdown([])
    assert board.EMPTY in board.page([])


MALICIOUS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'-alert(1)-'",
    "[a](javascript:alert(1)) ![b](//evil.example/x.png)",
    "a | b | c `code` **bold** <!-- c --> &lt;b&gt; \\",
    "www.evil.example https://evil.example <https://evil.example> {{ 7 * 7 }}",
    "</th></tr></table><iframe src=//evil.example>",
]


class Tags(HTMLParser):
    """Collects the tags of a page, its addresses and the text of table cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.addresses: list[str] = []
        self.cells: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.addresses += [str(value) for name, value in attrs if name in ("href", "src")]
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data.rstrip("\n") if data.strip() else ""


@pytest.mark.parametrize("text", MALICIOUS)
@pytest.mark.parametrize("where", ["name", "teacher", "budget"])
def test_no_text_of_a_submission_becomes_markup(text: str, where: str) -> None:
    value = {"name": text, "teacher": {"name": text, "pretraining": text}, "budget": {"epochs": text}}[where]
    malicious = record("RD") | {where: value}
    plain = record("RD")
    rendered = MarkdownIt("gfm-like", {"linkify": False}).render
    for make in (board.page, lambda records: rendered(board.markdown(records))):
        result, expected = Tags(make([malicious])), Tags(make([plain]))
        assert (result.tags, result.attributes, result.addresses) == (
            expected.tags,
            expected.attributes,
            expected.addresses,
        )
        assert len(result.cells) == len(expected.cells)
        assert any(text in cell for cell in result.cells), "the text is shown unchanged"


@pytest.mark.parametrize(
    "address",
    ['https://example.org/"onmouseover="alert(1)', "https://example.org/)<b>|[x](javascript:x)", "http://[::1"],
)
def test_an_address_ends_neither_its_attribute_nor_its_link(address: str) -> None:
    malicious = record("RD", url=address)
    for page in (
        board.page([malicious]),
        MarkdownIt("gfm-like", {"linkify": False}).render(board.markdown([malicious])),
    ):
        result = Tags(page)
        (link,) = [address for address in result.addresses if address.startswith("http")]
        assert not set(link) & set("\"'<>|()[]")
        assert result.attributes.isdisjoint({"onmouseover"}) and "b" not in result.tags


def test_an_address_that_is_not_http_is_never_a_link() -> None:
    malicious = record("RD", url="javascript:alert(1)")
    assert "javascript" not in board.page([malicious]) + board.markdown([malicious])


def test_the_page_makes_no_request_and_runs_no_script() -> None:
    page = board.page([record("RD")])
    assert "default-src 'none'" in page
    assert Tags(page).tags.isdisjoint({"script", "img", "iframe", "object", "form"})
    assert Tags(page).addresses == ["data:,", "https://example.org/rd"]


# What is checked.


def test_valid_records_pass(put: Callable[..., Path], tmp_path: Path) -> None:
    put(record("RD"))
    put(record("FD", protocol="multi_class"))
    result, problems = leaderboard.read(tmp_path)
    assert (len(result), problems) == (2, [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "schema"),
        ({"sha256": "abc"}, "sha256"),
        ({"extra": 1}, "extra"),
        ({"seeds": [0]}, "seeds"),
        ({"verified": "yes"}, "verified"),
        ({"url": "javascript:alert(1)"}, "url"),
        ({"name": "a\u202eb"}, "name"),
        ({"verified": False}, "contradicts"),
        ({"data_revision": None}, "contradicts"),
        ({"date": "2026-02-30"}, "day is out of range"),
        ({"date": "2999-01-01"}, "is in the future"),
        ({"protocol": "few_shot"}, "unknown protocol 'few_shot'. Known:"),
        ({"dataset": "imagenet"}, "unknown data set 'imagenet'. Known:"),
        ({"selection": "best"}, "unknown selection 'best'"),
        ({"metric": "accuracy"}, "unknown metric 'accuracy'"),
        ({"categories": ["bottel"]}, "unknown category 'bottel'. Did you mean 'bottle'?"),
        ({"value": 1.5}, "metrics.0.value"),
        ({"value": float("nan")}, "NaN is not a JSON number"),
    ],
)  # fmt: skip
def test_the_problem_of_a_record_is_named(
    put: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = put(record(**changes))
    _, problems = leaderboard.read(tmp_path)
    assert len(problems) == 1
    assert problems[0].startswith(str(path)) and message in problems[0]


@pytest.mark.parametrize("content", ["", "[]", "{", "null", '{"schema": 1}', "\u0000"])
def test_a_file_that_is_not_a_record_is_named(put: Callable[..., Path], tmp_path: Path, content: str) -> None:
    path = put(content, "mvtec_ad/one_class/x.json")
    result, problems = leaderboard.read(tmp_path)
    assert not result and len(problems) == 1 and problems[0].startswith(str(path))


def test_a_record_with_a_duplicate_key_is_refused(put: Callable[..., Path], tmp_path: Path) -> None:
    put(json.dumps(record("RD")).replace('"verified": true', '"verified": false, "verified": true'), "x.json")
    _, problems = leaderboard.read(tmp_path)
    assert problems == [f"{tmp_path / 'x.json'}: duplicate key 'verified' in JSON"]


def test_files_other_than_records_are_refused(put: Callable[..., Path], tmp_path: Path) -> None:
    put(" " * (leaderboard.MAX_BYTES + 1), "mvtec_ad/one_class/large.json")
    put("x", "mvtec_ad/one_class/weights.pkl")
    (tmp_path / "link.json").symlink_to("/etc/passwd")
    result, problems = leaderboard.read(tmp_path)
    assert not result
    assert sorted(problem.rpartition(": ")[2].split()[0] for problem in problems) == ["1048577", "only", "only"]


def test_the_right_path_is_given_for_a_record_at_another(put: Callable[..., Path], tmp_path: Path) -> None:
    put(record("RD"), "mvtec_ad/one_class/mine.json")
    _, (problem,) = leaderboard.read(tmp_path)
    assert f"by its content it belongs at {tmp_path / 'mvtec_ad/one_class/rd.json'}" in problem


def test_the_same_bundle_or_name_twice_is_refused(put: Callable[..., Path], tmp_path: Path) -> None:
    put(record("RD"))
    put(record("RD") | {"bundle": "again.tar.gz", "name": "Another"})
    put(record("RD") | {"bundle": "third.tar.gz", "name": "rd", "sha256": "1" * 64})
    _, problems = leaderboard.read(tmp_path)
    assert len(problems) == 2
    assert "the same bundle as" in problems[0] and "already has the name 'rd'" in problems[1]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere is not a folder"):
        leaderboard.read(tmp_path / "nowhere")


def test_the_check_of_the_command_line_fails_only_on_an_invalid_record(
    put: Callable[..., Path], tmp_path: Path
) -> None:
    put(record("RD"))
    assert CliRunner().invoke(app, ["board", "--check", "--records", str(tmp_path)]).exit_code == 0
    put("{}", "mvtec_ad/one_class/bad.json")
    assert CliRunner().invoke(app, ["board", "--check", "--records", str(tmp_path)]).exit_code == 1


def test_the_records_of_this_project_are_valid() -> None:
    _, problems = leaderboard.read(ROOT / "leaderboard" / "records")
    assert not problems


def test_the_documented_action_runs_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "leaderboard" / "README.md").read_text()
    action = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0])
    commands = [step["run"] for step in action["jobs"]["check"]["steps"] if "run" in step]
    assert commands[-1] == "proctor board --check"
    monkeypatch.chdir(ROOT)
    assert CliRunner().invoke(app, commands[-1].split()[1:]).exit_code == 0


def test_the_command_writes_both_pages(put: Callable[..., Path], tmp_path: Path) -> None:
    put(record("RD"), "records/mvtec_ad/one_class/rd.json")
    options = ["board", "--records", str(tmp_path / "records"), "--out", str(tmp_path / "built")]
    assert CliRunner().invoke(app, options).exit_code == 0
    assert "90.1 ± 0.1" in (tmp_path / "built" / "board.md").read_text()
    assert "90.1 ± 0.1" in re.sub("<[^>]+>", "", (tmp_path / "built" / "board.html").read_text())


# Model cards.


def test_a_model_card_with_the_block_is_read_by_huggingface_hub(put: Callable[..., Path], tmp_path: Path) -> None:
    put(record("RD"))
    put(record("FD", method="fd"))
    printed = CliRunner().invoke(app, ["model-index", "rd", "--records", str(tmp_path)]).stdout
    (entry,) = yaml.safe_load(printed)["model-index"]
    assert entry["name"] == "RD"
    card = ModelCard(f"---\n{printed}---\n# RD\n")
    assert card.data.model_name == "RD"
    (result,) = card.data.eval_results
    assert (result.dataset_type, result.dataset_config, result.dataset_split) == ("mvtec_ad", "one_class", "test")
    assert (result.metric_type, result.metric_name, result.metric_value) == ("image_auroc", "image AUROC", 0.901)
    assert result.metric_args == {
        "convention": "folder label", "seeds": [0, 1], "status": "verified", "std": 0.001414
    }  # fmt: skip
    assert result.source_url == "https://example.org/rd"


def test_a_method_without_a_submission_is_an_error(put: Callable[..., Path], tmp_path: Path) -> None:
    put(record("RD"))
    assert "no submission of method 'aand'" in str(
        CliRunner().invoke(app, ["model-index", "aand", "--records", str(tmp_path)]).exception
    )
