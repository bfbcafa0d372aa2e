"""The pipeline by running it: `dvc repro` in a fresh copy of the project, and what each change makes it do again."""

import base64
import io
import json
import re
import shlex
import time
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from project import Project

PARAMS = {
    "suite": "test",
    "methods": ["rd", "fd"],
    "variants": {},
    "hyper_parameters": {"teacher": "test_resnet.untrained", "image_size": 64, "epochs": 1, "batch_size": 4},
    "datasets": ["toy"],
    "categories": {"toy": ["cog"]},
    "protocols": ["one_class"],
    "seeds": [0],
    "pretrain": [],
    "conventions": ["default"],
    "allow": {"collapsed": "one epoch with an untrained teacher"},
    "executor": {"name": "local", "jobs": 2, "threads": 1},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, toy_root: Path) -> Project:
    project = Project(tmp_path_factory.mktemp("project"), PARAMS | {"roots": {"toy": str(toy_root)}})
    project.run("dvc", "repro")
    project.run("git", "add", "--all")
    project.run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "--message", "first results")
    return project


# The tests below run in order, on one project: each starts from what the one before left.


def test_dvc_repro_runs_from_images_to_a_page(project: Project) -> None:
    assert len(project.fitted()) == 2
    page = (project.folder / "reports" / "build" / "index.html").read_text()
    assert "test_resnet.untrained (random weights (untrained))" in page
    metrics = json.loads((project.folder / "results" / "metrics" / "rd-toy-one_class.json").read_text())
    assert 0 <= metrics["image_auroc"] <= 1


def test_scores_are_tidy_rows_on_standard_output(project: Project) -> None:
    lines = project.run("proctor", "scores", "--format", "csv").stdout
    (project.folder / "printed.csv").write_text(lines)
    rows = pd.read_csv(project.folder / "printed.csv")
    assert set(rows["variant"]) == {"rd", "fd"}
    assert {"image_auroc", "pixel_auroc", "aupro"} <= set(rows["metric"])
    assert rows["value"].between(0, 1).all()


def test_the_commands_that_the_page_gives_for_a_cell_make_it_again(project: Project) -> None:
    page = (project.folder / "reports" / "build" / "index.html").read_text()
    (pack,) = re.findall(r'id="payload-rd-toy-one_class">([^<]+)<', page)
    (run,) = json.loads(zlib.decompress(base64.b64decode(pack)))["runs"]
    before = project.fitted()[run["path"]]
    *_, printed = [project.run(*shlex.split(command)).stdout for command in run["commands"]]
    rows = pd.read_csv(io.StringIO(printed))
    stored = pd.read_csv(project.folder / "results" / "scores" / "rd-toy-one_class.csv")
    assert len(rows) > 5
    pd.testing.assert_frame_equal(rows, stored)
    assert project.fitted()[run["path"]] > before


def test_metrics_and_plots_are_wired_to_dvc(project: Project) -> None:
    assert "image_auroc" in project.run("dvc", "metrics", "show", "--json").stdout
    project.run("dvc", "plots", "show")
    assert "ROC over images" in (project.folder / "dvc_plots" / "index.html").read_text()


def test_a_report_that_misleads_is_written_then_fails_until_a_reason_is_given(project: Project) -> None:
    source = project.folder / "reports" / "analysis" / "checks.py"
    before = source.read_text()
    source.write_text(before.replace("NEAR_CHANCE = 0.55", "NEAR_CHANCE = 1.01"))
    project.params({"allow": {}})
    failed = project.run("dvc", "repro", code=255)
    page = project.folder / "reports" / "build" / "index.html"
    assert "a reason under `allow` in params.yaml" in failed.stderr and "near chance" in page.read_text()
    project.params({"allow": PARAMS["allow"]})
    project.run("dvc", "repro")
    assert f"Allowed, because {PARAMS['allow']['collapsed']}" in page.read_text()
    source.write_text(before)
    project.run("dvc", "repro")


def test_a_second_repro_fits_nothing(project: Project) -> None:
    before = project.fitted()
    project.run("dvc", "repro")
    assert project.fitted() == before


def test_a_new_convention_scores_again_and_fits_nothing(project: Project) -> None:
    before = project.fitted()
    project.params({"conventions": ["default", "rd_official"]})
    project.run("dvc", "repro")
    assert project.fitted() == before
    conventions = pd.read_csv(project.folder / "results" / "scores" / "rd-toy-one_class.csv")["convention"]
    assert conventions.str.contains("per_image").any()


def test_an_edited_method_fits_its_own_runs_and_no_others(project: Project) -> None:
    before = project.fitted()
    source = project.folder / "methods" / "fd.py"
    source.write_text(source.read_text().replace("momentum: float = 0.9", "momentum: float = 0.8"))
    assert project.states() == {
        "rd-toy-one_class/cog-seed0": ("done", ""),
        "fd-toy-one_class/cog-seed0": ("stale", "changed: method code, hyper-parameters"),
    }
    project.run("dvc", "repro")
    after = project.fitted()
    assert [name for name in after if after[name] != before[name]] == ["results/predictions/fd-toy-one_class/cog-seed0"]


def test_dvc_shows_what_moved_since_a_commit_and_only_that(project: Project) -> None:
    (moved,) = json.loads(project.run("dvc", "metrics", "diff", "HEAD", "--json").stdout).values()
    assert "image_auroc" in moved or "pixel_auroc" in moved
    assert all(entry["diff"] == pytest.approx(entry["new"] - entry["old"]) for entry in moved.values())
    project.run("dvc", "plots", "diff", "HEAD", "workspace")
    page = (project.folder / "dvc_plots" / "index.html").read_text()
    assert all(f'"rev": "{revision}"' in page for revision in ("HEAD", "workspace"))


def test_a_failing_run_leaves_the_others_finished_and_gives_its_log(project: Project) -> None:
    before = project.fitted()
    project.params(
        {
            "methods": ["rd_bad", "rd", "fd"],
            "variants": {"rd_bad": {"method": "rd", "learning_rate": 1e30}},
            "seeds": [0, 1],
        }
    )
    failed = project.run("dvc", "repro", code=255)
    assert "The loss is not finite" in failed.stderr
    assert "log: results/scratch/" in failed.stderr
    project.params({"methods": ["rd", "fd"], "variants": {}})
    begun = project.states()
    assert {state for state, _ in begun.values()} == {"done"}, "the failed stage had launched the whole suite"
    project.run("dvc", "repro")
    after = project.fitted()
    assert len([name for name in after if "rd_bad" not in name]) == 4
    assert all(after[name] == before[name] for name in before)


def test_a_truncated_prediction_is_found_and_redone_alone(project: Project) -> None:
    before = project.fitted()
    maps = project.folder / "results" / "predictions" / "rd-toy-one_class" / "cog-seed1" / "cog.maps.npy"
    maps.chmod(0o644)
    maps.write_bytes(maps.read_bytes()[:-100])
    state, reason = project.states()["rd-toy-one_class/cog-seed1"]
    assert state == "stale"
    assert "cog.maps.npy" in reason
    project.run("dvc", "repro")
    after = project.fitted()
    assert [name for name in after if after[name] != before[name]] == ["results/predictions/rd-toy-one_class/cog-seed1"]


def test_a_result_that_was_replaced_is_named_by_every_command_and_made_again_alone(project: Project) -> None:
    """The attack: labels in the place of scores."""
    before = project.fitted()
    run = project.folder / "results" / "predictions" / "rd-toy-one_class" / "cog-seed0"
    keys = json.loads((run / "record.json").read_text())["categories"]["cog"]["keys"]
    (run / "cog.scores.npy").unlink()  # a link to DVC's cache, perhaps
    np.save(run / "cog.scores.npy", np.array(["good" not in key for key in keys], np.float32))
    score = ["proctor", "score", "rd", "toy", "one_class"]
    bundle = ["proctor", "bundle", "rd-toy-one_class", "-o", "x.tar.gz", "--licence", "MIT", "--contact", "x"]
    for command in (score, bundle):
        assert "cog.scores.npy was changed after it was written" in project.run(*command, code=2).stderr
    for command in (("proctor", "doctor", "--results"), ("proctor", "report", "--strict")):
        assert "cog.scores.npy was changed after it was written" in project.run(*command, code=1).stderr
    assert project.states()["rd-toy-one_class/cog-seed0"][0] == "stale"
    project.run("proctor", "plan", "--check", code=1)
    project.run("dvc", "repro")
    after = project.fitted()
    assert [name for name in after if after[name] != before[name]] == ["results/predictions/rd-toy-one_class/cog-seed0"]
    project.run("proctor", "plan", "--check")
    project.run("proctor", "doctor", "--results")


def test_scores_that_were_edited_are_named_and_scored_again(project: Project) -> None:
    path = project.folder / "results" / "scores" / "rd-toy-one_class.csv"
    before = path.read_text()
    path.write_text(re.sub(r"(image_auroc,folder label,[^,]*,[^,]*),[0-9.]+", r"\g<1>,1.0", before, count=1))
    assert path.read_text() != before
    assert "was changed after it was scored" in project.run("proctor", "scores", code=2).stderr
    assert "was changed after it was scored" in project.run("proctor", "report", "--strict", code=1).stderr
    project.run("dvc", "repro")
    assert path.read_text() == before


def test_a_seed_that_is_not_planned_any_more_is_in_no_table(project: Project) -> None:
    project.params({"seeds": [0]})
    project.run("dvc", "repro")
    rows = pd.read_csv(project.folder / "results" / "scores" / "rd-toy-one_class.csv")
    assert set(rows["seed"]) == {0}
    table = next((project.folder / "reports" / "build" / "tables").glob("summary*one_class*.md")).read_text()
    assert "one seed" in table and "±" not in table.split("\n\n")[1]
    unplanned = project.run("proctor", "clean", "--dry-run").stderr
    assert "would remove results/predictions/rd-toy-one_class/cog-seed1" in unplanned
    project.run("proctor", "clean")
    assert not (project.folder / "results" / "predictions" / "rd-toy-one_class" / "cog-seed1").exists()
    assert "0 unplanned" in project.run("proctor", "clean").stderr
    project.params({"seeds": [0, 1]})
    project.run("dvc", "repro")


def test_git_sees_no_predictions_even_after_a_report_that_failed(project: Project) -> None:
    status = project.run("git", "status", "--porcelain", "--untracked-files=all").stdout
    assert not re.search(r"results/(predictions|details|teachers)/.*npy|reports/build", status)


def test_a_driver_that_was_killed_is_followed_by_one_that_attaches_to_its_runs(project: Project) -> None:
    project.params({"methods": ["rd"], "seeds": [7], "hyper_parameters": PARAMS["hyper_parameters"] | {"epochs": 300}})
    driver = project.start("proctor", "run")
    deadline = time.monotonic() + 600
    while not any("cog-seed7" in path.read_text() for path in project.folder.glob("results/scratch/*/status.json")):
        assert time.monotonic() < deadline, "the driver launched nothing"
        time.sleep(0.1)
    driver.kill()
    driver.wait()
    assert {state for state, _ in project.states().values()} == {"running"}
    followed = project.run("proctor", "run")
    assert "start" not in followed.stderr
    assert "done rd-toy-one_class/cog-seed7" in followed.stderr


def test_a_second_driver_is_told_that_one_is_at_work(project: Project) -> None:
    project.params({"seeds": [8]})
    with FileLock(project.folder / "results" / "scratch" / "launch.lock"):
        assert "another proctor is launching runs" in project.run("proctor", "run", code=3).stderr


def test_bad_input_ends_with_code_2_and_one_message(project: Project) -> None:
    project.params({"methods": ["rdd"]})
    failed = project.run("proctor", "plan", code=2)
    assert "Did you mean 'rd'" in failed.stderr
    assert "Traceback" not in failed.stderr
