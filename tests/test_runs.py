"""Expansion of parameters to runs: which there are, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.execution.fit_predict import random_seed
from benchmarks.plan import Run
from methods.base import InputError


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
