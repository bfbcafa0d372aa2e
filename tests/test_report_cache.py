"""A report that is that of now is not built again, and what of it stays is not touched."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from matplotlib import colormaps

from benchmarks import stamps
from benchmarks.report_cache import ReportCache
from reports import drawing
from reports.output import Output
from reports.render import html


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with results and a report, whose files all count as old."""
    monkeypatch.setattr(stamps, "TICK_SECONDS", -3600)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("results/scores/a.csv", "results/details/a/b.json", "reports/build/index.html"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("as it was")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cache(**allow: str) -> ReportCache:
    return ReportCache(Path("results"), Path("reports/build"), allow)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a score is edited": lambda folder: (folder / "results/scores/a.csv").write_text("as is now"),
    "a score file is added": lambda folder: (folder / "results/scores/b.csv").touch(),
    "a detail is removed": lambda folder: (folder / "results/details/a/b.json").unlink(),
    "the page is edited": lambda folder: (folder / "reports/build/index.html").write_text("as is now"),
    "the page is removed": lambda folder: (folder / "reports/build/index.html").unlink(),
    "a file is added to the report": lambda folder: (folder / "reports/build/a.csv").touch(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_report_is_that_of_now_until_something_changes(folder: Path, change: str) -> None:
    assert cache().read() is None
    cache().write(["a problem"])
    assert cache().read() == ["a problem"]
    CHANGES[change](folder)
    assert cache().read() is None


def test_another_reason_makes_another_report(folder: Path) -> None:
    cache().write([])
    assert cache(collapsed="a toy").read() is None


def test_edited_code_makes_another_report(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache().write([])
    assert cache().read() == []
    monkeypatch.setattr(stamps, "of_code", lambda: stamps.Stamps("edited", 0.0))
    assert cache().read() is None


def test_a_report_of_files_that_were_just_written_is_not_relied_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamps, "TICK_SECONDS", 3600)
    cache().write([])
    assert cache().read() is None


def test_an_unchanged_report_is_answered_without_pandas_and_matplotlib(folder: Path) -> None:
    code = """
import sys
from pathlib import Path
from benchmarks import stamps
from benchmarks.cli import app
from benchmarks.report_cache import ReportCache
stamps.TICK_SECONDS = -3600
ReportCache(Path("results"), Path("reports/build"), {}).write(["a problem"])
app(["report"], standalone_mode=False)
sys.exit(bool({"pandas", "matplotlib", "torch"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "a problem" in done.stderr and "The report is at reports/build/index.html" in done.stderr


def test_a_file_whose_content_stays_is_not_touched_and_one_that_the_report_lost_is_removed(tmp_path: Path) -> None:
    first = Output(tmp_path)
    kept, edited, lost = (first.write(f"tables/{name}.csv", "1") for name in ("kept", "edited", "lost"))
    for path in (kept, edited, lost):
        os.utime(path, (1, 1))
    second = Output(tmp_path)
    second.write("tables/kept.csv", "1")
    second.write("tables/edited.csv", "2")
    second.remove_others("tables")
    assert kept.stat().st_mtime == 1 and edited.stat().st_mtime > 1 and edited.read_text() == "2"
    assert not lost.exists()


def test_a_figure_is_drawn_again_if_its_rows_or_its_code_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    job, other = (drawing.Job("seeds", pd.DataFrame([{"variant": "rd", "value": value}])) for value in (0.5, 0.6))
    before = drawing.digest(job)
    assert drawing.digest(drawing.Job("seeds", job.rows.copy())) == before != drawing.digest(other)
    assert "reports.figures.seeds" in drawing._code("seeds") and "reports.render.svg" in drawing._code("seeds")
    monkeypatch.setattr(drawing, "_code", lambda figure: "edited")
    assert drawing.digest(job) != before


def test_figures_that_no_report_has_used_for_long_are_removed(tmp_path: Path) -> None:
    for name, days in (("old", drawing.KEPT_DAYS + 1), ("young", drawing.KEPT_DAYS - 1)):
        (tmp_path / name).mkdir()
        at = (tmp_path / name).stat().st_mtime - days * 86400
        os.utime(tmp_path / name, (at, at))
    drawing.draw([], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["young"]


def test_a_figure_without_anything_to_draw_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = drawing.Job("spro", pd.DataFrame([{"variant": "rd", "category": "a", "seed": 0, "details": {"curves": {}}}]))
    (first,) = drawing.draw([job], tmp_path)
    assert "no category has a stored sPRO curve" in first.error
    monkeypatch.setattr(drawing, "_draw", lambda *_: pytest.fail("it was drawn"))
    assert drawing.draw([job], tmp_path) == [first]


def test_the_page_colours_maps_as_figures_do() -> None:
    for place, colour in enumerate(html.INFERNO):
        drawn = colormaps["inferno"](place / 16)[:3]
        assert [int(colour[i : i + 2], 16) for i in (0, 2, 4)] == [round(255 * channel) for channel in drawn]
