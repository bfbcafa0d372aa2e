"""What several test files share."""

from pathlib import Path

import pytest

from benchmarks.datasets import toy


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small toy data set."""
    root = tmp_path_factory.mktemp("data") / "toy"
    toy.generate(root, train=8, validation=2, good=4, anomalous=8)
    return root
