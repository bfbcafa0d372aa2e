"""A full disk, a results folder that cannot be written, a cache that cannot be written: a message, and nothing lost."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks import results, runs, status
from benchmarks.execution import driver, worker
from benchmarks.execution.executors import local
from benchmarks.params import Executor, Params
from benchmarks.plan import Run
from benchmarks.status import State
from benchmarks.status_file import Claim, read_report
from benchmarks.storage import disk
from benchmarks.storage.arrays import Predictions
from methods.base import Context, InputError, Sample
from methods.components import feature_cache

MIB = 2**20
QUIET = Console(quiet=True)
SETTINGS = Executor(device="cpu", jobs=1, threads=1)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    return tmp_path


@pytest.fixture
def run(toy_root: Path) -> Run:
    values = {
        "suite": "test", "methods": ["rd"], "datasets": ["toy"], "roots": {"toy": toy_root},
        "hyper_parameters": {"teacher": "test_resnet.untrained", "image_size": 64, "epochs": 1},
        "categories": {"toy": ["cog"]}, "protocols": ["one_class"], "seeds": [0], "pretrain": [],
        "conventions": ["default"], "allow": {},
    }  # fmt: skip
    (entry,) = runs.expand(Params.model_validate(values))
    assert isinstance(entry, Run)
    return entry


class SmallDisk:
    """A file system of its own under `results`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self) -> None:
        """Leave no room."""
        with (self.folder / "ballast").open("wb", buffering=0) as stream:
            try:
                while stream.write(b"0" * 4096):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC

    def make_room(self) -> None:
        (self.folder / "ballast").unlink()

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "results"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield SmallDisk(folder)
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_stops_the_driver_with_the_free_space_and_room_cures_it(run: Run, small_disk: SmallDisk) -> None:
    small_disk.fill()
    with pytest.raises(InputError, match=r"No space left on device \(0 MiB are free there\)\. Free some space and run"):
        driver.launch([run], SETTINGS, QUIET)
    small_disk.make_room()
    driver.launch([run], SETTINGS, QUIET)
    assert status.read_status(run).state is State.DONE


def test_a_short_write_of_numpy_is_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"No space left on device .*Free some space"), disk.explained(tmp_path):
        raise OSError("49152 requested and 45024 written")  # it has no number


def test_a_disk_that_fills_during_a_run_fails_it_with_the_reason_and_room_cures_it(
    run: Run, small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", write)
        patch.setattr("methods.components.train_loop.CHECKPOINT_SECONDS", 0)
        with pytest.raises(InputError):
            worker.execute(run, "cpu", 1, 1.0)
    state, reason = status.read_status(run)
    assert state is State.FAILED
    assert "No space left on device" in reason and "Free some space" in reason
    worker.execute(run, "cpu", 1, 1.0)
    status.collect(run)
    assert status.read_status(run).state is State.DONE


def test_progress_that_cannot_be_written_costs_no_run(run: Run, small_disk: SmallDisk) -> None:
    claim = Claim(run)
    claim.report("running", done=1)
    small_disk.fill()
    claim.report("running", done=2)
    with pytest.raises(OSError, match="No space"):
        claim.report("failed", error="why")
    small_disk.make_room()
    claim.report("running", done=3)
    report = read_report(run)
    assert report is not None
    assert report.done == 3


def test_a_finished_run_survives_a_results_folder_that_cannot_be_written(run: Run, small_disk: SmallDisk) -> None:
    results.save(run, {"cog": Predictions(["a"], np.zeros(1), np.zeros((1, 2, 2)))}, {})
    small_disk.remount("ro")
    with pytest.raises(InputError, match=r"Read-only file system .* Mount it writable"):
        status.collect(run)
    with pytest.raises(InputError, match="Mount it writable"):
        driver.launch([run], SETTINGS, QUIET)
    assert status.read_status(run).state is State.DONE
    small_disk.remount("rw")
    status.collect(run)
    assert results.load(results.result_dir(run))[0].fingerprint == run.fingerprint


def test_a_run_at_work_in_a_folder_that_may_only_be_read_has_a_status(run: Run, small_disk: SmallDisk) -> None:
    Claim(run)
    small_disk.remount("ro")
    assert status.read_status(run).state is State.RUNNING


def test_a_folder_without_permission_is_named_with_the_cure(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "results/scratch/x")

    monkeypatch.setattr(local.Local, "_start", start)
    with pytest.raises(InputError, match=r"results/scratch/x: Permission denied .* Change its owner or permissions"):
        driver.launch([run], SETTINGS, QUIET)


def test_other_errors_are_not_explained_as_errors_of_the_disk() -> None:
    with pytest.raises(FileNotFoundError), disk.explained(Path("anywhere")):
        Path("absent").read_text()


@pytest.fixture
def unwritable(tmp_path: Path) -> Path:
    """A cache folder that cannot be made, not even by root: there is a file in its way."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "cache"


class Network:
    digest = "a network"

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        return images / 255

    def __call__(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [torch.nn.functional.avg_pool2d(images, 8)]


def samples(count: int = 4) -> list[Sample]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, 40, 40), dtype=torch.uint8, generator=generator)
    return [Sample(f"cog/train/{n:03}", "cog", lambda n=n: pixels[n]) for n in range(count)]


@pytest.mark.parametrize("gib", [1.0, 0.0])
def test_a_cache_that_cannot_be_written_gives_the_same_features_and_one_warning(
    gib: float, unwritable: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def features(cache: Path) -> torch.Tensor:
        pictures = feature_cache.load_images(samples(), 32, cache)
        context = Context(cache=cache, cache_gib=gib)
        return feature_cache.Features(Network(), samples(), pictures, context)([2, 0, 3])[0]

    feature_cache._warn.cache_clear()
    expected = features(tmp_path / "cache")
    assert not caplog.records
    for _ in range(2):
        torch.testing.assert_close(features(unwritable), expected, rtol=0, atol=0)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert str(unwritable) in messages[0] and "Not a directory" in messages[0]


def test_a_run_needs_no_cache_folder(run: Run, unwritable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(unwritable))
    worker.execute(run, "cpu", 1, 1.0)
    assert status.read_status(run).state is State.DONE
