"""FD beside the official code of STFPM, gdwang08/STFPM: a ResNet-18 with random weights."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.datasets.mvtec_ad import MVTecAD
from benchmarks.metrics import localization
from benchmarks.metrics.conventions import CONVENTIONS
from benchmarks.metrics.pro import aupro
from benchmarks.metrics.resize import fit_masks
from methods.base import Context, Sample
from methods.components import feature_cache, teachers, train_loop
from methods.fd import FD
from parity import official

CODE = "STFPM"
SIZE = 256  # the official maps have 64 pixels, a quarter of this
TEACHER = "resnet18.random"
STEPS = 10
# The official network is a sequence of torchvision's layers; its eighth is never used.
LAYERS = {f"model.{ours}.": f"model.{theirs}." for theirs, ours in
          {0: "conv1", 1: "bn1", 4: "layer1", 5: "layer2", 6: "layer3"}.items()}  # fmt: skip
UNUSED = "model.7."
FLOAT32 = 1e-5  # sums in another order, and 2 - 2 cos in place of the squared distance of unit vectors
FLOAT64 = 1e-9  # to which rounding grows in ten steps of the official code itself, with its learning rate of 0.4,
TRAINED = 2e-2  # and as it grows in float32

pytestmark = pytest.mark.parity


@pytest.fixture
def code() -> SimpleNamespace:
    names = ("main", "evaluate")
    return SimpleNamespace(**dict(zip(names, official.load("STFPM", *names), strict=True)))


@pytest.fixture
def both(code: SimpleNamespace, weights: Callable[[str], Path]) -> SimpleNamespace:
    """Teacher and student of both codes, with the same weights."""
    context = Context(weights={TEACHER: weights("resnet18")})
    method = FD(teacher=TEACHER, image_size=SIZE, epochs=STEPS)
    teacher = teachers.load(TEACHER, context.weights)
    train_loop.seed(context.seed, 0)
    student = method.build_student(teacher)
    their_teacher, their_student = code.main.ResNet18_MS3().eval(), code.main.ResNet18_MS3()
    for theirs, ours in ((their_teacher, teacher.network), (their_student, student)):
        left_out = theirs.load_state_dict(official.renamed(ours.state_dict(), LAYERS), strict=False)
        assert not left_out.unexpected_keys
        assert all(key.startswith(UNUSED) for key in left_out.missing_keys)
    return SimpleNamespace(
        their_teacher=their_teacher, their_student=their_student, method=method, teacher=teacher, student=student,
        context=context,
    )  # fmt: skip


def load(both: SimpleNamespace, samples: list[Sample], size: int = SIZE) -> Tensor:
    return both.teacher.normalise(feature_cache.load_images(samples, size, None)[range(len(samples))])


class Loader:
    """What the official training takes for a data loader."""

    def __init__(self, batches: Any, images: int = 0) -> None:
        self.batches, self.dataset = batches, range(images)

    def __iter__(self) -> Any:
        return iter([(None, batch) for batch in self.batches])


def train_officially(
    code: SimpleNamespace, both: SimpleNamespace, epochs: list[Tensor], held_out: Tensor, monkeypatch: Any
) -> SimpleNamespace:
    """Run the official training on one batch in each epoch: losses, validation errors and the selected student."""
    result = SimpleNamespace(losses=[], errors=[], students=[])
    original = code.main.test

    def test(teacher: Any, student: Any, loader: Any) -> Any:
        result.students.append({name: value.clone() for name, value in student.state_dict().items()})
        maps = original(teacher, student, loader)
        result.errors.append(maps.mean())
        return maps

    monkeypatch.setattr(code.main, "test", test)
    backward = Tensor.backward

    def recorded(loss: Tensor) -> None:
        result.losses.append(loss.detach())
        backward(loss)

    arguments = Namespace(epochs=len(epochs), model_save_path="snapshots", category="bottle")
    loader = official.Batches([[(None, batch)] for batch in epochs])
    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "backward", recorded)
        code.main.train_val(
            both.their_teacher, both.their_student, loader, Loader([held_out], len(held_out)), arguments
        )
    result.selected = torch.load("snapshots/bottle/best.pth.tar")["state_dict"]
    return result


def batches(training: list[int], seed: int) -> list[list[int]]:
    """The images of Proctor's one batch in each epoch, in their order."""
    chosen = []
    for epoch in range(1, STEPS + 1):
        train_loop.seed(seed, epoch)
        chosen.append([training[row] for row in torch.randperm(len(training)).tolist()])
    return chosen


def used(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(UNUSED)}


def test_features_loss_and_gradients_are_the_same(
    code: SimpleNamespace, both: SimpleNamespace, train: list[Sample], compare: Any, monkeypatch: Any
) -> None:
    images = load(both, train, 64)
    features, ours = both.their_teacher(images), both.teacher(images)
    compare("teacher's features", features, ours, FLOAT32)
    compare("student's features", both.their_student(images), (student := both.student(images)), FLOAT32)
    sum(both.method.loss_terms(ours, student).values()).backward()
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: None)  # keeps the gradients of the first step
    train_officially(code, both, [images], images, monkeypatch)
    theirs = used(official.gradients(both.their_student))
    compare("gradients", theirs, official.renamed(official.gradients(both.student), LAYERS), FLOAT32)


def test_ten_steps_of_the_official_training_give_the_same_weights(
    code: SimpleNamespace, both: SimpleNamespace, train: list[Sample], compare: Any, monkeypatch: Any
) -> None:
    """In float64, where what remains is not rounding but a difference in the equations."""
    for network in (both.their_teacher, both.their_student, both.teacher, both.student):
        network.double()
    images = load(both, train, 64).double()
    order = batches(list(range(len(images))), seed=0)
    theirs = train_officially(code, both, [images[batch] for batch in order], images, monkeypatch)
    losses = []

    def terms(batch: Any) -> dict[str, Tensor]:
        terms = both.method.loss_terms(both.teacher(images[batch]), both.student(images[batch]))
        losses.append(sum(terms.values()))
        return terms

    train_loop.optimise(
        both.student, both.method.make_optimiser(both.student, fused=False), terms, len(images), epochs=STEPS,
        batch_size=32, learning_rate=both.method.learning_rate_at, context=Context(), checkpoint=None, fit_id="",
    )  # fmt: skip
    compare("losses of ten steps, float64", torch.stack(theirs.losses), torch.stack(losses), FLOAT64)
    ours = official.renamed(both.student.state_dict(), LAYERS)
    compare("weights after ten steps, float64", used(theirs.students[-1]), ours, FLOAT64)


def test_maps_are_the_same(code: SimpleNamespace, both: SimpleNamespace, train: list[Sample], compare: Any) -> None:
    images = load(both, train[:4])
    quarter = code.main.test(both.their_teacher, both.their_student, Loader(images.split(1), len(images)))
    theirs = np.stack([code.main.cv2.resize(one, (SIZE, SIZE)) for one in quarter])
    both.student.eval()
    with torch.no_grad():
        ours = both.method.anomaly_map(both.teacher(images), both.student(images))
    compare("anomaly maps, 256 px", theirs, ours, FLOAT32)


def test_a_whole_run_selects_the_same_epoch(
    code: SimpleNamespace, both: SimpleNamespace, train: list[Sample], compare: Any, monkeypatch: Any
) -> None:
    """Ten epochs in float32, with the hold-out and the selection of the official code."""
    samples = train[:5]
    images = load(both, samples)
    training, held_out = code.main.train_test_split(range(len(samples)), test_size=0.2, random_state=0)
    order = batches(training, seed=0)
    theirs = train_officially(code, both, [images[batch] for batch in order], images[held_out], monkeypatch)
    record = both.method.fit(samples, [], both.context).record
    ours = [epoch["measured"]["validation"] for epoch in record["history"]]
    compare("validation errors of a run's ten epochs", torch.tensor(theirs.errors), torch.tensor(ours), TRAINED)
    chosen = next(
        epoch for epoch, state in enumerate(theirs.students, 1)
        if all(torch.equal(state[name], value) for name, value in theirs.selected.items())
    )  # fmt: skip
    compare("epoch selected in that run", chosen, record["epoch"], 0)


def test_masks_are_the_same(code: SimpleNamespace, mvtec: MVTecAD, compare: Any) -> None:
    items = [item for item in mvtec.items("bottle", "test") if item.defect != "good"]
    ours = fit_masks([mvtec.truth(item).mask for item in items], [(256, 256)] * len(items), "mask>0 not antialiased")
    compare("masks of `stfpm_official`", code.main.load_gt(mvtec.root, "bottle"), np.stack(ours), 0)


def test_pro_and_auroc_are_the_same(code: SimpleNamespace, mvtec: MVTecAD, compare: Any) -> None:
    """At 64 pixels: the official code finds the regions of every mask again at each of its 4000 thresholds."""
    items = [item for item in mvtec.items("bottle", "test") if item.defect != "good"][:3]
    masks = np.stack(fit_masks([mvtec.truth(item).mask for item in items], [(64, 64)] * 3, "mask>0"))
    maps = masks + np.random.default_rng(0).normal(0, 1, masks.shape)
    pixels = localization.Pixels(maps, localization.prepare(list(masks)))
    theirs = code.evaluate.evaluate(masks, maps, metric="pro")
    compare("PRO of `stfpm_official`", theirs, aupro(pixels, CONVENTIONS["stfpm_official"]), 1e-9)
    theirs = code.evaluate.evaluate(masks.ravel(), maps.ravel(), metric="roc")
    compare("pixel AUROC", theirs, localization.auroc(pixels), 1e-12)
