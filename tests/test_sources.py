"""Which code counts: every module of ours that is imported, however it is imported, and no prose."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import methods.components
from benchmarks.sources import sources

PROSE = '''
"""What this module is about."""
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar
if TYPE_CHECKING:
    from methods.base import Sample
logger = logging.getLogger(__name__)

@dataclass
class Thing:
    """What a thing is."""
    paper: ClassVar[str] = "A paper"
    source = "a repository"
    deviations: ClassVar[tuple[str, ...]] = ("One.", "Another.")
    title = licence = "some words"
    size: int = 3
    """What a size is."""

    def check(self, value):  # a comment
        """What is checked."""
        if value < self.size:
            logger.warning("%s is small", value)
            raise ValueError(f"{value} is too small for {self.paper}" + " and more" * 2)
        return KeyError("this error is raised elsewhere")
'''


@pytest.fixture
def write(own_methods: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes modules `methods.dim` and `methods.components.NAME`."""
    folder = own_methods / "components"
    folder.mkdir()
    monkeypatch.setattr(methods.components, "__path__", [*methods.components.__path__, str(folder)])

    def write(dim: str, **components: str) -> None:
        (own_methods / "dim.py").write_text(dim)
        for name, text in components.items():
            monkeypatch.delitem(sys.modules, f"methods.components.{name}", raising=False)
            (folder / f"{name}.py").write_text(text)

    return write


@pytest.mark.parametrize(
    "statement",
    [
        "from methods.components import part",
        "from methods.components import part as other",
        "from methods.components.part import VALUE",
        "from methods.components.part import *",
        "import methods.components.part",
        "import methods.components.part as other",
        "from .components import part",
        "from .components.part import VALUE",
        "def fit():\n    from methods.components.part import VALUE",
        "class A:\n    def fit(self):\n        import methods.components.part",
        "try:\n    from methods.components import part\nexcept ImportError:\n    pass",
        'from importlib import import_module\nimport_module("methods.components.part")',
        'import importlib\ndef fit():\n    importlib.import_module(".components.part", "methods")',
        "from methods.components import middle",
    ],
)
def test_an_edit_of_an_imported_module_changes_the_code(statement: str, write: Callable[..., None]) -> None:
    write(statement, part="VALUE = 1", middle="from methods.components.part import VALUE")
    before = sources("methods.dim")
    assert "methods.components.part" in before
    write(statement, part="VALUE = 2")
    after = sources("methods.dim")
    assert {name for name in after if after[name] != before[name]} == {"methods.components.part"}


def test_a_module_counts_with_the_packages_that_it_lies_in(write: Callable[..., None]) -> None:
    write("from methods.components.part import VALUE", part="VALUE = 1")
    assert set(sources("methods.dim")) == {"methods", "methods.base", "methods.components", "methods.dim"} | {
        "methods.components.part"
    }


def test_a_name_that_only_a_function_of_a_package_has_hides_no_module(write: Callable[..., None]) -> None:
    assert "classes = " in (Path(methods.__file__)).read_text(), "a local name of methods.load, for this test"
    (Path(methods.__path__[-1]) / "classes.py").write_text("VALUE = 1")
    write("from methods import classes")
    assert "methods.classes" in sources("methods.dim")


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("import methods.no_such", "There is no module methods.no_such, which methods.dim imports."),
        ("from methods.no_such import x", "There is no module methods.no_such"),
        ("from methods.components import no_such", "methods.dim imports no_such from methods.components, which has no"),
        ("def fit():\n    from methods.base import Metod", "methods.dim imports Metod from methods.base, which has no"),
        ('import importlib\nimportlib.import_module("methods.no_such")', "There is no module methods.no_such"),
        ("import importlib\nimportlib.import_module('methods.' + 'rd')", "methods.dim, line 2: imports a module by a"),
    ],
)
def test_an_import_that_cannot_be_resolved_is_named(statement: str, message: str, write: Callable[..., None]) -> None:
    write(statement)
    with pytest.raises(ImportError) as error:
        sources("methods.dim")
    assert message in str(error.value)


def test_an_unknown_module_is_named() -> None:
    with pytest.raises(ImportError, match=r"There is no module benchmarks\.no_such\."):
        sources("benchmarks.no_such")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("What this module is about.", "Another subject."),
        ("What a thing is.", "Another thing."),
        ("What a size is.", "Another size."),
        ("What is checked.", "Another check."),
        ("# a comment", "# another"),
        ('"A paper"', '"Another paper"'),
        ('"a repository"', '"another"'),
        ('"One."', '"Two.", "Three."'),
        ('"some words"', '"others"'),
        ("is too small for {self.paper}", "is {self.size}, not enough"),
        ('"this error is raised elsewhere"', 'f"this one too: {value}"'),
        ('"%s is small", value', '"small"'),
        ("            logger.warning", "            logger.info('more')\n            logger.warning"),
        ("import Sample", "import Prediction"),
        ("\n\n@dataclass", "\n\n\n@dataclass"),
    ],
)
def test_prose_and_layout_are_no_code(old: str, new: str, write: Callable[..., None]) -> None:
    write(PROSE)
    before = sources("methods.dim")
    assert PROSE.count(old) == 1
    write(PROSE.replace(old, new))
    assert sources("methods.dim") == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("size: int = 3", "size: int = 4"),
        ("value < self.size", "value <= self.size"),
        ("raise ValueError", "raise TypeError"),
        ('source = "a repository"', 'source: str = "a field"'),
        ("return KeyError", "return 3 or KeyError"),
    ],
)
def test_what_computes_is_code(old: str, new: str, write: Callable[..., None]) -> None:
    write(PROSE)
    before = sources("methods.dim")
    assert PROSE.count(old) == 1
    write(PROSE.replace(old, new))
    assert sources("methods.dim") != before


def test_a_field_that_is_called_as_a_citation_is_code(write: Callable[..., None]) -> None:
    write("class Part:\n    source: str = 'mean'")
    before = sources("methods.dim")
    write("class Part:\n    source: str = 'median'")
    assert sources("methods.dim") != before
