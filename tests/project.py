"""A copy of the project in which tests run commands as a user would."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent


class Project:
    """A copy of the project with parameters of its own, and no results."""

    def __init__(self, folder: Path, params: dict[str, Any]) -> None:
        self.folder = folder
        files = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout.split()  # fmt: skip
        for name in files:
            # Results and the lock of the project's own runs stay behind: this copy starts from nothing.
            if not name.startswith(("results/", "dvc.lock")) or name.endswith((".gitignore", "README.md")):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
        (folder / "params.yaml").write_text(yaml.safe_dump(params))

    def params(self, changes: dict[str, Any]) -> None:
        path = self.folder / "params.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))

    def environment(self) -> dict[str, str]:
        # The copy's own code comes before the installed one's, so that an edit in it counts.
        return os.environ | {
            "PYTHONPATH": str(self.folder),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "XDG_CACHE_HOME": str(self.folder / "cache"),
        }

    def start(self, *command: str) -> subprocess.Popen:
        """A command in the background, in a session of its own."""
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment(), start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, *command: str, code: int = 0) -> subprocess.CompletedProcess:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, timeout=600
        )
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
        return done

    def states(self) -> dict[str, tuple[str, str]]:
        """State and reason of each run of the suite, by its name."""
        rows = json.loads(self.run("proctor", "plan", "--json").stdout)
        return {row["run"]: (row["state"], row["reason"]) for row in rows}

    def records(self) -> dict[str, dict[str, Any]]:
        """The record of each stored run, by its folder."""
        paths = sorted(self.folder.glob("results/predictions/*/*/record.json"))
        return {str(path.parent.relative_to(self.folder)): json.loads(path.read_text()) for path in paths}

    def fitted(self) -> dict[str, str]:
        """When each stored run was made, by its folder."""
        return {folder: record["provenance"]["created"] for folder, record in self.records().items()}
