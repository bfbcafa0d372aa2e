"""New projects. A project holds the code itself: methods are files that people add to it, and fingerprints and
`dvc.yaml` follow every edit of them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks import suite_files
from methods.base import InputError

CODE = Path(__file__).parent.parent  # a project's folder, or where the package is installed
PACKAGES = ("methods", "benchmarks", "reports")
# What a project has besides its packages -> where it is kept. Git and DVC would obey files of the original names there.
FILES = {
    "dvc.yaml": "pipeline.yaml",
    ".gitignore": "gitignore",
    ".dvcignore": "dvcignore",
    ".dvc/config": "dvc_config",
    ".dvc/.gitignore": "dvc_gitignore",
    ".dvc/plots/points.json": "points.json",
    "results/teachers/.gitignore": "teachers_gitignore",
}


def create(folder: Path, suite: str) -> None:
    """Write a project into a folder: the packages, the pipeline, a suite as `params.yaml`, what Git and DVC ignore.

    Args:
        folder: absent or empty. It becomes a Git repository unless it lies in one.
        suite: as `suite_files.select` takes it.

    Raises:
        InputError: the folder is not empty, there is no such suite, or it is wrong; nothing is written then.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already, and not an empty folder. Name a new one.")
    suite_files.select(suite, folder / "params.yaml")
    for package in PACKAGES:
        unwanted = shutil.ignore_patterns("__pycache__", "build")  # the latter is what a project's report is written to
        shutil.copytree(CODE / package, folder / package, ignore=unwanted, copy_function=shutil.copyfile)
    for name, kept in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(__file__).parent / "project_files" / kept, folder / name)
    _track(folder)


def _track(folder: Path) -> None:
    """Make the folder a Git repository if it is in none; DVC has to be told where there is no Git."""
    if shutil.which("git") is None:
        subprocess.run([sys.executable, "-m", "dvc", "config", "core.no_scm", "true"], cwd=folder, check=True)
    elif subprocess.run(["git", "rev-parse"], cwd=folder, capture_output=True, check=False).returncode:
        subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
