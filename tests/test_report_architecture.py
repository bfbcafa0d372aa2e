"""The report's packages: what they may import, and that what `proctor plan` calls is quick to import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "reports").rglob("*.py"))
ALLOWED = (
    "reports", "benchmarks.metrics", "benchmarks.schema", "benchmarks.official_counts", "benchmarks.plan",
    "benchmarks.records", "benchmarks.sources", "benchmarks.storage.digests", "benchmarks.wording", "methods.base",
    "methods.components.atomic",
)  # fmt: skip


def imports(path: Path) -> set[str]:
    """Dotted names of our own modules that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.partition(".")[0] in ("methods", "benchmarks", "reports")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_reports_import_shared_contracts_only(path: Path) -> None:
    assert all(f"{name}.".startswith(tuple(f"{allowed}." for allowed in ALLOWED)) for name in imports(path))


@pytest.mark.parametrize("path", [f for f in FILES if f.parent.name == "analysis"], ids=lambda path: path.name)
def test_analysis_does_not_import_how_results_are_rendered(path: Path) -> None:
    assert not [name for name in imports(path) if name.startswith(("reports.render", "reports.figures"))]


@pytest.mark.parametrize("module", ["reports.specs", "reports.analysis.checks"])
def test_checks_before_training_import_neither_matplotlib_nor_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit(bool({{'matplotlib', 'torch'}} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
