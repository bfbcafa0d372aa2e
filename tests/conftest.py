"""What several test files share."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest

import methods
from benchmarks import params, results, runs
from benchmarks.datasets import toy
from benchmarks.plan import Run

# A time limit on an example would fail on a busy machine.
hypothesis.settings.register_profile("proctor", deadline=None)
hypothesis.settings.load_profile("proctor")

METHOD = '''
"""A method for tests: the distance of an image's brightness from that of the training images."""
from dataclasses import dataclass
from methods.base import Method, Prediction

@dataclass(kw_only=True, eq=False)
class {name}(Method):
    paper = source = "none"
    scale: float = 1.0

    def fit(self, train, validation, context):
        self.mean_ = sum(sample.image.float().mean() for sample in train) / len(train)  # a comment
        return self

    def predict(self, test, context):
        for sample in test:
            distance = self.scale * (sample.image.float().mean(0)[::4, ::4] - self.mean_).abs()
            yield Prediction(distance.mean().item(), distance)
'''


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The pipeline's tests take longest: started last, they would keep one core at work alone."""
    items.sort(key=lambda item: item.path.name != "test_pipeline.py")


@pytest.fixture
def own_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the methods `bright` and `dim`, seen as part of methods/."""
    return add_methods(tmp_path / "own_methods", monkeypatch)


def add_methods(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder.mkdir()
    for name in ("Bright", "Dim"):
        (folder / f"{name.lower()}.py").write_text(METHOD.format(name=name))
        monkeypatch.delitem(sys.modules, f"methods.{name.lower()}", raising=False)  # of an earlier test
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(folder)])
    return folder


@pytest.fixture
def results_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty results folder, and an empty cache beside it."""
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "results"


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small toy data set."""
    root = tmp_path_factory.mktemp("data") / "toy"
    toy.generate(root, train=8, validation=2, good=4, anomalous=8)
    return root


@pytest.fixture
def expand(toy_root: Path, own_methods: Path) -> Callable[..., list[Run]]:
    """Expands a suite of the methods `bright` and `dim` on the toy data set, with some entries changed."""

    def expand(**changes: Any) -> list[Run]:
        values = {
            "suite": "test",
            "methods": ["bright", "dim"],
            "datasets": ["toy"],
            "roots": {"toy": toy_root},
            "protocols": ["one_class", "multi_class"],
            "seeds": [0, 1],
        }
        return [run for run in runs.expand(params.Params(**(values | changes))) if isinstance(run, Run)]

    return expand
