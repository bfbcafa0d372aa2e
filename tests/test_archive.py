"""An archive holds what the tables rest on: the same tables come from it, and what was changed in it is named."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from conftest import add_methods
from typer.testing import CliRunner

from benchmarks import archive, params, plan, results, runs, status
from benchmarks.cli import app
from benchmarks.execution import worker
from benchmarks.scoring import score
from methods.base import InputError

PROJECT = Path(__file__).parent.parent
VALUES: dict[str, Any] = {
    "suite": "test", "methods": ["bright"], "datasets": ["toy"], "categories": {"toy": ["cog"]},
    "protocols": ["one_class"], "seeds": [0, 1], "pretrain": [], "conventions": ["default"],
    "allow": {"collapsed": "of the archive"},
}  # fmt: skip


@pytest.fixture(scope="module")
def project(toy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project's folder with a finished and scored suite, and its archive."""
    folder = tmp_path_factory.mktemp("archive")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        add_methods(folder / "own_methods", monkeypatch)
        entries = VALUES | {"roots": {"toy": str(toy_root)}}
        Path("params.yaml").write_text(f"# why\n{yaml.safe_dump(entries, sort_keys=False)}")
        suite = plan.make("test", runs.expand(params.load()))
        for group in suite.groups:
            for run in group.runs:
                worker.execute(run, "cpu", 1, 1.0)
                status.collect(run)
            score.score_group(group.name, group.runs, ["default"])
        plan.write(results.RESULTS, suite)
        archive.write(Path("kept"), suite)
    return folder


@pytest.fixture
def kept(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(project / "kept", tmp_path / "kept"))


def report(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["report", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "tables").glob("*")}


def test_the_report_of_an_archive_has_the_tables_of_its_results(
    project: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report("--from", str(kept), "--out", "from_archive", "--strict")
    monkeypatch.chdir(project)
    report("--out", str(kept.parent / "from_results"))
    assert tables(kept.parent / "from_archive") == tables(kept.parent / "from_results") != {}


def test_an_archive_has_no_arrays_no_images_and_no_paths_of_its_machine(kept: Path, toy_root: Path) -> None:
    files = [path for path in kept.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".csv", ".yaml"}
    assert not [path for path in files if str(toy_root) in path.read_text()]


def test_the_suite_of_an_archive_keeps_its_comments_and_leaves_out_roots(kept: Path) -> None:
    text = (kept / "params.yaml").read_text()
    assert text.startswith("# why\n")
    assert yaml.safe_load(text) == VALUES


@pytest.mark.parametrize(
    "name",
    [
        "scores/bright-toy-one_class.csv",
        "scores/bright-toy-one_class.json",
        "details/bright-toy-one_class/cog-seed1.json",
        "predictions/bright-toy-one_class/cog-seed0/record.json",
    ],
)
@pytest.mark.parametrize(
    "edit", [Path.unlink, lambda path: path.write_text(path.read_text().replace("0.", "1.") + " x")]
)
def test_a_file_of_an_archive_that_is_changed_or_missing_is_named(
    kept: Path, name: str, edit: Callable[[Path], Any]
) -> None:
    edit(kept / name)
    problems = "\n".join(archive.problems(kept, plan.read(kept)))
    assert Path(name).name in problems and "restore it from where the archive comes from" in problems
    report("--from", str(kept), "--out", "from_archive", "--strict", code=1)


def test_an_existing_folder_is_not_overwritten(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    with pytest.raises(InputError, match="kept exists already"):
        archive.write(Path("kept"), plan.read(results.RESULTS))


def test_unscored_runs_cannot_be_archived(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(project, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    next(Path("results/scores").glob("*.csv")).unlink()
    with pytest.raises(InputError, match="is missing: `dvc repro` scores"):
        archive.write(Path("new"), plan.read(results.RESULTS))
    assert not Path("new").exists()


def test_a_suite_that_was_edited_since_it_was_planned_is_not_archived(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(project, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    Path("params.yaml").touch()
    with pytest.raises(InputError, match=r"params\.yaml was changed after it was planned"):
        archive.write(Path("new"), plan.read(results.RESULTS))


def test_the_report_of_an_archive_does_not_replace_that_of_the_project(kept: Path) -> None:
    with pytest.raises(InputError, match="Name a folder with --out"):
        CliRunner().invoke(app, ["report", "--from", str(kept)], catch_exceptions=False)


def test_a_missing_archive_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no folder .*nowhere: name an archive"):
        CliRunner().invoke(app, ["report", "--from", "nowhere"], catch_exceptions=False)


@pytest.mark.parametrize("folder", sorted((PROJECT / "results" / "archive").iterdir()), ids=lambda folder: folder.name)
def test_the_archives_of_this_project_are_whole_and_their_reports_have_no_problem(folder: Path, tmp_path: Path) -> None:
    assert archive.problems(folder, plan.read(folder)) == []
    report("--from", str(folder), "--out", str(tmp_path / "built"), "--strict")


def test_the_verdicts_in_the_readme_are_those_of_the_archive(tmp_path: Path) -> None:
    report("--from", str(PROJECT / "results" / "archive" / "paper-fd-bottle"), "--out", str(tmp_path))
    (path,) = (tmp_path / "tables").glob("reproduction-*-README-released-checkpoints.csv")
    table = pd.read_csv(path, index_col="entry")
    readme = (PROJECT / "README.md").read_text()
    for metric in ("image AUROC", "pixel AUROC", "AUPRO"):
        row = table.loc[f"fd, bottle, {metric}"]
        (line,) = [line for line in readme.splitlines() if line.startswith(f"| {metric} |")]
        published, measured, tolerance, verdict = line.strip("| ").split(" | ")[1:]
        mean, std = measured.split(" ± ")
        digits = len(mean.partition(".")[2])
        assert float(published) == round(100 * float(row["published"]), len(published.partition(".")[2]))
        assert float(mean) == round(100 * float(row["measured"]), digits)
        assert float(std) == round(100 * float(row["measured: std"]), digits)
        assert float(tolerance) == pytest.approx(100 * float(row["tolerance"]), abs=0.05)
        assert verdict == row["verdict"]


def test_the_results_of_snl_in_the_docs_are_those_of_the_archive() -> None:
    """Means over categories; mean, standard deviation and values over seeds."""
    files = (PROJECT / "results" / "archive" / "snl-small-budget" / "scores").glob("*.csv")
    rows = pd.concat([pd.read_csv(path) for path in files])
    rows = rows[rows["subset"] == "all"].assign(value=100 * rows["value"])
    values = rows.groupby(["variant", "metric", "seed"])["value"].mean()
    lines = [line for line in (PROJECT / "docs" / "snl.md").read_text().splitlines() if "±" in line and "|" in line]
    assert len(lines) == 4
    for line in lines:
        variant, image, aupro, seeds = line.strip("| ").split(" | ")
        for metric, cell in (("image_auroc", image), ("aupro", aupro)):
            over_seeds = values[variant.strip("`"), metric]
            assert cell == f"{over_seeds.mean():.1f} ± {over_seeds.std():.1f}"
        assert seeds == ", ".join(f"{value:.1f}" for value in values[variant.strip("`"), "image_auroc"])
