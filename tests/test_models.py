"""Models: what a run stores of its fitted method, and what is made with it later."""

import errno
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from benchmarks import integrity, params, plan, results, runs, status
from benchmarks.datasets import toy
from benchmarks.execution import worker
from benchmarks.plan import Run
from benchmarks.scoring import score
from benchmarks.status import State
from benchmarks.storage import model_files
from benchmarks.submissions import bundle, verify
from methods.base import InputError

VALUES: dict[str, Any] = {
    "suite": "test", "methods": ["fd"], "datasets": ["toy"], "protocols": ["one_class"], "seeds": [0],
    "categories": {"toy": ["cog"]}, "pretrain": [], "conventions": ["default"], "allow": {},
    "hyper_parameters": {"teacher": "test_resnet.untrained", "image_size": 64, "epochs": 2, "batch_size": 4},
}  # fmt: skip


def expand(root: Path, **changes: Any) -> list[Run]:
    values = params.Params.model_validate(VALUES | {"roots": {"toy": root}} | changes)
    return [entry for entry in runs.expand(values) if isinstance(entry, Run)]


def execute(run: Run) -> Path:
    worker.execute(run, "cpu", 1, 1.0)
    status.collect(run)
    return results.result_dir(run)


@pytest.fixture
def run(toy_root: Path, results_folder: Path) -> Run:
    (only,) = expand(toy_root)
    return only


def test_a_run_keeps_its_fitted_method_and_says_what_it_is(run: Run) -> None:
    folder = execute(run)
    record = results.load(folder)[0]
    path = results.check_model(folder)
    assert path and record.model and record.teacher
    assert path.stat().st_size == record.model.bytes
    about, state, normal = model_files.read(path)
    assert (about.method, about.protocol, about.split, about.image_size) == ("fd", "one_class", "cog", 64)
    assert about.fingerprint == run.fingerprint
    assert about.hyper_parameters == record.hyper_parameters
    assert about.teacher == model_files.TeacherName(name=record.teacher.name, sha256=record.teacher.sha256)
    assert not any(name.startswith("teacher") for name in state)  # it is named, not copied
    # toy_root has 2 validation images of each category.
    assert (about.normal_from, normal["cog"].shape) == ("validation", (2, 2))


@pytest.mark.parametrize(
    ("method", "validation", "normal_from", "images"),
    [("fd", 0, "held out", 2), ("rd", 0, "training", 8), ("rd", 2, "validation", 2)],
)
def test_thresholds_rest_on_images_that_the_method_has_not_seen_where_there_are_any(
    method: str, validation: int, normal_from: str, images: int, tmp_path: Path, results_folder: Path
) -> None:
    toy.generate(tmp_path / "toy", train=8, validation=validation, good=2, anomalous=2)
    (run,) = expand(tmp_path / "toy", methods=[method])
    about, _, normal = model_files.read(execute(run) / model_files.NAME)
    assert (about.normal_from, len(normal["cog"])) == (normal_from, images)
    assert (normal["cog"][:, 0] > normal["cog"][:, 1]).all()  # a maximum is above the median


def test_normal_images_are_of_each_category_that_a_model_is_for(toy_root: Path, results_folder: Path) -> None:
    (run,) = expand(toy_root, protocols=["multi_class"], categories={"toy": ["cog", "tray"]})
    _, _, normal = model_files.read(execute(run) / model_files.NAME)
    assert {category: len(images) for category, images in normal.items()} == {"cog": 2, "tray": 2}


def test_keep_models_decides_no_number_and_without_it_there_is_no_file(toy_root: Path, results_folder: Path) -> None:
    (kept,), (left_out,) = expand(toy_root), expand(toy_root, keep_models=False)
    assert kept.fingerprint == left_out.fingerprint
    folder = execute(left_out)
    assert results.check_model(folder) is None
    assert not (folder / model_files.NAME).exists()
    assert status.read_status(kept).state is State.DONE


def test_a_method_without_a_state_leaves_no_file(toy_root: Path, results_folder: Path, own_methods: Path) -> None:
    (run,) = expand(toy_root, methods=["bright"], hyper_parameters={})
    folder = execute(run)
    assert results.check_model(folder) is None
    assert not (folder / model_files.NAME).exists()


def test_the_same_run_gives_the_same_file(run: Run) -> None:
    digests = set()
    for _ in range(2):
        folder = execute(run)
        digests.add(results.load(folder)[0].model)
        (folder / "record.json").unlink()
    assert len(digests) == 1


def change_a_weight(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [change_a_weight, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_changed_model_is_named_by_the_doctor_and_makes_no_number_stale(run: Run, damage: Any) -> None:
    folder = execute(run)
    planned = plan.make("test", [run])
    assert integrity.problems(planned, full=True) == []
    damage(folder / model_files.NAME)
    (problem,) = integrity.problems(planned, full=True)
    assert f"{run.name}/{model_files.NAME}" in problem and "`dvc checkout` restores it" in problem
    assert integrity.problems(planned) == []
    assert status.read_status(run).state is State.DONE
    with pytest.raises(ValueError, match=model_files.NAME):
        results.check_model(folder)


def test_a_disk_that_fills_while_the_model_is_written_fails_the_run_with_the_reason(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_bytes(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_bytes)
        with pytest.raises(InputError, match=r"model\.safetensors: No space left on device .*Free some space"):
            worker.execute(run, "cpu", 1, 1.0)
    assert status.read_status(run).state is State.FAILED
    assert not (results.scratch_dir(run) / "result").exists()
    execute(run)
    assert status.read_status(run).state is State.DONE


def test_a_bundle_takes_the_models_along_and_none_is_ever_loaded(
    toy_root: Path, results_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = expand(toy_root, categories={"toy": ["cog", "tray"]})
    for run in entries:
        execute(run)
    score.score_group(entries[0].group, entries, ["default"])
    target = tmp_path / "x.tar.gz"
    fields = {"licence": "CC-BY-4.0", "contact": "someone@example.org"}
    manifest, _ = bundle.write(target, [entries[0].group], **fields, models=True)
    assert [entry.name for entry in manifest.weights] == ["cog-seed0.safetensors", "tray-seed0.safetensors"]
    with tarfile.open(target) as tar:
        packed = tar.extractfile("weights/cog-seed0.safetensors")
        assert packed
        assert packed.read() == (results.result_dir(entries[0]) / model_files.NAME).read_bytes()

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (os.fspath(tmp_path / "executed"),)

    for entry in entries:
        (tmp_path / f"{entry.split}.safetensors").write_bytes(pickle.dumps(Evil()))
    names = [tmp_path / "cog.safetensors", tmp_path / "tray.safetensors"]
    bundle.write(target, [entries[0].group], **fields, models=True, weights=names)
    monkeypatch.setattr(safetensors, "safe_open", None)
    assert verify.verify(target, toy_root).agrees
    assert not (tmp_path / "executed").exists()
    change_a_weight(results.result_dir(entries[1]) / model_files.NAME)
    with pytest.raises(InputError, match=r"tray-seed0/model\.safetensors was changed .*`dvc checkout` restores it"):
        bundle.write(target, [entries[0].group], **fields, models=True)
    assert verify.verify(target, toy_root).agrees  # the bundle is as it was


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "damaged"), (b"\x80\x04.", "damaged"), (None, "damaged"), ({}, "not a model"), ({"proctor": "[]"}, "not a")],
)
def test_a_file_that_is_no_model_is_named(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    if isinstance(content, dict):
        content = safetensors.torch.save({"a": torch.zeros(1)}, content)
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"model.safetensors is .*{message}"):
        model_files.read(path)
