"""AAND beside the official code, Hui-design/AAND, which knows one size: a WideResNet-50 on images of 256 pixels.

All is compared in float64. The last batch norm of each block is scaled down, so that features have the size that they
have in a pretrained network; with larger ones the amplifiers' tanh is saturated and learns nothing.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from methods import aand
from methods.aand import AAND
from methods.base import Context, Sample
from methods.components import feature_cache, teachers, train_loop
from methods.components.amplification import AmplifiedTeacher, Amplifiers
from parity import official
from parity.test_official_rd import BOTTLENECK, DECODER, FLOAT32, FLOAT64, STEPS, batches, compare_students

CODE = "AAND"
SIZE = 256
IMAGES = 2
TEACHER = "wide_resnet50_2.random"
SCALE = 0.1
ARGUMENTS = SimpleNamespace(image_size=SIZE, data_root="", aux_path="", batch_size=IMAGES)
GROWN = 1e-9  # rounding, grown in ten steps of Adam in a deep network

pytestmark = pytest.mark.parity


@pytest.fixture
def code() -> SimpleNamespace:
    names = {"train": "train", "test": "test", "loss": "models.loss", "resnet": "models.resnet",
             "amplified": "models.resnet_rar", "decoder": "models.de_resnet"}  # fmt: skip
    return SimpleNamespace(**dict(zip(names, official.load("AAND", *names.values()), strict=True)))


@pytest.fixture
def both(
    code: SimpleNamespace, weights: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SimpleNamespace:
    """Teacher, amplifiers and student of both codes, with the same weights."""
    file = tmp_path / "teacher.safetensors"
    tensors = load_file(weights("wide_resnet50_2"))
    tensors = {
        name: tensor * (SCALE if ".bn3.weight" in name or ".bn3.bias" in name else 1)
        for name, tensor in tensors.items()
    }
    save_file(tensors, file, {"teacher": json.dumps({"architecture": "wide_resnet50_2", "pretraining": "random"})})
    for module in (code.resnet, code.amplified):
        monkeypatch.setattr(module, "load_state_dict_from_url", lambda url, progress: load_file(file))
    encoder, _ = code.resnet.wide_resnet50_2(pretrained=True)
    amplified, bn = code.amplified.wide_resnet50_2_rar(pretrained=True)
    decoder = code.decoder.de_wide_resnet50_2()
    context = Context(weights={TEACHER: file})
    method = AAND(teacher=TEACHER, image_size=SIZE, epochs=STEPS, amplification_epochs=STEPS)
    teacher = teachers.load(TEACHER, context.weights)
    train_loop.seed(context.seed, 0)
    amplifiers = Amplifiers(teacher, SIZE, method.prototypes, method.temperature)
    student = method.build_student(teacher)
    unused = amplified.load_state_dict(official_amplifiers(amplifiers.state_dict()), strict=False)
    assert not unused.unexpected_keys
    assert not [key for key in unused.missing_keys if key.startswith("feat_recons")]
    unused = bn.load_state_dict(official.renamed(student.bottleneck.state_dict(), BOTTLENECK), strict=False)
    assert not unused.unexpected_keys
    decoder.load_state_dict(official.renamed(student.decoder.state_dict(), DECODER))
    for network in (encoder.eval(), amplified.eval(), bn, decoder, teacher, amplifiers, student):
        network.double()
    return SimpleNamespace(
        encoder=encoder, amplified=amplified, bn=bn, decoder=decoder, method=method, teacher=teacher,
        amplifiers=amplifiers, student=student, context=context,
    )  # fmt: skip


def official_amplifiers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of our amplifiers by their names and shapes in the official code."""
    names = {f"stages.{index}.": f"feat_recons_{letter}." for index, letter in enumerate("abc")}
    names |= {".query.": ".projs.0.", ".scale.": ".projs2.0.", ".prototypes": ".K_list.0"}
    return {name: _shaped(name, tensor) for name, tensor in official.renamed(tensors, names).items()}


def _shaped(name: str, tensor: Tensor) -> Tensor:
    """Matrices are 1x1 convolutions there, and prototypes have a dimension for the batch."""
    if "K_list" in name:
        return tensor[None]
    return tensor[:, :, None, None] if tensor.ndim == 2 else tensor


@pytest.fixture
def pixels(train: list[Sample]) -> Tensor:
    return feature_cache.load_images(train, SIZE, None)[range(IMAGES)]  # (IMAGES, 3, SIZE, SIZE) uint8


@pytest.fixture
def masks() -> tuple[Tensor, Tensor]:
    """Masks of anomalies and of the object. They cover few enough positions that no loss draws a part of them."""
    anomalies, foregrounds = (torch.zeros(IMAGES, SIZE, SIZE, dtype=torch.bool) for _ in range(2))
    anomalies[0, 90:140, 70:131] = True
    anomalies[1, 30:61, 100:122] = True
    foregrounds[:, 20:160, 40:200] = True
    return anomalies, foregrounds


def test_position_codes_are_the_same(both: SimpleNamespace, compare: Any) -> None:
    """The official code computes them in float32."""
    codes = [stage.pos_enc[0].movedim(0, -1) for stage in stages(both)]
    compare("position codes", codes, [stage.position_code for stage in both.amplifiers.stages], FLOAT32)


def stages(both: SimpleNamespace) -> list[Any]:
    return [both.amplified.feat_recons_a, both.amplified.feat_recons_b, both.amplified.feat_recons_c]


@pytest.fixture
def same_codes(both: SimpleNamespace) -> None:
    """Give the official code our position codes, so that their rounding does not count."""
    for stage, ours in zip(stages(both), both.amplifiers.stages, strict=True):
        stage.pos_enc = [ours.position_code.movedim(-1, 0)]


@pytest.mark.usefixtures("same_codes")
def test_features_gates_and_residuals_are_the_same(both: SimpleNamespace, pixels: Tensor, compare: Any) -> None:
    images = both.teacher.normalise(pixels)
    with torch.no_grad():
        features, amplified, residuals, gates = both.amplified(images, flag=True)
        ours = both.teacher(images)
        outputs = both.amplifiers(ours)
        compare("teacher's features", features, ours, FLOAT64)
        compare("gates", gates, [output.logit.sigmoid().flatten(1)[..., None] for output in outputs], FLOAT64)
        gated = [output.logit.sigmoid()[:, None] * output.residual for output in outputs]
        compare("residuals times gates", residuals, gated, FLOAT64)
        compare("amplified features", amplified, AmplifiedTeacher(both.teacher, both.amplifiers)(images), FLOAT64)


@pytest.mark.usefixtures("same_codes")
def test_ten_steps_of_stage_1_give_the_same_amplifiers(
    code: SimpleNamespace,
    both: SimpleNamespace,
    pixels: Tensor,
    masks: tuple[Tensor, Tensor],
    compare: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ten epochs of one batch, in which the learning rate falls twice."""
    anomalies, foregrounds = masks
    order = batches(IMAGES, IMAGES, both.context.seed)
    images = both.teacher.normalise(pixels)
    prepared = [
        {"img": images[batch], "anomaly_mask": anomalies[batch, None].double(),
         "fore_mask": foregrounds[batch, None].double()}
        for batch in order
    ]  # fmt: skip
    result: dict[str, list[Tensor]] = {"focal": [], "amplify": []}

    def focal(*arguments: Any) -> Any:
        values = code.loss.get_focal_loss(*arguments)
        result["focal"].append(values[0].detach())
        return values

    def amplify(*arguments: Any) -> Any:
        values = code.loss.get_amplify_loss(*arguments)
        result["amplify"].append(0.1 * values[1].detach())
        return values

    monkeypatch.setattr(code.train, "get_focal_loss", focal)
    monkeypatch.setattr(code.train, "get_amplify_loss", amplify)
    official_training(code, both, "AnomalyDataset", prepared, monkeypatch)
    code.train.train_Stage1(ARGUMENTS, "bottle", epochs=STEPS, lr=both.method.learning_rate)

    given = iter(anomalies[batch] for batch in order)
    monkeypatch.setattr(aand, "synthesise", lambda images, foreground, textures, rng: (images, next(given)))
    rows = feature_cache.Rows([pixels], [(0, row) for row in range(IMAGES)])
    unfused(both.method, monkeypatch)
    history, _ = both.method._train(both.amplifiers, both.teacher, rows, foregrounds, rows, STEPS, both.context)
    ours = {name: torch.tensor([epoch["terms"][name] for epoch in history], dtype=torch.float64) for name in result}
    compare("losses of ten steps of stage 1", {k: torch.stack(v) for k, v in result.items()}, ours, GROWN)
    tensors, state = official_amplifiers(both.amplifiers.state_dict()), both.amplified.state_dict()
    compare("amplifiers after ten steps", {name: state[name] for name in tensors}, tensors, GROWN)


@pytest.mark.usefixtures("same_codes")
def test_ten_steps_of_stage_2_give_the_same_student(
    code: SimpleNamespace, both: SimpleNamespace, pixels: Tensor, compare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = batches(IMAGES, IMAGES, both.context.seed)
    images = both.teacher.normalise(pixels)
    theirs: list[Tensor] = []

    def loss_function(*features: Any) -> Tensor:
        theirs.append(code.loss.loss_fucntion(*features))
        return theirs[-1]

    Path("checkpoints_Stage1").mkdir()
    torch.save({"encoder_AT": both.amplified.state_dict()}, "checkpoints_Stage1/wres50_bottle.pth")
    monkeypatch.setattr(code.train, "loss_fucntion", loss_function)
    official_training(code, both, "TrainDataset", [[images[batch]] for batch in order], monkeypatch)
    code.train.train_Stage2(ARGUMENTS, "bottle", epochs=STEPS, lr=both.method.learning_rate)

    target = AmplifiedTeacher(both.teacher, both.amplifiers)
    losses = []

    def terms(batch: Sequence[int]) -> dict[str, Tensor]:
        features = target(images[batch])
        terms = both.method.loss_terms(features, both.student(features))
        losses.append(sum(terms.values()))
        return terms

    train_loop.optimise(
        both.student, both.method.make_optimiser(both.student, fused=False), terms, IMAGES, epochs=STEPS,
        batch_size=IMAGES, learning_rate=both.method.learning_rate_at, context=Context(), checkpoint=None, fit_id="",
    )  # fmt: skip
    compare("losses of ten steps of stage 2", torch.stack(theirs), torch.stack(losses), GROWN)
    compare_students("student after ten steps", lambda network: network.state_dict(), both, compare, 1e-7)

    for network in (both.bn, both.decoder, both.student):
        network.eval()
    with torch.no_grad():
        features = target(images)
        maps = both.method.anomaly_map(features, both.student(features))
        raw = [code.test.cal_anomaly_map(one, both.decoder(both.bn(one)), SIZE, amap_mode="a")[0]
               for one in ([level[[row]] for level in features] for row in range(IMAGES))]  # fmt: skip
    compare("anomaly maps", np.stack([code.test.gaussian_filter(one, sigma=4) for one in raw]), maps, FLOAT32)


def official_training(
    code: SimpleNamespace, both: SimpleNamespace, dataset: str, epochs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prepare the official training: the networks of `both`, one given batch in each epoch, no evaluation."""
    monkeypatch.setattr(code.train, "wide_resnet50_2", lambda pretrained: (both.encoder, None))
    monkeypatch.setattr(code.train, "wide_resnet50_2_rar", lambda pretrained: (both.amplified, both.bn))
    monkeypatch.setattr(code.train, "de_wide_resnet50_2", lambda pretrained: both.decoder)
    monkeypatch.setattr(code.train, dataset, lambda **_: official.Batches([[batch] for batch in epochs]), raising=False)
    monkeypatch.setattr(code.train, "TestDataset", lambda **_: None, raising=False)
    for stage in ("evaluation_Stage1", "evaluation_Stage2"):
        monkeypatch.setattr(code.train, stage, lambda *_: (0.0, 0.0, 0.0, [0.0], [0.0], -2.0))


def unfused(method: AAND, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the Adam of the official code, which sums in another order than the fused one."""
    make_optimiser = type(method).make_optimiser
    monkeypatch.setattr(method, "make_optimiser", lambda network, fused: make_optimiser(method, network, False))
