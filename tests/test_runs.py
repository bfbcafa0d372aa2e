"""Expansion of parameters to runs, and what makes a run's fingerprint change."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import params, runs
from benchmarks.execution.fit_predict import random_seed
from benchmarks.plan import Run
from benchmarks.sources import sources
from methods.base import InputError


@pytest.fixture
def expand(toy_root: Path, own_methods: Path) -> Callable[..., list[Run]]:
    def expand(**changes: Any) -> list[Run]:
        values = {
            "suite": "test",
            "methods": ["bright", "dim"],
            "datasets": ["toy"],
            "roots": {"toy": toy_root},
            "protocols": ["one_class", "multi_class"],
            "seeds": [0, 1],
            "pretrain": [],
            "conventions": ["default"],
            "allow": {},
        }
        return [run for run in runs.expand(params.Params(**(values | changes))) if isinstance(run, Run)]

    return expand


def parts_that_differ(before: list[Run], after: list[Run]) -> dict[str, set[str]]:
    """For each run of `after` with a new fingerprint, by name: the parts that changed."""
    old = {run.name: run.fingerprint_parts for run in before}
    changed = {run.name: {k for k, v in run.fingerprint_parts.items() if old[run.name][k] != v} for run in after}
    return {name: parts for name, parts in changed.items() if parts}


def test_one_class_gives_a_run_per_category_and_multi_class_one_for_all(expand: Callable[..., list[Run]]) -> None:
    names = [run.name for run in expand(methods=["bright"], seeds=[3])]
    assert names[-1] == "bright-toy-multi_class/all-seed3"
    assert len(names) == 4
    assert all(name.startswith("bright-toy-one_class/") for name in names[:3])


def test_fingerprints_of_a_suite_are_all_different(expand: Callable[..., list[Run]]) -> None:
    expanded = expand(categories={"toy": ["cog"]})  # where one_class and multi_class see the same images
    assert len({run.fingerprint for run in expanded}) == len(expanded)


def test_seeds_and_fingerprints_do_not_depend_on_what_else_runs(expand: Callable[..., list[Run]]) -> None:
    alone = expand(methods=["dim"], protocols=["one_class"], seeds=[1])
    among = {run.name: run for run in expand(seeds=[1, 0])}
    assert [among[run.name] for run in alone] == alone
    assert [random_seed(among[run.name]) for run in alone] == [random_seed(run) for run in alone]


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


def test_a_module_that_a_method_imports_is_part_of_its_code(own_methods: Path) -> None:
    (own_methods / "dim.py").write_text("from methods.bright import Bright")
    assert {"methods.dim", "methods.bright", "methods.base"} <= set(sources("methods.dim"))


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


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"methods": ["brigth"]}, "Did you mean 'bright'"),
        ({"variants": {"dim": {"method": "dim", "scales": 2}}}, "Did you mean 'scale'"),
        (
            {"hyper_parameters": {"scal": 2.0}},
            "no method of the suite has the hyper-parameter 'scal'. Did you mean 'scale'",
        ),
        ({"datasets": ["toi"]}, "Did you mean 'toy'"),
        ({"protocols": ["one_clas"]}, "one_class"),
        ({"categories": {"toy": ["cogs"]}}, "cogs"),
    ],
)
def test_a_wrong_name_is_refused_before_any_training(
    expand: Callable[..., list[Run]], changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        expand(**changes)
