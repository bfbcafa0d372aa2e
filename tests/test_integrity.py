"""What is stored is what was computed: whatever was changed since is noticed, and named."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import add_methods

from benchmarks import clean, integrity, params, plan, results, runs, status
from benchmarks.execution import worker
from benchmarks.plan import Plan, Run
from benchmarks.scoring import score, summary
from benchmarks.status import State
from methods.base import InputError


def suite(root: Path, **changes: object) -> Plan:
    values = {
        "suite": "test", "methods": ["bright", "dim"], "datasets": ["toy"], "roots": {"toy": root},
        "categories": {"toy": ["cog"]}, "protocols": ["one_class"], "seeds": [0, 1], "pretrain": [],
        "conventions": ["default"], "allow": {}, "variants": {"dim": {"method": "dim", "scale": 2.0}},
    }  # fmt: skip
    return plan.make("test", runs.expand(params.Params.model_validate(values | changes)))


@pytest.fixture(scope="module")
def finished(toy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of two methods with two seeds, scored."""
    folder = tmp_path_factory.mktemp("integrity")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(results, "RESULTS", folder / "results")
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        add_methods(folder / "own_methods", monkeypatch)
        for group in suite(toy_root).groups:
            for run in group.runs:
                worker.execute(run, "cpu", 1, 1.0)
                status.collect(run)
            score.score_group(group.name, group.runs, ["default"])
    return folder / "results"


@pytest.fixture
def planned(finished: Path, results_folder: Path, toy_root: Path, own_methods: Path) -> Plan:
    shutil.copytree(finished, results_folder)
    return suite(toy_root)


def scores_of(run: Run) -> Path:
    return results.result_dir(run) / "cog.scores.npy"


def test_what_was_computed_is_sound(planned: Plan) -> None:
    assert integrity.problems(planned) == integrity.problems(planned, full=True) == []
    for group in planned.groups:
        integrity.require_sound(group)


def labels(path: Path) -> None:
    """Replace scores by the labels: the test images of toy's cog are 4 normal and 8 anomalous ones."""
    keys = json.loads(path.with_name("record.json").read_text())["categories"]["cog"]["keys"]
    np.save(path, np.array(["good" not in key for key in keys], np.float32))


def edited(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda path: np.save(path, change(np.load(path)))


ATTACKS: dict[str, Callable[[Path], None]] = {
    "labels as scores": labels,
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 5),
    "NaN": edited(lambda scores: np.where(scores > 0, np.float32("nan"), scores)),
    "0-d": edited(lambda scores: np.float32(1)),
    "another shape": edited(lambda scores: scores[:-1]),
    "another dtype": edited(lambda scores: scores.astype(np.float64)),
    "empty": lambda path: path.write_bytes(b""),
    "missing": Path.unlink,
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("array", ["cog.scores.npy", "cog.maps.npy"])
def test_a_changed_array_is_named_and_its_run_alone_is_stale(
    planned: Plan, attack: Callable[[Path], None], array: str
) -> None:
    victim = planned.runs[0]
    attack(results.result_dir(victim) / array)
    (problem,) = integrity.problems(planned)
    assert f"{victim.name}/{array}" in problem and f"`dvc repro` runs {victim.name} again" in problem
    states = {run.name: status.read_status(run).state for run in planned.runs}
    assert states == dict.fromkeys(states, State.DONE) | {victim.name: State.STALE}
    with pytest.raises(ValueError, match=array):
        results.load(results.result_dir(victim))


def test_swapped_arrays_of_two_variants_are_named(planned: Plan) -> None:
    one, other = (scores_of(run) for run in (planned.groups[0].runs[0], planned.groups[1].runs[0]))
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)
    assert {problem.split(" ")[0] for problem in integrity.problems(planned)} == {str(one), str(other)}


def test_a_change_that_keeps_size_and_time_is_found_by_the_full_check(planned: Plan) -> None:
    path = scores_of(planned.runs[0])
    integrity.problems(planned)  # remembers the digests
    before = path.stat()
    np.save(path, np.load(path)[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert integrity.problems(planned) == []
    (problem,) = integrity.problems(planned, full=True)
    assert str(path) in problem


@pytest.mark.parametrize("text", ["[]", "{}", "", "null", "\x00\xff", '{"schema": 1}'])
def test_a_record_that_is_none_is_named(planned: Plan, text: str) -> None:
    path = results.result_dir(planned.runs[0]) / "record.json"
    path.write_text(text)
    problem, *_ = integrity.problems(planned)
    assert str(path) in problem
    assert status.read_status(planned.runs[0]).state is State.STALE


def test_a_record_edited_by_hand_is_named(planned: Plan) -> None:
    path = results.result_dir(planned.runs[0]) / "record.json"
    path.write_text(path.read_text().replace('"selection": "last"', '"selection": "validation"'))
    assert "record.json was changed after it was written" in integrity.problems(planned)[0]


def test_scores_edited_by_hand_are_refused_and_named(planned: Plan) -> None:
    group = planned.groups[0]
    path = results.RESULTS / "scores" / f"{group.name}.csv"
    path.write_text(path.read_text().replace("0.", "0.9", 1))
    (problem,) = integrity.problems(planned)
    assert f"{path} was changed after it was scored: `dvc repro` scores {group.name} again" in problem
    with pytest.raises(InputError, match="was changed after it was scored"):
        summary.read_scores([group.name])


def test_scores_of_runs_that_are_not_planned_any_more_are_refused(planned: Plan, toy_root: Path) -> None:
    fewer = suite(toy_root, seeds=[0])
    with pytest.raises(InputError, match="cog-seed1 was scored, but is not planned"):
        integrity.require_sound(fewer.groups[0])
    for group in fewer.groups:
        score.score_group(group.name, group.runs, ["default"])
        integrity.require_sound(group)
        assert set(summary.read_scores([group.name])["seed"]) == {0}


def test_a_run_that_was_made_again_must_be_scored_again(planned: Plan) -> None:
    run = planned.runs[0]
    shutil.rmtree(results.result_dir(run))
    worker.execute(run, "cpu", 1, 1.0)
    status.collect(run)
    with pytest.raises(InputError, match="cog-seed0 was run again after it was scored"):
        integrity.require_sound(planned.groups[0])


def test_what_is_not_planned_is_listed_and_removed_and_nothing_else(planned: Plan, toy_root: Path) -> None:
    fewer = suite(toy_root, seeds=[0], methods=["bright"])
    at_work = results.RESULTS / "scratch" / "f00d"
    results.write_json(at_work / "status.json", {"state": "running"})
    unplanned = clean.unplanned(fewer)
    names = {path.relative_to(results.RESULTS).as_posix() for path in unplanned}
    assert {"predictions/bright-toy-one_class/cog-seed1", "predictions/dim-toy-one_class"} <= names
    assert {"scores/dim-toy-one_class.csv", "scores/dim-toy-one_class.json", "details/dim-toy-one_class"} <= names
    clean.remove(unplanned)
    assert clean.unplanned(fewer) == []
    assert at_work.exists() and results.result_dir(fewer.runs[0]).exists()
