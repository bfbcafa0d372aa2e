"""The folder tree is the architecture: imports go one way, and stages depend on what they run."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.sources import sources

ROOT = Path(__file__).parent.parent
PACKAGES = ("methods", "benchmarks", "reports")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# A package, or a module at the top of `benchmarks`, and what of ours it may import besides itself. Types alone
# (`if TYPE_CHECKING`) may come from anywhere.
METHODS = {"methods.base", "methods.components"}
LEAVES = {
    "benchmarks.metrics", "benchmarks.schema", "benchmarks.official_counts", "benchmarks.wording", "benchmarks.storage",
}  # fmt: skip
STORED = {"benchmarks.plan", "benchmarks.records"}
DATA = {"benchmarks.datasets", "benchmarks.protocols", "benchmarks.interference"}
RUNS = {"benchmarks.params", "benchmarks.imports", "benchmarks.sources", "benchmarks.fingerprint", "benchmarks.runs"}
RESULTS = {"benchmarks.results", "benchmarks.status_file", "benchmarks.status", "benchmarks.integrity"}
SUITES = {"benchmarks.params", "benchmarks.suite_files", "benchmarks.yaml_files"}
BELOW_SCORING = {"methods", *METHODS, *LEAVES, *STORED, *DATA, *RUNS, *RESULTS}
ALLOWED: dict[str, set[str]] = {
    "methods": METHODS,
    "benchmarks.metrics": set(),
    "benchmarks.schema": set(),
    "benchmarks.wording": set(),
    "benchmarks.yaml_files": METHODS,
    "benchmarks.official_counts": set(),
    "benchmarks.sources": set(),
    "benchmarks.storage": METHODS,
    "benchmarks.storage.arrays": set(),
    "benchmarks.plan": {*METHODS, *LEAVES},
    "benchmarks.records": {*METHODS, *LEAVES},
    "benchmarks.datasets": {*METHODS, *LEAVES},
    "benchmarks.protocols": {*METHODS, "benchmarks.datasets"},
    "benchmarks.interference": {*METHODS, "benchmarks.datasets"},
    "benchmarks.params": {"methods", *METHODS, *LEAVES, "benchmarks.yaml_files"},
    "benchmarks.params_schema": {"methods", *METHODS, *LEAVES, *DATA, "benchmarks.params"},
    "benchmarks.suite_files": {*METHODS, "benchmarks.params", "benchmarks.yaml_files"},
    "benchmarks.new_project": {*METHODS, "benchmarks.suite_files"},
    "benchmarks.imports": {*METHODS, *LEAVES, *STORED, "benchmarks.results"},
    "benchmarks.checks": {
        "methods",
        *METHODS,
        *LEAVES,
        *STORED,
        *DATA,
        *RUNS,
        "benchmarks.execution",
        "benchmarks.signatures",
    },
    "benchmarks.fingerprint": {
        "methods",
        *METHODS,
        *LEAVES,
        *STORED,
        *DATA,
        "benchmarks.params",
        "benchmarks.sources",
        "benchmarks.imports",
    },
    "benchmarks.runs": {"methods", *METHODS, *LEAVES, *STORED, *DATA, *RUNS},
    "benchmarks.signatures": set(),
    "benchmarks.stamps": {*METHODS, "benchmarks.plan", "benchmarks.sources"},
    "benchmarks.plan_cache": {"methods", *METHODS, *LEAVES, *STORED, *DATA, *RUNS, "benchmarks.stamps"},
    "benchmarks.report_cache": {*METHODS, "benchmarks.plan", "benchmarks.stamps"},
    "benchmarks.results": {*METHODS, *LEAVES, *STORED},
    "benchmarks.status_file": {*METHODS, *LEAVES, *STORED, "benchmarks.results"},
    "benchmarks.status": {*METHODS, *LEAVES, *STORED, *RESULTS},
    "benchmarks.integrity": {*METHODS, *LEAVES, *STORED, *RESULTS},
    "benchmarks.clean": {*METHODS, *LEAVES, *STORED, *RESULTS},
    "benchmarks.archive": {*METHODS, *LEAVES, *STORED, *RESULTS, *SUITES},
    "benchmarks.doctor": {"methods", *METHODS, *LEAVES, *STORED, *DATA, *RUNS},
    "benchmarks.scoring": BELOW_SCORING,
    "benchmarks.execution": {*BELOW_SCORING, "benchmarks.scoring"},
    "benchmarks.submissions": {*BELOW_SCORING, "benchmarks.scoring"},
    "benchmarks.cli": {"methods", "benchmarks", "reports"},
    "reports": {"methods.base", "methods.components.atomic", "benchmarks.sources", *LEAVES, *STORED},
}


def imports(path: Path) -> set[str]:
    """Modules of ours that a file imports when it runs, by dotted name."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in names if is_module(name)}
            found |= modules if modules == names else modules | {node.module}
    return {name for name in found if name.partition(".")[0] in PACKAGES}


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def file_of(name: str) -> Path:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"


def owner(name: str) -> str:
    """The entry of `ALLOWED` that a module belongs to."""
    parts = name.split(".")
    return next(".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in ALLOWED)


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_go_one_way(path: Path) -> None:
    name = dotted(path)
    if name == "benchmarks":
        return  # its one import sets NumPy up
    mine = owner(name)
    foreign = {other for other in imports(path) if not f"{other}.".startswith(f"{mine}.")}
    wrong = {o for o in foreign if not any(f"{o}.".startswith(f"{allowed}.") for allowed in ALLOWED[mine])}
    assert not wrong


def test_only_scoring_and_what_needs_the_truth_reads_it() -> None:
    readers = {dotted(path) for path in FILES if ".truth(" in path.read_text()}
    assert {owner(name) for name in readers} <= {
        "benchmarks.datasets", "benchmarks.scoring", "benchmarks.interference", "benchmarks.submissions",
    }  # fmt: skip


@pytest.mark.parametrize("module", ["benchmarks.cli", "benchmarks.execution.job"])
def test_what_should_start_at_once_does_not_wait_for_torch(module: str) -> None:
    subprocess.run([sys.executable, "-c", f"import sys, {module}; sys.exit('torch' in sys.modules)"], check=True)


# What each stage's command runs; of `report` the package is searched as a whole.
COMMANDS = {
    "pretrain": ["methods.components.procedural_teacher"],
    "score": ["benchmarks.scoring.score"],
    "summary": ["benchmarks.scoring.summary"],
    "report": ["reports.build"],
}
# Imported by them, and free to change: what reads and checks what is stored, and what a run's fingerprint covers.
NOT_DEPENDENCIES = {
    *STORED, *RESULTS, "benchmarks", "benchmarks.metrics", "benchmarks.storage", "benchmarks.storage.arrays",
    "benchmarks.storage.digests", "benchmarks.storage.disk", "benchmarks.storage.model_files",
    "benchmarks.storage.score_files", "benchmarks.schema", "benchmarks.wording",
    "methods", "methods.base", "methods.components", "methods.components.atomic", "benchmarks.params", "reports",
}  # fmt: skip

# Except where they decide the output: columns and seal of scores, and the sentences of the report.
WRITTEN = {
    "score": {"benchmarks.schema", "benchmarks.storage.digests", "benchmarks.storage.score_files"},
    "report": {"benchmarks.wording"},
}


@pytest.mark.parametrize("stage", COMMANDS)
def test_a_stage_depends_on_the_code_that_decides_its_output(stage: str) -> None:
    described: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]
    deps = [ROOT / dep for dep in described["deps"] if not dep.startswith("results/")]
    needed = {name for command in COMMANDS[stage] for name in sources(command)}
    needed -= NOT_DEPENDENCIES - WRITTEN.get(stage, set())
    paths = {name: file_of(name) for name in needed}
    paths = {name: path for name, path in paths.items() if path.stat().st_size}  # an empty __init__ decides nothing
    missing = {name for name, path in paths.items() if not any(path == dep or dep in path.parents for dep in deps)}
    assert not missing
    assert all(dep.exists() for dep in deps)


def test_git_ignores_what_dvc_keeps_even_after_a_stage_has_failed() -> None:
    """DVC adds such entries itself, and takes them back where a later stage fails."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
    outs = [out if isinstance(out, dict) else {out: {}} for stage in stages for out in stage.get("outs", ())]
    kept = {path for out in outs for path, options in out.items() if options.get("cache", True)}
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert len(kept) == 4
    assert all("/{}/{}/".format(*Path(path).parts) in ignored for path in kept)
