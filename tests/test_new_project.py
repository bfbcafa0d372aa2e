"""`proctor init`: a project outside the checkout, from an installed wheel."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import METHOD
from project import ROOT, Project

from benchmarks import new_project
from methods.base import InputError

PARAMS = {
    "suite": "test",
    "methods": ["bright"],
    "hyper_parameters": {},
    "datasets": ["toy"],
    "categories": {"toy": ["cog"]},
    "protocols": ["one_class"],
    "seeds": [0],
    "pretrain": [],
    "conventions": ["default"],
    "allow": {},
}


def test_a_project_has_all_that_its_pipeline_depends_on(tmp_path: Path) -> None:
    new_project.create(tmp_path / "lab", "toy")
    stages = yaml.safe_load((tmp_path / "lab" / "dvc.yaml").read_text())["stages"].values()
    deps = [dep for stage in stages for dep in stage["deps"] if not dep.startswith("results/")]
    assert len(deps) > 20
    assert [dep for dep in deps if not (tmp_path / "lab" / dep).exists()] == []
    assert (tmp_path / "lab" / "results" / "teachers").is_dir()  # else DVC could not plan without a teacher in it
    assert "suite: toy\n" in (tmp_path / "lab" / "params.yaml").read_text()


def test_a_project_in_a_repository_starts_none_of_its_own(tmp_path: Path) -> None:
    new_project.create(tmp_path / "alone", "toy")
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    new_project.create(tmp_path / "inside", "toy")
    assert [path.parent.name for path in tmp_path.glob("*/.git")] == ["alone"]


def test_nothing_is_written_over_and_nothing_for_an_unknown_suite(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is there already, and not an empty folder"):
        new_project.create(tmp_path, "toy")
    with pytest.raises(InputError, match="no suite or file 'tiy'"):
        new_project.create(tmp_path / "lab", "tiy")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a wheel of the project is installed."""
    source, target = Project(tmp_path_factory.mktemp("source"), {}), tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-index"]
    subprocess.run([*pip, "wheel", *options, "--no-build-isolation", "--wheel-dir", target, source.folder], check=True)
    subprocess.run([*pip, "install", *options, "--target", target, *target.glob("*.whl")], check=True)
    return target


def test_a_project_of_an_installed_wheel_runs_a_method_of_its_own(
    installed: Path, tmp_path: Path, toy_root: Path
) -> None:
    def run(*command: str, folder: Path) -> str:
        paths = [f"{installed}/bin", str(Path(sys.executable).parent), os.environ["PATH"]]
        environment = os.environ | {"PYTHONPATH": str(installed), "PATH": os.pathsep.join(paths)}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    suite: dict[str, Any] = PARAMS | {"roots": {"toy": str(toy_root)}}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    (tmp_path / "empty").mkdir()
    run("proctor", "init", "../lab", "--suite", "../suite.yaml", folder=tmp_path / "empty")
    lab = tmp_path / "lab"
    (lab / "methods" / "bright.py").write_text(METHOD.format(name="Bright"))
    (row,) = json.loads(run("proctor", "plan", "--json", folder=lab))
    assert (row["run"], row["state"]) == ("bright-toy-one_class/cog-seed0", "missing")
    run("proctor", "run", folder=lab)
    record = json.loads((lab / "results" / "predictions" / row["run"] / "record.json").read_text())
    assert record["method"] == "bright"
    assert run("git", "status", "--porcelain", "--ignored", "results/predictions", folder=lab).startswith("!!")


def test_a_wheel_holds_what_a_project_does(installed: Path) -> None:
    for package in new_project.PACKAGES:
        files = subprocess.check_output(["git", "ls-files", package], cwd=ROOT, text=True).split()
        assert [file for file in files if not (installed / file).exists() and not file.endswith(".gitignore")] == []
    assert not (installed / "tests").exists()
