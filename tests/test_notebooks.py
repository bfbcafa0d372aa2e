"""The notebooks run as a reader would run them, and are kept without outputs, which would go stale."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def run(path: Path) -> list[dict[str, Any]]:
    """What the cells of a notebook put out, by its kind."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output["data"] for output in outputs if "data" in output]


def test_the_notebook_of_scores_has_the_numbers_of_the_readme_and_draws_a_figure() -> None:
    shown = run(FOLDER / "scores.ipynb")
    readme = (FOLDER.parent.parent / "README.md").read_text()
    table = next(data["text/plain"] for data in shown if "±" in data["text/plain"])
    for number in ("98.8 ± 0.0", "95.8 ± 0.7", "96.3 ± 0.1"):
        assert number in table
    assert "95.84 ± 0.68" in readme and "96.3 ± 0.1" in readme
    (comparison,) = [data["text/plain"] for data in shown if " minus " in data["text/plain"]]
    assert "0.46" in comparison
    assert "image/png" in shown[-1]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
