"""What makes a result stale: everything that decides its numbers, and nothing else."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from project import ROOT, Project

from benchmarks import protocols
from benchmarks.plan import Run
from methods.base import InputError


def parts_that_differ(before: list[Run], after: list[Run]) -> dict[str, set[str]]:
    """For each run of `after` with a new fingerprint, by name: the parts that changed."""
    old = {run.name: run.fingerprint_parts for run in before}
    changed = {run.name: {k for k, v in run.fingerprint_parts.items() if old[run.name][k] != v} for run in after}
    return {name: parts for name, parts in changed.items() if parts}


def test_one_category_more_leaves_the_runs_of_the_others_as_they_are(expand: Callable[..., list[Run]]) -> None:
    fewer = expand(categories={"toy": ["cog"]}, protocols=["one_class"])
    more = {run.name: run for run in expand(protocols=["one_class"])}
    assert [more[run.name].fingerprint for run in fewer] == [run.fingerprint for run in fewer]


def test_an_edited_method_makes_its_runs_stale_and_no_others(
    expand: Callable[..., list[Run]], own_methods: Path
) -> None:
    before = expand()
    path = own_methods / "dim.py"
    path.write_text(path.read_text().replace("::4", "::8"))
    changed = parts_that_differ(before, expand())
    assert set(changed) == {run.name for run in before if run.method == "dim"}
    assert set.union(*changed.values()) == {"method code"}


def test_an_edited_comment_or_docstring_makes_no_run_stale(expand: Callable[..., list[Run]], own_methods: Path) -> None:
    before = expand()
    path = own_methods / "dim.py"
    path.write_text(path.read_text().replace("a comment", "another").replace("A method for tests", "Something else"))
    assert parts_that_differ(before, expand()) == {}


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"hyper_parameters": {"scale": 2.0}}, "hyper-parameters"),
        ({"compute": {"precision": "bfloat16"}}, "compute"),
    ],
)
def test_a_changed_parameter_is_named_as_the_reason(
    expand: Callable[..., list[Run]], changes: dict[str, Any], part: str
) -> None:
    before = expand()
    changed = parts_that_differ(before, expand(**changes))
    assert len(changed) == len(before)
    assert set.union(*changed.values()) == {part}


def test_another_executor_or_place_changes_no_fingerprint(
    expand: Callable[..., list[Run]], toy_root: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere"
    moved.symlink_to(toy_root)
    before = expand()
    assert parts_that_differ(before, expand(executor={"name": "debug", "jobs": 7}, roots={"toy": moved})) == {}


def test_a_changed_image_makes_the_runs_of_its_category_stale(
    expand: Callable[..., list[Run]], toy_root: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(toy_root, copy)
    before = expand(roots={"toy": copy}, methods=["dim"])
    image = next((copy / "cog" / "train" / "good").glob("*.png"))
    Image.open(image).point(lambda value: 255 - value).save(image)
    changed = parts_that_differ(before, expand(roots={"toy": copy}, methods=["dim"]))
    assert set(changed) == {run.name for run in before if run.split in ("cog", "all")}
    assert set.union(*changed.values()) == {"data"}


def test_a_changed_file_in_a_folder_that_a_hyper_parameter_names_makes_its_runs_stale(
    expand: Callable[..., list[Run]], tmp_path: Path
) -> None:
    textures = tmp_path / "textures"
    textures.mkdir()
    suite: dict[str, Any] = {"methods": ["aand"], "hyper_parameters": {"teacher": "test_resnet.untrained"}}
    suite["variants"] = {"aand": {"method": "aand", "texture_folder": str(textures)}}
    with pytest.raises(InputError, match="absent or empty"):
        expand(**suite)
    (textures / "bark.png").write_bytes(b"bark")
    before = expand(**suite)
    assert not parts_that_differ(before, expand(**suite))
    (textures / "bark.png").write_bytes(b"wood")
    assert set(map(frozenset, parts_that_differ(before, expand(**suite)).values())) == {frozenset({"folders"})}


def test_a_folder_or_file_that_a_hyper_parameter_names_may_move(
    expand: Callable[..., list[Run]], tmp_path: Path
) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "bark.png").write_bytes(b"bark")

    def textured(path: Path) -> list[Run]:
        variants = {"aand": {"method": "aand", "texture_folder": str(path)}}
        return expand(methods=["aand"], variants=variants, hyper_parameters={"teacher": "test_resnet.untrained"})

    assert parts_that_differ(textured(tmp_path / "here"), textured(tmp_path / "there")) == {}
    before = textured(tmp_path / "here" / "bark.png")
    (tmp_path / "here" / "bark.png").write_bytes(b"wood")
    after = textured(tmp_path / "here" / "bark.png")
    assert set(map(frozenset, parts_that_differ(before, after).values())) == {frozenset({"folders"})}


@pytest.mark.parametrize("statement", ["from methods.base import Metod", "from methods.components import no_such"])
def test_an_import_that_cannot_be_resolved_is_refused_with_its_name(
    statement: str, expand: Callable[..., list[Run]], own_methods: Path
) -> None:
    path = own_methods / "dim.py"
    path.write_text(path.read_text() + f"\n\ndef never_called():\n    {statement}\n")
    with pytest.raises(InputError, match=r"methods\.dim imports (Metod from methods\.base|no_such from methods\.comp)"):
        expand()


# Protocols of one's own.

FEW_SHOT = """
import numpy as np
from benchmarks.protocols.base import Split, test_items

def splits(dataset, seed):
    drawn_of = []
    for category in dataset.categories:
        items = dataset.items(category, "train")
        drawn = sorted(np.random.default_rng([seed, len(items)]).choice(len(items), 2, replace=False))
        drawn_of.append(Split(category, tuple(items[i] for i in drawn), (), {category: test_items(dataset, category)}))
    return drawn_of
"""
TRANSFER = """
from benchmarks.protocols.base import Split, test_items

def splits(dataset, seed):
    first, second = dataset.categories[:2]
    return [Split(second, tuple(dataset.items(first, "train")), (), {second: test_items(dataset, second)})]
"""


@pytest.fixture
def own_protocols(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the protocols `few_shot` and `transfer`, seen as part of benchmarks/protocols/."""
    folder = tmp_path / "own_protocols"
    folder.mkdir()
    for name, text in (("few_shot", FEW_SHOT), ("transfer", TRANSFER)):
        (folder / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, f"benchmarks.protocols.{name}", raising=False)  # of an earlier test
    monkeypatch.setattr(protocols, "__path__", [*protocols.__path__, str(folder)])
    return folder


def test_a_few_shot_protocol_that_draws_by_the_seed_is_one_file(
    expand: Callable[..., list[Run]], own_protocols: Path, toy_root: Path, tmp_path: Path
) -> None:
    others = expand()
    runs = {(run.split, run.seed): run for run in expand(methods=["bright"], protocols=["few_shot"], seeds=[0, 1])}
    first, second = runs["cog", 0].fingerprint_parts, runs["cog", 1].fingerprint_parts
    assert first["data"] != second["data"], "each seed draws its own images"
    assert first["data code"] == second["data code"]
    assert expand(methods=["bright"], protocols=["few_shot"], seeds=[0]) == [runs[key] for key in runs if key[1] == 0]
    assert parts_that_differ(others, expand()) == {}, "the other protocols' runs are as they were"

    # One image fewer, and other images are drawn by the same code: the fingerprint is of those.
    copy = tmp_path / "copy"
    shutil.copytree(toy_root, copy)
    before = expand(methods=["bright"], protocols=["few_shot"], roots={"toy": copy})
    sorted((copy / "cog" / "train" / "good").iterdir())[-1].unlink()
    changed = parts_that_differ(before, expand(methods=["bright"], protocols=["few_shot"], roots={"toy": copy}))
    assert changed == {run.name: {"data"} for run in before if run.split == "cog"}


def test_images_of_categories_that_are_trained_on_but_not_tested_count(
    expand: Callable[..., list[Run]], own_protocols: Path, toy_root: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(toy_root, copy)

    def transferred() -> list[Run]:
        return expand(methods=["bright"], protocols=["transfer"], seeds=[0], roots={"toy": copy})

    (before,) = transferred()
    other = next(folder for folder in sorted(copy.iterdir()) if folder.is_dir() and folder.name != before.split)
    image = sorted((other / "train" / "good").glob("*.png"))[0]
    Image.open(image).point(lambda value: 255 - value).save(image)
    assert parts_that_differ([before], transferred()) == {before.name: {"data"}}


# Edits of a whole project.

METHODS = {"rd", "fd", "snl", "snl_fd", "aand", "dskd"}
PARAMS = {
    "suite": "test",
    "methods": sorted(METHODS),
    "hyper_parameters": {"teacher": "test_resnet.untrained", "image_size": 64},
    "datasets": ["toy"],
    "protocols": ["one_class", "multi_class"],
    "seeds": [0],
}
NEW_METHOD = """
from dataclasses import dataclass
from methods.rd import RD

@dataclass(kw_only=True, eq=False)
class New(RD):
    pass
"""
CITED = [
    (r'(paper|source): ClassVar\[str\] = "', r"\g<0>Also: "),
    (r"deviations: ClassVar\[tuple\[str, ...\]\] = \(", r'\g<0>"Another one.", '),
    (r'\A"""', r"\g<0>About this: "),
    (r'(raise InputError\(\s*f?)"', r'\1"Mind that '),
]
LONGER = [(r"\Z", "\nADDED = 1\n")]
BESIDES = ("fit_predict.py", "evaluation.py", "arrays.py", "interference.py", "official_counts.py", "__init__.py")
UNCOUNTED = [
    path.relative_to(ROOT).as_posix()
    for pattern in ("benchmarks/*.py", "benchmarks/[ces]*/**/*.py", "reports/**/*.py")
    for path in sorted(ROOT.glob(pattern))
    if path.name not in BESIDES
]

Edits = dict[
    str, list[tuple[str, str]] | str
]  # file -> regular expressions with their replacements, or a new file's text
NOTHING: dict[str, str] = {}
EVERYTHING = dict.fromkeys(METHODS, "execution code")
# What is done, and by method the part that changes.
EDITS: dict[str, tuple[Edits, dict[str, str]]] = {
    "scores are negated": (
        {"benchmarks/execution/fit_predict.py": [(r"scores = np\.array", "scores = -np.array")]},
        EVERYTHING,
    ),
    "stored scores are negated": (
        {"benchmarks/storage/arrays.py": [(r"np\.asarray\(scores", "-np.asarray(scores")]},
        EVERYTHING,
    ),
    "random seeds are others": ({"benchmarks/execution/fit_predict.py": [(r"% 2\*\*31", "% 2**30")]}, EVERYTHING),
    "rd is edited": ({"methods/rd.py": LONGER}, dict.fromkeys(("rd", "snl", "aand"), "method code")),
    "fd is edited": ({"methods/fd.py": LONGER}, dict.fromkeys(("fd", "snl_fd"), "method code")),
    "the loop is edited": ({"methods/components/train_loop.py": LONGER}, dict.fromkeys(METHODS, "method code")),
    "the data set is edited": ({"benchmarks/datasets/toy.py": LONGER}, dict.fromkeys(METHODS, "data code")),
    "another data set is edited": ({"benchmarks/datasets/visa.py": LONGER}, NOTHING),
    "citations, docstrings and messages": ({f"methods/{name}.py": CITED for name in METHODS}, NOTHING),
    "what is scheduled, reported or displayed": (dict.fromkeys(UNCOUNTED, LONGER), NOTHING),
    "a new method": ({"methods/new.py": NEW_METHOD}, NOTHING),
    "a new protocol": ({"benchmarks/protocols/new.py": FEW_SHOT}, NOTHING),
    "a new data set": ({"benchmarks/datasets/new.py": "from benchmarks.datasets.toy import Toy\n"}, NOTHING),
    "a new metric": ({"benchmarks/metrics/new.py": "def new(): ...\n"}, NOTHING),
    "a new convention": (
        {"benchmarks/metrics/conventions.py": [(r"\Z", '\nCONVENTIONS["new"] = CONVENTIONS["default"]\n')]},
        NOTHING,
    ),
    "a new figure": ({"reports/figures/new.py": "def draw(): ...\n"}, NOTHING),
    "a new table": ({"reports/specs/new.yaml": "title: New\n"}, NOTHING),
}
# What is done that concerns only runs with `evaluate_every` or `interference`, and the part.
OPTIONAL_EDITS: dict[str, tuple[Edits, str]] = {
    "evaluation is edited": ({"benchmarks/scoring/evaluation.py": LONGER}, "evaluate_every"),
    "its metrics are edited": ({"benchmarks/metrics/detection.py": LONGER}, "evaluate_every"),
    "the probes are edited": ({"benchmarks/interference.py": LONGER}, "interference"),
}
SCRIPT = """
import json, re, sys
from pathlib import Path
from benchmarks import params, runs
from benchmarks.plan import Run

def parts():
    values = params.load()
    more = {"evaluate_every": 5, "interference": params.Interference()}
    suites = {"plain": values, "more": values.model_copy(update=more)}
    return {
        f"{suite}/{run.name}": run.fingerprint_parts
        for suite, expanded in suites.items() for run in runs.expand(expanded) if isinstance(run, Run)
    }

before, differences = parts(), {}
for case, edits in json.load(sys.stdin).items():
    old = {name: Path(name).read_text() if Path(name).exists() else None for name in edits}
    for name, edit in edits.items():
        text = old[name]
        for pattern, replacement in edit if isinstance(edit, list) else ():
            text = re.sub(pattern, replacement, text)
        Path(name).write_text(text if isinstance(edit, list) else edit)
        assert Path(name).read_text() != old[name], f"{case}: {name} has nothing to edit"
    now = parts()
    assert now.keys() == before.keys()
    differences[case] = {
        run: changed for run in now if (changed := [part for part in now[run] if now[run][part] != before[run][part]])
    }
    for name, text in old.items():
        Path(name).unlink() if text is None else Path(name).write_text(text)
assert parts() == before
print(json.dumps(differences))
"""


@pytest.fixture(scope="module")
def differences(tmp_path_factory: pytest.TempPathFactory, toy_root: Path) -> dict[str, dict[str, list[str]]]:
    """For each edit of a copy of the project: the runs with another fingerprint, and which parts of it changed."""
    project = Project(tmp_path_factory.mktemp("project"), PARAMS | {"roots": {"toy": str(toy_root)}})
    edits = {name: edit for name, (edit, _) in (EDITS | OPTIONAL_EDITS).items()}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=json.dumps(edits), cwd=project.folder, env=project.environment(),
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_makes_stale_what_it_decides(edit: str, differences: dict[str, dict[str, list[str]]]) -> None:
    expected = {(suite, method, part) for method, part in EDITS[edit][1].items() for suite in ("plain", "more")}
    found = {(*run.split("-")[0].split("/"), part) for run, parts in differences[edit].items() for part in parts}
    assert found == expected


@pytest.mark.parametrize("edit", OPTIONAL_EDITS)
def test_code_that_few_runs_use_counts_for_those(edit: str, differences: dict[str, dict[str, list[str]]]) -> None:
    found = {(*run.split("-")[0].split("/"), part) for run, parts in differences[edit].items() for part in parts}
    assert found == {("more", method, OPTIONAL_EDITS[edit][1]) for method in METHODS}
