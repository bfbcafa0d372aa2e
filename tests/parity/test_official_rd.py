"""RD beside the official code, hq-deng/RD4AD: a ResNet-18 with random weights on images of 64 pixels."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
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
from methods.rd import RD
from parity import official

CODE = "RD4AD"
SIZE = 64
TEACHER = "resnet18.random"
STEPS = 10
BOTTLENECK = {
    "fuse.0.0.": "conv1.", "fuse.0.1.": "bn1.", "fuse.0.3.": "conv2.", "fuse.0.4.": "bn2.",
    "fuse.1.0.": "conv3.", "fuse.1.1.": "bn3.", "embed.": "bn_layer.",
}  # fmt: skip
DECODER = {"downsample": "upsample", "stages.0.": "layer1.", "stages.1.": "layer2.", "stages.2.": "layer3."}
FLOAT32 = 1e-5  # sums in another order
FLOAT64 = 1e-12
EXACT = 1e-9

pytestmark = pytest.mark.parity


class Finished(Exception):
    """Ends the official training, which has 200 epochs, after the evaluation that follows the tenth."""


@pytest.fixture
def code() -> SimpleNamespace:
    names = ("main", "test", "dataset", "resnet", "de_resnet")
    return SimpleNamespace(**dict(zip(names, official.load("RD4AD", *names), strict=True)))


@pytest.fixture
def both(code: SimpleNamespace, weights: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Teacher and student of both codes, with the same weights."""
    file = weights("resnet18")
    monkeypatch.setattr(code.resnet, "load_state_dict_from_url", lambda url, progress: load_file(file))
    encoder, bn = code.resnet.resnet18(pretrained=True)
    decoder = code.de_resnet.de_resnet18()
    context = Context(weights={TEACHER: file})
    method = RD(teacher=TEACHER, image_size=SIZE, epochs=STEPS, batch_size=16)
    teacher = teachers.load(TEACHER, context.weights)
    train_loop.seed(context.seed, 0)
    student = method.build_student(teacher)
    unused = bn.load_state_dict(official.renamed(student.bottleneck.state_dict(), BOTTLENECK), strict=False)
    assert not unused.unexpected_keys
    assert {key.partition(".")[0] for key in unused.missing_keys} == {
        "conv4",
        "bn4",
    }  # the official code never calls them
    decoder.load_state_dict(official.renamed(student.decoder.state_dict(), DECODER))
    return SimpleNamespace(
        encoder=encoder.eval(), bn=bn, decoder=decoder, method=method, teacher=teacher, student=student, context=context
    )


@pytest.fixture
def images(both: SimpleNamespace, train: list[Sample]) -> Tensor:
    return both.teacher.normalise(feature_cache.load_images(train, SIZE, None)[range(len(train))])


def train_officially(
    code: SimpleNamespace, both: SimpleNamespace, epochs: list[Tensor], test: list[Any], monkeypatch: pytest.MonkeyPatch
) -> SimpleNamespace:
    """Run the official training on one batch in each epoch, and return its losses, metrics and anomaly maps."""
    result = SimpleNamespace(losses=[], maps=[])

    def loss_function(*features: Any) -> Tensor:
        result.losses.append(original_loss(*features))
        return result.losses[-1]

    def blur(*arguments: Any, **how: Any) -> Any:
        result.maps.append(original_blur(*arguments, **how))
        return result.maps[-1]

    def evaluation(*arguments: Any) -> None:
        if test:
            result.metrics = code.test.evaluation(*arguments)
        raise Finished

    original_loss, original_blur = code.main.loss_fucntion, code.test.gaussian_filter
    monkeypatch.setattr(code.main, "wide_resnet50_2", lambda pretrained: (both.encoder, both.bn))
    monkeypatch.setattr(code.main, "de_wide_resnet50_2", lambda pretrained: both.decoder)
    monkeypatch.setattr(code.main, "ImageFolder", lambda **_: official.Batches([[(batch, 0)] for batch in epochs]))
    monkeypatch.setattr(code.main, "MVTecDataset", lambda **_: test)
    monkeypatch.setattr(code.main, "loss_fucntion", loss_function)
    monkeypatch.setattr(code.main, "evaluation", evaluation)
    monkeypatch.setattr(code.test, "gaussian_filter", blur)
    with pytest.raises(Finished):
        code.main.train("bottle")
    return result


def batches(images: int, batch_size: int, seed: int) -> list[list[int]]:
    """The images of Proctor's one batch in each epoch, in their order."""
    chosen = []
    for epoch in range(1, STEPS + 1):
        train_loop.seed(seed, epoch)
        (batch,) = torch.randperm(images).split(batch_size)
        chosen.append(batch.tolist())
    return chosen


def test_images_and_masks_are_the_same(
    code: SimpleNamespace, mvtec: MVTecAD, both: SimpleNamespace, compare: Any
) -> None:
    transforms = code.dataset.get_data_transforms(256, 256)
    theirs = code.dataset.MVTecDataset(f"{mvtec.root}/bottle", *transforms, phase="test")
    rows = {Path(path): row for row, path in enumerate(theirs.img_paths)}
    items = mvtec.items("bottle", "test")
    pairs = [theirs[rows[item.image]][:2] for item in items]
    ours = feature_cache.load_images([mvtec.sample(item) for item in items], 256, None)[range(len(items))]
    compare("images, 256 px", [image for image, _ in pairs], list(both.teacher.normalise(ours)), 0)
    masks = fit_masks([mvtec.truth(item).mask for item in items], [(256, 256)] * len(items), "mask>0.5")
    compare("masks of `rd_official`", [mask[0] > 0.5 for _, mask in pairs], masks, 0)


def test_features_loss_and_gradients_are_the_same(
    code: SimpleNamespace, both: SimpleNamespace, images: Tensor, compare: Any
) -> None:
    features, ours = both.encoder(images), both.teacher(images)
    compare("teacher's features", features, ours, FLOAT32)
    outputs, student = both.decoder(both.bn(features)), both.student(ours)
    compare("student's features", outputs, student, FLOAT32)
    loss = code.main.loss_fucntion(features, outputs)
    our_loss = sum(both.method.loss_terms(ours, student).values())
    compare("loss", loss, our_loss, FLOAT32)
    loss.backward()
    our_loss.backward()
    compare_students("gradients", official.gradients, both, compare, FLOAT32)
    compare_students("batch norm's statistics", lambda network: dict(network.named_buffers()), both, compare, FLOAT32)


def compare_students(what: str, tensors: Any, both: SimpleNamespace, compare: Any, tolerance: float) -> None:
    """Compare tensors of the official bottleneck and decoder with those of the student."""
    theirs, ours = tensors(both.bn), official.renamed(tensors(both.student.bottleneck), BOTTLENECK)
    theirs = {name: tensor for name, tensor in theirs.items() if not name.startswith(("conv4", "bn4"))}
    decoder = official.renamed(tensors(both.student.decoder), DECODER)
    assert theirs.keys() == ours.keys()
    assert tensors(both.decoder).keys() == decoder.keys()
    compare(what, [theirs, tensors(both.decoder)], [ours, decoder], tolerance)


def test_ten_steps_of_the_official_training_give_the_same_weights(
    code: SimpleNamespace, both: SimpleNamespace, images: Tensor, compare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, where what remains is not rounding but a difference in the equations."""
    for network in (both.encoder, both.bn, both.decoder, both.teacher, both.student):
        network.double()
    images = images.double()
    order = batches(len(images), 16, seed=0)
    theirs = train_officially(code, both, [images[batch] for batch in order], [], monkeypatch)
    losses = []

    def terms(batch: Any) -> dict[str, Tensor]:
        features = both.teacher(images[batch])
        terms = both.method.loss_terms(features, both.student(features))
        losses.append(sum(terms.values()))
        return terms

    train_loop.optimise(
        both.student, both.method.make_optimiser(both.student, fused=False), terms, len(images), epochs=STEPS,
        batch_size=16, learning_rate=both.method.learning_rate_at, context=Context(), checkpoint=None, fit_id="",
    )  # fmt: skip
    compare("losses of ten steps, float64", torch.stack(theirs.losses), torch.stack(losses), FLOAT64)
    compare_students("weights after ten steps, float64", lambda network: network.state_dict(), both, compare, FLOAT64)


def test_maps_are_the_same(code: SimpleNamespace, both: SimpleNamespace, images: Tensor, compare: Any) -> None:
    for network in (both.bn, both.decoder, both.student):
        network.eval()
    with torch.no_grad():
        maps = both.method.anomaly_map(both.teacher(images), both.student(both.teacher(images)))
        theirs = []
        for image in images.split(1):
            features = both.encoder(image)
            raw, _ = code.test.cal_anomaly_map(features, both.decoder(both.bn(features)), SIZE, amap_mode="a")
            theirs.append(code.test.gaussian_filter(raw, sigma=4))
    compare("anomaly maps", np.stack(theirs), maps, FLOAT32)


def test_a_whole_run_gives_the_same_maps_and_metrics(
    code: SimpleNamespace,
    both: SimpleNamespace,
    images: Tensor,
    train: list[Sample],
    mvtec: MVTecAD,
    compare: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ten epochs in float32 with the unfused Adam of the official code."""
    transforms = code.dataset.get_data_transforms(SIZE, SIZE)
    test = code.dataset.MVTecDataset(f"{mvtec.root}/bottle", *transforms, phase="test")
    order = batches(len(images), 16, seed=0)
    loader = torch.utils.data.default_collate
    evaluated = [loader([test[row]]) for row in range(len(test))]
    masks = [mask[0, 0].numpy() > 0.5 for _, mask, _, _ in evaluated]
    theirs = train_officially(code, both, [images[batch] for batch in order], evaluated, monkeypatch)

    rows = {item.image: mvtec.sample(item) for item in mvtec.items("bottle", "test")}
    samples = [rows[Path(path)] for path in test.img_paths]
    unfused = type(both.method).make_optimiser
    monkeypatch.setattr(both.method, "make_optimiser", lambda student, fused: unfused(both.method, student, False))
    predictions = list(both.method.fit(train, [], both.context).predict(samples, both.context))
    maps = np.stack([prediction.anomaly_map.numpy() for prediction in predictions])
    compare("maps after ten epochs of a run", np.stack(theirs.maps), maps, 1e-4)  # rounding, grown in ten steps of Adam
    pixels = localization.Pixels(maps, localization.prepare(masks))
    scores = [prediction.score for prediction in predictions]
    values = (
        localization.auroc(pixels),
        detection.auroc(test.labels, scores),
        aupro(pixels, CONVENTIONS["rd_official"]),
    )
    for what, official_value, value in zip(("pixel AUROC", "image AUROC", "PRO"), theirs.metrics, values, strict=True):
        compare(f"{what} of that run, three digits", official_value, round(value, 3), EXACT)


def test_pro_is_the_same(code: SimpleNamespace, mvtec: MVTecAD, compare: Any) -> None:
    truths = [mvtec.truth(item) for item in mvtec.items("bottle", "test")]
    anomalous = [truth.mask for truth in truths if truth.anomalous]
    masks = fit_masks(anomalous, [(256, 256)] * len(anomalous), "mask>0.5")
    rng = np.random.default_rng(0)
    maps = [code.test.gaussian_filter(mask + rng.normal(0, 4, mask.shape), 4) for mask in masks]
    theirs = [code.test.compute_pro(mask[None].astype(int), one[None]) for mask, one in zip(masks, maps, strict=True)]
    pixels = localization.Pixels(maps, localization.prepare(masks))
    compare("PRO of `rd_official`", np.mean(theirs), aupro(pixels, CONVENTIONS["rd_official"]), EXACT)
