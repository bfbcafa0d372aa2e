"""A fit that is stopped anywhere and goes on ends with the bits of one that was never stopped."""

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_methods import TRAINED, create, samples

from methods.base import Context
from methods.components import train_loop

# A network with dropout, on data that numpy and python disturb: every generator has a part in the result.
FIT = """
import random, sys, time
from pathlib import Path
import numpy as np
import torch
from torch import nn
from methods.base import Context
from methods.components import train_loop

train_loop.CHECKPOINT_SECONDS = 0
pause, checkpoint, result = float(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
torch.manual_seed(0)
network = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 8))
data = torch.randn(30, 8)

def terms(batch):
    time.sleep(pause)
    noisy = data[batch] + 0.1 * torch.from_numpy(np.random.standard_normal((len(batch), 8))).float()
    return {"loss": (network(noisy) * random.random() - data[batch]).square().mean()}

history, _ = train_loop.optimise(
    network, torch.optim.Adam(network.parameters(), 1e-2), terms, len(data), epochs=8, batch_size=4,
    learning_rate=lambda epoch: 1e-2 / epoch, context=Context(seed=3), checkpoint=checkpoint, fit_id="this",
)
torch.save([network.state_dict(), [entry["terms"] for entry in history]], result)
"""


def fit(pause: float, folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", FIT, str(pause), str(folder / "checkpoint.pt"), str(folder / "result.pt")]
    return subprocess.Popen(command, cwd=Path(__file__).parent.parent)


def test_a_process_killed_at_random_moments_ends_with_the_same_bits(tmp_path: Path) -> None:
    folders = [tmp_path / "whole", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()
    assert fit(0, folders[0]).wait() == 0

    kills, checkpoint = 0, folders[1] / "checkpoint.pt"
    while not (folders[1] / "result.pt").exists():
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = fit(0.05, folders[1])
        while process.poll() is None and not (checkpoint.exists() and checkpoint.stat().st_mtime_ns > before):
            time.sleep(0.01)
        time.sleep(random.uniform(0, 1.0))
        if process.poll() is None and kills < 4:
            process.kill()
            kills += 1
        process.wait()
    assert kills >= 2
    whole, resumed = (torch.load(folder / "result.pt") for folder in folders)
    assert resumed[1] == whole[1]
    assert all(torch.equal(resumed[0][name], value) for name, value in whole[0].items())


class Stopped(Exception):
    pass


@pytest.mark.parametrize("name", TRAINED)
def test_a_method_stopped_after_any_step_goes_on_from_there_and_predicts_the_same_bits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_loop, "CHECKPOINT_SECONDS", 0)
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 3}  # three steps in each epoch
    step, done, left = train_loop._step, [0], [-1]

    def counted(*arguments: Any) -> Any:
        if left[0] == 0:
            raise Stopped
        left[0] -= 1
        done[0] += 1
        return step(*arguments)

    def maps_of(context: Context) -> torch.Tensor:
        method = create(name, **settings).fit(samples(9), [], context)
        return torch.stack([prediction.anomaly_map for prediction in method.predict(samples(2, "test"), Context())])

    monkeypatch.setattr(train_loop, "_step", counted)
    whole, steps = maps_of(Context(seed=5)), done[0]
    done[0] = 0
    context = Context(seed=5, checkpoint=tmp_path / "checkpoint.pt")
    for left[0] in np.random.default_rng().permutation([1, 2, 4]):
        with pytest.raises(Stopped):
            maps_of(context)
    left[0] = -1
    assert torch.equal(maps_of(context), whole)
    assert done[0] == steps  # none was done twice
