"""The folder tree is the architecture: imports go one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(path for package in ("methods", "benchmarks", "reports") for path in (ROOT / package).rglob("*.py"))

# Within benchmarks, a module may import what stands before it, less what is forbidden to it.
ORDER = [
    "metrics",
    "datasets",
    "protocols",
    "interference",
    "trajectory",
    "params",
    "runs",
    "store",
    "runner",
    "job",
    "executors",
    "watch",
    "forecast",
    "launch",
    "details",
    "score",
    "summary",
    "export",
    "formats",
    "submission",
    "bundle",
    "archive",
    "verify",
    "board",
    "doctor",
    "cli",
]
FORBIDDEN = {"score": {"runner", "launch"}, "runner": {"metrics"}, "launch": {"metrics"}, "runs": {"metrics"}}


def imports(path: Path) -> set[str]:
    """Dotted names of our own modules that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.partition(".")[0] in ("methods", "benchmarks", "reports")}


def part(name: str) -> str:
    """The module or subpackage of benchmarks that a dotted name belongs to; empty for others."""
    return name.split(".")[1] if name.startswith("benchmarks.") else ""


@pytest.mark.parametrize("path", [f for f in FILES if f.is_relative_to(ROOT / "methods")], ids=lambda path: path.name)
def test_methods_import_nothing_of_ours_outside_methods(path: Path) -> None:
    assert all(name.startswith("methods") for name in imports(path))


@pytest.mark.parametrize(
    "path", [f for f in FILES if f.is_relative_to(ROOT / "benchmarks" / "metrics")], ids=lambda path: path.name
)
def test_metrics_are_a_leaf(path: Path) -> None:
    assert all(name.startswith("benchmarks.metrics") for name in imports(path))


@pytest.mark.parametrize("path", [f for f in FILES if f.is_relative_to(ROOT / "reports")], ids=lambda path: path.name)
def test_reports_read_files_and_metric_names_only(path: Path) -> None:
    assert all(name.startswith(("reports", "benchmarks.metrics")) for name in imports(path))


@pytest.mark.parametrize("name", ORDER)
def test_benchmarks_import_only_what_comes_before_them(name: str) -> None:
    folder = ROOT / "benchmarks" / name
    files = list(folder.glob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    used = {part(imported) for path in files for imported in imports(path)} & set(ORDER) - {name}
    assert used <= set(ORDER[: ORDER.index(name)]) - FORBIDDEN.get(name, set())


def test_no_module_of_benchmarks_escapes_the_order() -> None:
    modules = {
        path.relative_to(ROOT / "benchmarks").parts[0].removesuffix(".py")
        for path in FILES
        if "benchmarks" in path.parts
    }
    assert modules - set(ORDER) == {
        "__init__", "pretraining", "bench_launch", "bench_metrics", "bench_page", "bench_training", "bench_verify",
    }  # fmt: skip


@pytest.mark.parametrize("module", ["benchmarks.cli", "benchmarks.job"])
def test_what_should_start_at_once_does_not_wait_for_torch(module: str) -> None:
    subprocess.run([sys.executable, "-c", f"import sys, {module}; sys.exit('torch' in sys.modules)"], check=True)
