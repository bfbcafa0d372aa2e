"""What the terminal shows of a suite: while runs are at work, at several widths, and in a pipe."""

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import factories
import pytest
from rich.console import Console

from benchmarks import plan as plans
from benchmarks import results, status_file
from benchmarks.execution import display, forecast, monitor
from benchmarks.execution.display import Display
from benchmarks.execution.monitor import Row
from benchmarks.plan import Run
from benchmarks.records import Record
from benchmarks.status import State

ROOT = Path(__file__).parent.parent
LONG = "snl_fd-mvtec_loco-multi_class/splicing_connectors-seed0"
CHATTER = "submitit INFO (2026-11-26 18:31:21,162) - Loading pickle: /a/path/1_submitted.pkl\n"


def planned(variant: str, seed: int, **names: Any) -> Run:
    record: Record = factories.record(variant=variant, dataset="mvtec_ad", split="bottle", seed=seed, **names)
    return factories.run(record, fingerprint_parts={"run": f"{variant}{seed}{names}"})


@pytest.fixture(autouse=True)
def no_records(results_folder: Path) -> None:
    """No run has been timed, whatever lies in the project's own results folder."""
    forecast.mean_seconds.cache_clear()


@pytest.fixture
def suite(results_folder: Path) -> list[Run]:
    """Four runs at work, one that failed, and others that are missing; the plan is written."""
    runs = [planned(variant, seed) for variant in ("rd", "fd") for seed in range(6)]
    terms = {"level1": 0.0455, "level2": 0.0651, "level3": 0.0352, "validation": 0.9, "image_auroc": 0.95}
    for number, run in enumerate(runs[:4]):
        status_file.report(
            run, "running", phase="fit", done=50 + number, total=200, terms=terms, remaining=6000.0, elapsed=2000.0
        )
    status_file.report(runs[6], "failed", error="ValueError: the loss is [not] finite")
    log = results.scratch_dir(runs[0]) / "log"
    log.mkdir()
    (log / "1_0_log.out").write_text("first\nresized 209 images for the cache\n" + CHATTER)
    (log / "1_0_log.err").write_text(CHATTER)
    plans.write(results_folder, plans.make("test", runs))
    return runs


def lines_of(rows: Sequence[Row], width: int, height: int | None = None) -> list[str]:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(display.picture(rows, width, height))
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.mark.parametrize("width", [80, 120, 200])
def test_each_run_at_work_is_one_line_that_fits_the_terminal(width: int, suite: list[Run]) -> None:
    lines = lines_of(monitor.rows(suite), width)
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("12 runs: 4 running, 1 failed, 7 missing; more than 2 h 4"), "nothing is known of fd"
    working = [line for line in lines if "bottle-seed" in line and "fit" in line]
    assert [line.split()[:3] for line in working] == [
        [f"rd-mvtec_ad-one_class/bottle-seed{number}", "fit", f"{50 + number}/200"] for number in range(4)
    ]
    assert all("0.1458" in line for line in working)


@pytest.mark.parametrize(("width", "is_shown"), [(80, False), (120, True), (200, True)])
def test_what_does_not_fit_is_left_out_as_a_column(width: int, is_shown: bool, suite: list[Run]) -> None:
    header = next(line for line in lines_of(monitor.rows(suite), width) if line.startswith("run"))
    assert ("elapsed" in header) == is_shown
    assert "job" not in header, "no run has one"


def test_the_last_line_of_the_log_is_the_run_s_own_and_cut_at_the_end_of_the_line(suite: list[Run]) -> None:
    text = "\n".join(lines_of(monitor.rows(suite), 200))
    assert "resized 209 images for the cache" in text and "submitit" not in text
    narrow = next(line for line in lines_of(monitor.rows(suite), 120) if "seed0" in line)
    assert narrow.endswith("…")


def test_a_name_is_never_wrapped_however_long_it_is() -> None:
    row = Row(
        run=LONG, state=State.RUNNING, reason="", phase="predict", done=16, total=96, seconds_each=0.25, remaining=20.0,
        terms={}, elapsed=3.0, node="a-node-with-a-long-name",
    )  # fmt: skip
    for width in (80, 120, 200):
        (line,) = [line for line in lines_of([row], width) if "snl_fd" in line]
        assert line.startswith(f"{LONG}  predict 16/96") and "0:00:20" in line
    assert "4 images/s" in line


def test_other_runs_are_numbers_by_group_and_those_that_failed_are_named(suite: list[Run]) -> None:
    lines = lines_of(monitor.rows(suite), 80)
    table = lines[next(number for number, line in enumerate(lines) if line.startswith("group")) :]
    assert [line.split(maxsplit=3) for line in table] == [
        ["group", "runs", "state", "reason"],
        ["rd-mvtec_ad-one_class", "2", "missing"],
        ["fd-mvtec_ad-one_class", "1", "failed", "bottle-seed0: ValueError: the loss is"],
        ["[not]", "finite"],
        ["5", "missing"],
    ]


def test_runs_that_the_terminal_has_no_line_for_are_counted(suite: list[Run]) -> None:
    lines = lines_of(monitor.rows(suite), 80, height=12)
    assert len(lines) <= 12
    assert "and 3 more runs" in lines


@pytest.mark.parametrize("columns", [None, 80, 120])
def test_in_a_pipe_nothing_is_cut_or_wrapped_but_at_the_width_that_is_asked_for(
    columns: int | None, suite: list[Run], results_folder: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    environment |= {"PYTHONPATH": str(ROOT)} | ({"COLUMNS": str(columns)} if columns else {})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cli", "status"],
        cwd=results_folder.parent, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    assert sum("bottle-seed" in line and "fit 5" in line for line in lines) == 4
    assert max(map(len, lines)) <= (columns or 200)
    assert "\x1b" not in done.stdout
    assert ("resized 209 images for the cache" in done.stdout) == (columns is None)


def test_the_time_left_counts_waiting_runs_by_what_runs_of_their_group_take() -> None:
    def row(seed: int, state: State, **fields: Any) -> Row:
        return Row(run=f"rd-toy-one_class/cog-seed{seed}", state=state, reason="", **fields)

    running = [row(seed, State.RUNNING, phase="fit", elapsed=600.0, remaining=1200.0) for seed in range(2)]
    waiting = [row(seed, State.MISSING) for seed in range(2, 6)]
    done = [row(seed, State.DONE) for seed in range(6, 9)]
    assert lines_of([*running, *done], 80)[0] == "5 runs: 2 running, 3 done; about 20 min left"
    # Two at a time, 30 minutes each: 20 minutes, and two times 30.
    assert lines_of([*running, *waiting], 80)[0] == "6 runs: 2 running, 4 missing; about 1 h 20 min left"
    other = Row(run="fd-toy-one_class/cog-seed0", state=State.MISSING, reason="")
    assert "; more than 20 min left" in lines_of([*running, other], 80)[0]
    assert lines_of(waiting, 80)[0] == "4 runs: 4 missing"


def test_the_loss_is_the_sum_of_its_terms_without_what_is_measured() -> None:
    def loss(**terms: float) -> float | None:
        return Row(run="a/b", state=State.RUNNING, reason="", terms=terms).loss

    assert loss(level1=0.5, level2=0.25, validation=9.0, pixel_auroc=0.9) == 0.75
    assert loss(total=2.0) == 2.0
    assert loss(validation=9.0) is None


def test_a_launch_shows_the_same_picture_while_it_lasts_and_a_line_for_each_end(
    suite: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "REFRESH_SECONDS", 0)
    console = Console(width=80, height=30, file=io.StringIO(), force_terminal=True, color_system=None)
    with Display(suite, console) as shown:
        shown.refresh(suite[:4])
        shown.ended(suite[6])
    written = console.file.getvalue()  # type: ignore[attr-defined]
    _, _, header, *_ = lines_of(monitor.rows(suite), 80)
    assert header in written and "12 runs: 4 running, 8 missing" in written
    assert "rd-mvtec_ad-one_class/bottle-seed3  fit 53/200  0.1458" in written
    assert "failed fd-mvtec_ad-one_class/bottle-seed0 ValueError: the loss is [not] finite" in written


def test_a_launch_into_a_file_is_a_line_for_each_start_and_end(suite: list[Run]) -> None:
    console = Console(width=80, file=io.StringIO())
    with Display(suite, console) as shown:
        shown.started(suite[0])
        shown.refresh(suite[:4])
        shown.ended(suite[6])
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "start rd-mvtec_ad-one_class/bottle-seed0",
        "failed fd-mvtec_ad-one_class/bottle-seed0 ValueError: the loss is [not] finite",
    ]


def test_watching_ends_with_the_last_run(suite: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    def end_runs(seconds: float) -> None:
        for run in suite[:4]:
            status_file.report(run, "failed", error="stopped")

    monkeypatch.setattr("time.sleep", end_runs)
    console = Console(width=120, height=30, file=io.StringIO(), force_terminal=True, color_system=None)
    display.watch(list(suite), console)
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert "12 runs: 4 running, 1 failed, 7 missing" in written
    assert "12 runs: 5 failed, 7 missing" in written
    assert "failed   bottle-seed0, bottle-seed1, bottle-seed2, …: stopped" in written
