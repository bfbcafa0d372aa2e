"""What is stored is what was computed: whatever was changed since is noticed, and named."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import add_methods
from typer.testing import CliRunner

from benchmarks import clean, integrity, params, plan, records, results, runs, status, status_file
from benchmarks.cli import app
from benchmarks.execution import worker
from benchmarks.plan import Plan, Run
from benchmarks.scoring import score, summary
from benchmarks.status import State
from benchmarks.storage import score_files
from benchmarks.storage.digests import file_digest
from benchmarks.submissions import bundle
from methods.base import InputError

VALUES: dict[str, Any] = {
    "suite": "test", "methods": ["bright", "dim"], "datasets": ["toy"], "categories": {"toy": ["cog"]},
    "protocols": ["one_class"], "seeds": [0, 1], "pretrain": [], "conventions": ["default"], "allow": {},
    "variants": {"dim": {"method": "dim", "scale": 2.0}},
}  # fmt: skip


def suite(root: Path, **changes: Any) -> Plan:
    values = VALUES | {"roots": {"toy": root}} | changes
    return plan.make("test", runs.expand(params.Params.model_validate(values)))


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
    "an object": lambda path: np.save(path, np.array({"a": 1}, dtype=object), allow_pickle=True),
    "an archive": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(99)),
    "random bytes": lambda path: path.write_bytes(np.random.default_rng(0).bytes(999)),
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


def test_the_doctor_says_how_dvc_makes_again_what_it_overlooks(planned: Plan) -> None:
    plan.write(results.RESULTS, planned)
    doctor = ["doctor", "--results"]
    assert CliRunner().invoke(app, doctor).exit_code == 0
    edited(np.negative)(scores_of(planned.runs[0]))
    answer = CliRunner().invoke(app, doctor)
    assert answer.exit_code == 1 and "Remove the files that are named" in answer.output


def test_the_doctor_compares_the_means_that_dvc_shows_with_the_scores(planned: Plan) -> None:
    plan.write(results.RESULTS, planned)
    summary.write([group.name for group in planned.groups])
    assert CliRunner().invoke(app, ["doctor", "--results"]).exit_code == 0
    path = results.RESULTS / "metrics" / f"{planned.groups[0].name}.json"
    results.write_json(path, json.loads(path.read_text()) | {"image_auroc": 0.999})
    answer = CliRunner().invoke(app, ["doctor", "--results"])
    assert answer.exit_code == 1
    assert f"{path} does not hold the means of the scores: `proctor summary` writes it again." in answer.output
    for name in ("csv", "json"):  # of a group that is not scored yet
        (results.RESULTS / "scores" / f"{planned.groups[0].name}.{name}").unlink()
    assert CliRunner().invoke(app, ["doctor", "--results"]).exit_code == 0


@pytest.mark.parametrize("text", ["[]", "{}", "", "null", "\x00\xff", '{"schema": 1}', "[" * 100_000])
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


def test_a_number_leads_back_to_the_arrays_that_it_was_computed_from(planned: Plan) -> None:
    for row in summary.read_scores([group.name for group in planned.groups]).to_dict("records"):
        group, stem = Path(row["record"]).parts[-3:-1]
        folder = results.RESULTS / "predictions" / group / stem
        record = records.read(folder / "record.json")
        assert record.fingerprint == row["fingerprint"]
        assert record.digest == score_files.read_seal(results.RESULTS, group).records[stem]
        images = record.categories[row["category"]]
        assert images.scores and images.scores.digest == file_digest(folder / "cog.scores.npy", full=True)
        assert images.maps and images.maps.digest == file_digest(folder / "cog.maps.npy", full=True)


def test_scores_of_a_run_that_is_stale_are_refused(planned: Plan) -> None:
    group = planned.groups[0]
    parts = group.runs[0].fingerprint_parts | {"method code": "edited"}
    edited = group.runs[0].model_copy(update={"fingerprint_parts": parts})
    with pytest.raises(InputError, match=f"{edited.name} is stale"):
        integrity.require_sound(group.model_copy(update={"runs": [edited, *group.runs[1:]]}))


def test_details_that_were_added_by_hand_are_named(planned: Plan) -> None:
    details = results.details_dir(planned.groups[0].name)
    shutil.copy(details / "cog-seed0.json", details / "cog-seed9.json")
    (problem,) = integrity.problems(planned)
    assert "cog-seed9.json was added" in problem


GARBAGE = ["", "[]", "{}", "null", "3", '{"suite": "x"}', '{"groups": 3}', "\x00\xff", "half a fi", "[" * 100_000]


@pytest.mark.parametrize("text", GARBAGE)
@pytest.mark.parametrize("name", ["suite", "bright-toy-one_class"])
def test_a_damaged_plan_is_one_line_with_the_file_and_the_cure(planned: Plan, name: str, text: str) -> None:
    plan.write(results.RESULTS, planned)
    (results.RESULTS / "plan" / f"{name}.json").write_bytes(text.encode("latin1"))
    with pytest.raises(InputError, match=rf"plan/{name}.json is damaged .*`proctor plan --write` writes it") as error:
        plan.read(results.RESULTS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", GARBAGE)
@pytest.mark.parametrize(
    "name", ["scores/{}.csv", "scores/{}.json", "interference/{}.csv", "details/{}/cog-seed0.json"]
)
def test_a_damaged_score_file_is_one_line_with_the_file_and_the_cure(planned: Plan, name: str, text: str) -> None:
    group = planned.groups[0].name
    path = results.RESULTS / name.format(group)
    path.write_bytes(text.encode("latin1"))
    with pytest.raises(InputError) as error:
        summary.read_scores([group])
    assert str(path) in str(error.value) and f"`dvc repro` scores {group} again" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_check_of_the_plan_names_what_is_not_done_or_not_scored_as_it_is(
    planned: Plan, toy_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(VALUES | {"roots": {"toy": str(toy_root)}}))

    def check(*options: str) -> tuple[int, str]:
        ended = CliRunner().invoke(app, ["plan", *options])
        return ended.exit_code, ended.stderr

    assert check("--check") == (0, "")
    scores = results.RESULTS / "scores" / f"{planned.groups[0].name}.csv"
    kept = scores.read_bytes()
    scores.write_bytes(kept.replace(b"0.", b"0.9", 1))
    edited = f"{scores} was changed after it was scored: `dvc repro` scores {planned.groups[0].name} again.\n"
    assert check("--check") == (1, edited)
    assert check() == (0, edited)
    scores.write_bytes(kept)
    assert check("--check") == (0, "")
    scores_of(planned.runs[0]).unlink()
    code, said = check("--check")
    assert code == 1 and said.startswith(f"{planned.runs[0].name} is stale")


def test_scores_without_a_seal_are_named(planned: Plan) -> None:
    group = planned.groups[0].name
    (results.RESULTS / "scores" / f"{group}.json").unlink()
    (problem,) = integrity.problems(planned)
    assert problem.startswith(f"{results.RESULTS / 'scores' / group}.csv has no {group}.json")


def test_a_bundle_of_a_group_holds_its_planned_runs_alone(planned: Plan, toy_root: Path, tmp_path: Path) -> None:
    (group,) = suite(toy_root, seeds=[0], methods=["bright"]).groups
    score.score_group(group.name, group.runs, ["default"])
    manifest, _ = bundle.write(tmp_path / "x.tar.gz", [group.name], licence="CC0-1.0", contact="x@example.org")
    assert {entry.seed for entry in manifest.maps} == {0}


def test_a_command_in_another_folder_is_told_where_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("status", "clean", "summary", "scores", "report", "plan", "run", "retry", "doctor --results"):
        with pytest.raises(InputError, match="project's folder") as error:
            CliRunner().invoke(app, command.split(), catch_exceptions=False)
        assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_what_is_not_planned_is_listed_and_removed_and_nothing_else(planned: Plan, toy_root: Path) -> None:
    fewer = suite(toy_root, seeds=[0], methods=["bright"])
    at_work, dead = (
        planned.runs[0].model_copy(update={"split": split, "fingerprint_parts": {"run": split}})
        for split in ("at_work", "dead")
    )
    for run in (at_work, dead):
        status_file.report(run, "running")
    report = results.scratch_dir(dead) / "status.json"
    results.write_json(report, json.loads(report.read_text()) | {"pid": 2**22 + 1})
    unplanned = clean.unplanned(fewer)
    names = {path.relative_to(results.RESULTS).as_posix() for path in unplanned}
    assert {"predictions/bright-toy-one_class/cog-seed1", "predictions/dim-toy-one_class"} <= names
    assert {"scores/dim-toy-one_class.csv", "scores/dim-toy-one_class.json", "details/dim-toy-one_class"} <= names
    for path in unplanned:
        clean.remove(path)
    assert clean.unplanned(fewer) == []
    assert results.scratch_dir(at_work).exists() and not results.scratch_dir(dead).exists()
    assert results.result_dir(fewer.runs[0]).exists()
