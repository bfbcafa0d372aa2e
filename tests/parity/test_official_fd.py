"""FD beside the official code of STFPM, gdwang08/STFPM: a ResNet-18 with random weights."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import official
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.datasets.mvtec_ad import MVTecAD
from benchmarks.metrics import detection, localization
from benchmarks.metrics.conventions import CONVENTIONS
from benchmarks.metrics.pro import aupro
from benchmarks.metrics.resize import fit_masks
from methods.base import Context, Sample
from methods.components import feature_cache, teachers, train_loop
from methods.fd import FD

CODE = "STFPM"
TEACHER = "resnet18.random"
STEPS = 10
LAYERS = {"conv1.": "0.", "bn1.": "1.", "layer1.": "4.", "layer2.": "5.", "layer3.": "6."}
FLOAT32 = 1e-5  # sums in another order, and 2 - 2 cos in place of the squared distance of unit vectors
FLOAT64 = 1e-9

pytestmark = pytest.mark.parity


@pytest.fixture
def code() -> SimpleNamespace:
    names = ("main", "evaluate")
    return SimpleNamespace(**dict(zip(names, official.load("STFPM", *names), strict=True)))


@pytest.fixture
def both(code: SimpleNamespace, weights: Callable[[str], Path]) -> SimpleNamespace:
    """Teacher and student of both codes, with the same weights."""
    file = weights("resnet18")
    context = Context(weights={TEACHER: file})
    method = FD(teacher=TEACHER, epochs=STEPS)
    teacher = teachers.load(TEACHER, context.weights)
    train_loop.seed(context.seed, 0)
    student = method.build_student(teacher)
    networks = code.main.ResNet18_MS3(), code.main.ResNet18_MS3()
    for network, state in zip(networks, (load_file(file), student.state_dict()), strict=True):
        names = theirs(state)
        network.load_state_dict({name: names[name] for name in network.state_dict() if name in names}, strict=False)
        missing = {name.rpartition(".")[2] for name in network.state_dict().keys() - names.keys()}
    return SimpleNamespace(
        official_teacher=networks[0].eval(), official_student=networks[1], method=method, teacher=teacher,
        student=student, context=context,
    )  # fmt: skip
