"""Images and random weights for both codes, the comparison, and the table at the end of `make parity`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from tabulate import tabulate
from torch import Tensor, nn

from benchmarks.datasets.mvtec_ad import MVTecAD
from benchmarks.datasets.toy import Toy
from methods.base import Sample
from parity import official

HEADERS = ("code", "compared", "official", "Proctor", "largest difference", "tolerance")
Value = Any  # a number, an array, a tensor, or a sequence or mapping of them
Compare = Callable[[str, Value, Value, float], None]


@pytest.fixture(autouse=True)
def adapted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    official.adapt(monkeypatch)
    monkeypatch.chdir(tmp_path)  # the official code writes its checkpoints to the current folder


@pytest.fixture
def compare(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Compare:
    """Compare two values, note them for the table, and fail if they differ by more than the tolerance.

    The difference is the largest one of any element, relative to the largest element of its tensor.
    """

    def compare(what: str, theirs: Value, ours: Value, tolerance: float) -> None:
        pairs = list(zip(_tensors(theirs), _tensors(ours), strict=True))
        difference = max(_difference(*pair) for pair in pairs)
        shown = (f"{torch.cat([pair[side].flatten() for pair in pairs]).abs().mean():.6g}" for side in (0, 1))
        row = (request.module.CODE, what, *shown, f"{difference:.1e}", f"{tolerance:.0e}")
        record_property("parity", [cell if cell not in ("0.0e+00", "0e+00") else "0" for cell in row])
        assert difference <= tolerance, what

    return compare


def _tensors(value: Value) -> list[Tensor]:
    if isinstance(value, Mapping):
        return [tensor for key in sorted(value) for tensor in _tensors(value[key])]
    if isinstance(value, Sequence) and not all(isinstance(part, int | float) for part in value):
        return [tensor for part in value for tensor in _tensors(part)]
    return [torch.as_tensor(value, dtype=torch.float64).detach()]


def _difference(theirs: Tensor, ours: Tensor) -> float:
    assert theirs.shape == ours.shape
    largest = (theirs - ours).abs().max().item()
    return largest / (theirs.abs().max().item() or 1.0)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, ())]
    rows = [row for report in reports for name, row in report.user_properties if name == "parity"]
    if not rows:
        return
    terminalreporter.section("parity")
    for name in official.SOURCES:
        if (Path(os.environ["OFFICIAL"]) / name).is_dir():
            terminalreporter.line(official.commit(name))
    terminalreporter.line(f"torch {torch.__version__}; the numbers of tensors are their mean absolute values\n")
    terminalreporter.line(tabulate(rows, HEADERS, tablefmt="github", disable_numparse=True))


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A file of random weights in timm's and torchvision's naming, for an architecture.

    The batch norms have statistics and scales of their own, so that none of them is an identity.
    """

    def weights(architecture: str) -> Path:
        file = tmp_path_factory.getbasetemp() / f"{architecture}.safetensors"
        if not file.exists():
            torch.manual_seed(0)
            network = timm.create_model(architecture)
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    for tensor in (module.weight.data, module.running_var):
                        tensor.uniform_(0.5, 1.5)
                    for tensor in (module.bias.data, module.running_mean):
                        tensor.normal_(0, 0.1)
            metadata = {"architecture": architecture, "pretraining": "random weights"}
            save_file(network.state_dict(), file, {"teacher": json.dumps(metadata)})
        return file

    return weights


@pytest.fixture(scope="session")
def mvtec(toy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> MVTecAD:
    """The toy's cogs in MVTec AD's layout, as `bottle`, enlarged so that masks are made smaller to score them."""
    root = tmp_path_factory.mktemp("mvtec")
    toy = Toy(toy_root, ["cog"])
    for split in ("train", "test"):
        for item in toy.items("cog", split):
            name = f"{item.image.stem}.png"
            _enlarge(Image.open(item.image), root / "bottle" / split / item.defect / name)
            if item.defect != "good":
                mask = Image.fromarray(toy.truth(item).mask)
                path = root / "bottle/ground_truth" / item.defect / name.replace(".png", "_mask.png")
                _enlarge(mask, path)
    return MVTecAD(root, ["bottle"])


def _enlarge(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.convert("L" if image.mode == "1" else "RGB").resize((400, 400), Image.Resampling.NEAREST).save(path)


@pytest.fixture(scope="session")
def train(mvtec: MVTecAD) -> list[Sample]:
    """Eight normal images."""
    return [mvtec.sample(item) for item in mvtec.items("bottle", "train")]
