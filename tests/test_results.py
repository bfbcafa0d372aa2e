"""A run's state, read from the disk; and that a reader never sees half a result."""

import json
import os
import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from benchmarks import results, status, status_file
from benchmarks.plan import Run
from benchmarks.status import State
from benchmarks.storage.arrays import Predictions

pytestmark = pytest.mark.usefixtures("results_folder")

RUN = Run(
    variant="rd", method="rd", hyper_parameters={}, dataset="toy", root=None, categories=None, protocol="one_class",
    split="cog", seed=0, weights={}, compute={}, evaluate_every=0, fingerprint_parts={"method code": "1", "data": "2"},
)  # fmt: skip
PREDICTIONS = {"cog": Predictions(["cog/test/good/000", "cog/test/hole/000"], np.array([0.1, 0.9]), np.ones((2, 4, 4)))}


def stored() -> Path:
    results.save(RUN, PREDICTIONS, {"selection": "last"})
    status.collect(RUN)
    return results.result_dir(RUN)


def edited() -> Run:
    return RUN.model_copy(update={"fingerprint_parts": {"method code": "1", "data": "changed"}})


def test_a_run_is_missing_until_it_is_saved_and_done_from_then_on() -> None:
    assert status.read_status(RUN).state is State.MISSING
    results.save(RUN, PREDICTIONS, {})
    assert status.read_status(RUN).state is State.DONE
    status.collect(RUN)
    assert status.read_status(RUN).state is State.DONE
    assert not results.scratch_dir(RUN).exists()


def test_two_processes_that_collect_the_same_run_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    remove = shutil.rmtree

    def remove_slowly(*arguments: Any, **options: Any) -> None:
        time.sleep(0.05)
        remove(*arguments, **options)

    results.save(RUN, PREDICTIONS, {})
    monkeypatch.setattr(shutil, "rmtree", remove_slowly)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(status.collect, [RUN, RUN]))
    assert status.read_status(RUN).state is State.DONE
    assert results.result_dir(RUN).exists()


def test_what_is_saved_is_what_is_loaded() -> None:
    record, predictions = results.load(stored())
    keys, scores, maps = predictions["cog"]
    assert keys == PREDICTIONS["cog"][0]
    np.testing.assert_array_equal(scores, np.float32(PREDICTIONS["cog"][1]))
    np.testing.assert_array_equal(maps, np.float32(PREDICTIONS["cog"][2]))
    assert (record.variant, record.fingerprint) == ("rd", RUN.fingerprint)


def test_a_stale_run_says_what_changed_and_keeps_its_old_result_until_the_new_one_is_whole() -> None:
    folder = stored()
    assert status.read_status(edited()) == (State.STALE, "changed: data")
    results.save(edited(), PREDICTIONS, {})
    assert json.loads((folder / "record.json").read_text())["fingerprint"] == RUN.fingerprint
    status.collect(edited())
    assert status.read_status(edited()).state is State.DONE
    assert json.loads((folder / "record.json").read_text())["fingerprint"] == edited().fingerprint


@pytest.mark.parametrize("name", ["cog.maps.npy", "cog.scores.npy"])
def test_a_truncated_prediction_file_makes_its_run_stale_and_is_named(name: str) -> None:
    path = stored() / name
    path.write_bytes(path.read_bytes()[:-5])
    state, reason = status.read_status(RUN)
    assert state is State.STALE
    assert name in reason


def test_a_record_that_is_cut_short_makes_its_run_stale_and_is_named() -> None:
    path = stored() / "record.json"
    path.write_text(path.read_text()[:40])
    state, reason = status.read_status(RUN)
    assert state is State.STALE
    assert f"{path} is not JSON" in reason


def test_a_run_is_running_while_its_process_lives() -> None:
    status_file.report(RUN, "running")
    assert status.read_status(RUN).state is State.RUNNING


def test_a_run_whose_process_is_gone_is_missing_and_says_so() -> None:
    status_file.report(RUN, "running")
    path = results.scratch_dir(RUN) / "status.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": 2**22 + 1}))
    assert status.read_status(RUN) == (
        State.MISSING,
        "its process ended without a result; it resumes from its last checkpoint",
    )


def test_a_process_number_that_another_program_got_is_not_taken_for_the_run() -> None:
    started = psutil.Process().create_time() - 60
    report = status_file.StatusReport(
        run=RUN.name, state="running", host=socket.gethostname(), pid=os.getpid(), process_started=started
    )
    assert not status_file.is_alive(report, seconds_since_update=0)


def test_a_failed_run_says_why() -> None:
    status_file.report(RUN, "failed", error="the reason")
    assert status.read_status(RUN) == (State.FAILED, "the reason")
