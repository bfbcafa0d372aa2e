"""AAND: every part of both stages against slow references from the equations, selection, resumption, bad input."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_methods import create, samples
from torch import Tensor, nn

from methods.aand import hardest_distance
from methods.base import Context, InputError, Method, Prediction, Progress, Sample
from methods.components import amplification, feature_cache, teachers, train_loop
from methods.components.amplification import (
    AmplifiedTeacher,
    Amplifier,
    AmplifierOutput,
    Amplifiers,
    amplification_loss,
    focal_loss,
    gate_map,
    losses,
    perceptron,
    pool_mask,
    position_code,
)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b) / float(np.sqrt(a @ a) * np.sqrt(b @ b))


def assert_slopes_equal(loss: Callable[[Tensor], Tensor], slow: Callable[[np.ndarray], float], at: Tensor) -> None:
    """The gradient that autograd gives of the loss is the slope of the slow reference, at every entry."""
    variable = at.clone().requires_grad_()
    value = loss(variable)
    assert value.item() == pytest.approx(slow(at.numpy()), rel=1e-9)
    value.backward()
    assert variable.grad is not None
    for position in np.ndindex(*at.shape):
        above, below = at.numpy().copy(), at.numpy().copy()
        above[position] += 1e-6
        below[position] -= 1e-6
        assert variable.grad[position].item() == pytest.approx((slow(above) - slow(below)) / 2e-6, rel=1e-4, abs=1e-8)


# Stage 1: the gate and the generator


def slow_output(amplifier: Amplifier, feature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gate and residual of one image, position by position, from the amplifier's weights alone."""

    def layers(network: nn.Sequential, vector: np.ndarray) -> np.ndarray:
        for number, index in enumerate((0, 2, 4)):
            layer: Any = network[index]
            vector = layer.weight.detach().numpy() @ vector + layer.bias.detach().numpy()
            vector = vector if number == 2 else np.maximum(vector, 0)
        return vector

    channels, height, width = feature.shape
    prototypes = amplifier.prototypes.detach().numpy()
    gate, residual = np.zeros((height, width)), np.zeros_like(feature)
    for y, x in np.ndindex(height, width):
        f = feature[:, y, x]
        code = np.zeros(channels)
        for i in range(0, channels // 2, 2):
            for offset, position in ((0, x), (channels // 2, y)):
                angle = position / 10000 ** (i / (channels // 2))
                code[offset + i], code[offset + i + 1] = np.sin(angle), np.cos(angle)
        query = layers(amplifier.query, f + code)
        power = np.exp([cosine(query, key) / 0.2 for key in prototypes])
        gate[y, x] = (power / power.sum())[len(prototypes) // 2 :].sum()
        residual[:, y, x] = np.tanh(layers(amplifier.scale, f)) * f
    return gate, residual


def test_gate_and_residual_equal_the_definition_at_every_position() -> None:
    torch.manual_seed(0)
    amplifier = Amplifier(8, 3, prototypes=5, temperature=0.2).double()
    feature = random(1, 2, 8, 3, 3)
    logit, residual = amplifier(feature)
    for image in range(2):
        gate, generated = slow_output(amplifier, feature[image].numpy())
        np.testing.assert_allclose(logit[image].sigmoid().detach(), gate, rtol=1e-6)
        np.testing.assert_allclose(residual[image].detach(), generated, rtol=1e-6)


def test_the_gradients_of_gate_and_residual_are_their_slopes() -> None:
    torch.manual_seed(0)
    amplifier = Amplifier(4, 2, prototypes=3, temperature=0.2).double()

    def output(*parameters: Tensor) -> tuple[Tensor, Tensor]:
        names = [name for name, _ in amplifier.named_parameters()]
        logit, residual = torch.func.functional_call(amplifier, dict(zip(names, parameters, strict=True)), (feature,))
        return logit, residual

    feature = random(2, 1, 4, 2, 2)
    parameters = tuple(p.detach().clone().requires_grad_() for p in amplifier.parameters())
    assert torch.autograd.gradcheck(output, parameters)


def test_an_amplifier_of_wide_resnet_50_has_the_stated_parts() -> None:
    """Per stage two perceptrons C, H, H, C with H = min(2C, 1024), and 100 prototypes."""
    teacher = teachers.load("wide_resnet50_2.untrained", {})
    network = Amplifiers(teacher, 256, prototypes=50, temperature=0.2)
    stated = []
    for channels, width in ((256, 512), (512, 1024), (1024, 1024)):
        layers = channels * width + width + width * width + width + width * channels + channels
        stated.append(2 * layers + 100 * channels)
    assert stated == [1_076_736, 4_250_624, 6_400_000]
    assert [sum(p.numel() for p in stage.parameters()) for stage in network.stages] == stated
    amplified = AmplifiedTeacher(teacher, network)
    shapes = [tuple(level.shape) for level in amplified(torch.zeros(1, 3, 256, 256))]
    assert shapes == [(1, 256, 64, 64), (1, 512, 32, 32), (1, 1024, 16, 16)]


def test_the_amplified_teacher_adds_gate_times_residual_and_passes_the_plain_feature_on() -> None:
    teacher = teachers.load("test_resnet.untrained", {})
    torch.manual_seed(0)
    network = Amplifiers(teacher, 64, prototypes=5, temperature=0.2)
    images = random(3, 2, 3, 64, 64).float()
    features = teacher(images)
    amplified = AmplifiedTeacher(teacher, network)(images)
    for stage, feature, level in zip(network.stages, features, amplified, strict=True):
        logit, residual = stage(feature)  # of the teacher's own feature, at every stage
        torch.testing.assert_close(level, (feature + logit.sigmoid()[:, None] * residual).detach())
        assert not torch.equal(level, feature)
        assert not level.requires_grad


def test_a_position_code_differs_at_every_position_and_needs_a_multiple_of_four_channels() -> None:
    code = position_code(32, 16)
    assert code.shape == (16, 16, 32)
    assert len(code.flatten(0, 1).unique(dim=0)) == 256
    with pytest.raises(InputError, match="stage of 30 channels"):
        position_code(30, 4)


def test_a_gate_map_is_the_sum_of_the_gates_at_image_size() -> None:
    outputs = [AmplifierOutput(random(k, 1, side, side), random(k, 1, 4, side, side)) for k, side in enumerate((8, 4))]
    expected = sum(
        nn.functional.interpolate(a.logit.sigmoid()[:, None], (32, 32), mode="bilinear", align_corners=True)
        for a in outputs
    )
    torch.testing.assert_close(gate_map(outputs, 32), expected[:, 0])


# Stage 1: masks and losses


def test_a_cell_is_abnormal_if_the_mask_covers_more_than_three_tenths_of_it() -> None:
    masks = torch.from_numpy(np.random.default_rng(0).random((3, 16, 16)) < 0.3)
    pooled = pool_mask(masks, 4)
    for b, y, x in np.ndindex(3, 4, 4):
        cell = masks[b, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
        assert pooled[b, y, x].item() == (cell.sum().item() / 16 > 0.3)
    assert 0 < pooled.float().mean() < 1


def test_the_focal_loss_and_its_gradient_equal_the_equation() -> None:
    abnormal = random(1, 2, 3, 3) > 0.5

    def slow(logit: np.ndarray) -> float:
        total = 0.0
        for position in np.ndindex(*logit.shape):
            gate = 1 / (1 + np.exp(-logit[position]))
            p, alpha = (gate, 0.8) if abnormal[position] else (1 - gate, 0.2)
            total -= alpha * (1 - p) ** 2 * np.log(p)
        return total / logit.size

    assert_slopes_equal(lambda logit: focal_loss(logit, abnormal), slow, 2 * random(0, 2, 3, 3))


def slow_amplify(feature: np.ndarray, amplified: np.ndarray, abnormal: np.ndarray, foreground: np.ndarray) -> float:
    positions = list(np.ndindex(*abnormal.shape))
    n = [(b, y, x) for b, y, x in positions if foreground[b, y, x] and not abnormal[b, y, x]]
    a = [(b, y, x) for b, y, x in positions if abnormal[b, y, x]]
    gaps = []
    for i, j, k in n:
        for b, y, x in a:
            before = cosine(feature[i, :, j, k], feature[b, :, y, x])
            gaps.append(max(0.0, cosine(feature[i, :, j, k], amplified[b, :, y, x]) - (before - 0.3)))
    return sum(gaps) / len(gaps)


def test_the_amplification_loss_and_its_gradient_equal_the_equation() -> None:
    feature, amplified = random(0, 2, 4, 3, 3), random(1, 2, 4, 3, 3)
    abnormal, foregrounds = random(2, 2, 3, 3) > 0.5, random(3, 2, 3, 3) > -0.5
    assert_slopes_equal(
        lambda variable: amplification_loss(feature, variable, abnormal, foregrounds, 0.3),
        lambda variable: slow_amplify(feature.numpy(), variable, abnormal.numpy(), foregrounds.numpy()),
        amplified,
    )


def test_the_amplification_loss_samples_at_most_the_stated_number_of_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amplification, "MAX_NORMAL", 3)
    monkeypatch.setattr(amplification, "MAX_ABNORMAL", 2)
    feature, amplified = random(0, 1, 4, 4, 4), random(1, 1, 4, 4, 4).requires_grad_()
    abnormal = random(2, 1, 4, 4) > 0
    torch.manual_seed(0)
    amplification_loss(feature, amplified, abnormal, torch.ones_like(abnormal), 2.0).backward()
    assert amplified.grad is not None
    reached = amplified.grad.abs().sum(1) > 0  # (1, 4, 4): with this margin every sampled position has a slope
    assert reached.sum() == 2
    assert not (reached & ~abnormal).any()


@pytest.mark.parametrize("abnormal", [False, True])
def test_without_a_pair_of_positions_the_amplification_loss_is_zero_and_can_be_trained(abnormal: bool) -> None:
    feature, amplified = random(0, 1, 4, 3, 3), random(1, 1, 4, 3, 3).requires_grad_()
    everywhere = torch.full((1, 3, 3), abnormal)
    loss = amplification_loss(feature, amplified, everywhere, torch.ones_like(everywhere), 0.3)
    assert loss.item() == 0
    loss.backward()
    assert amplified.grad is not None
    assert not amplified.grad.any()


def test_the_losses_sum_over_stages_with_the_true_mask_in_place_of_the_gate() -> None:
    features = [random(0, 2, 4, 8, 8), random(1, 2, 8, 4, 4)]
    outputs = [AmplifierOutput(random(k, 2, *f.shape[2:]), random(k + 5, *f.shape)) for k, f in enumerate(features)]
    masks, foregrounds = torch.zeros(2, 32, 32, dtype=torch.bool), torch.ones(2, 8, 8, dtype=torch.bool)
    masks[0, :16, 8:24] = True
    foregrounds[1, :4] = False
    focal, amplify = losses(features, outputs, masks, foregrounds, 0.3)
    expected = 0.0
    for feature, output in zip(features, outputs, strict=True):
        side = feature.shape[-1]
        abnormal, foreground = pool_mask(masks, side).numpy(), pool_mask(foregrounds, side).numpy()
        amplified = feature.numpy() + abnormal[:, None] * output.residual.numpy()
        expected += slow_amplify(feature.numpy(), amplified, abnormal, foreground)
    assert amplify.item() == pytest.approx(expected, rel=1e-9)
    stages = [focal_loss(a.logit, pool_mask(masks, a.logit.shape[-1])) for a in outputs]
    assert focal.item() == pytest.approx(sum(stage.item() for stage in stages), rel=1e-9)


# Stage 2


@pytest.mark.parametrize("number", [1, 4, 100])
def test_the_hardest_distance_and_its_gradient_equal_the_equation(number: int) -> None:
    teacher = random(0, 2, 4, 3, 3)

    def slow(student: np.ndarray) -> float:
        means = []
        for b in range(2):
            distances = [1 - cosine(teacher[b, :, y, x].numpy(), student[b, :, y, x]) for y, x in np.ndindex(3, 3)]
            means.append(np.mean(sorted(distances)[-number:]))
        return float(np.mean(means))

    assert_slopes_equal(lambda student: hardest_distance(teacher, student, number), slow, random(1, 2, 4, 3, 3))


def test_stage_two_sums_the_hardest_and_the_flat_distance_of_every_level() -> None:
    method: Any = create("aand")
    teacher, student = ([random(seed + k, 2, 4, 8, 8) for k in range(3)] for seed in (0, 5))
    terms = method.loss_terms(teacher, student)
    assert list(terms) == ["level1", "level2", "level3", "hard1", "hard2", "hard3"]
    for k, (t, s) in enumerate(zip(teacher, student, strict=True), 1):
        flat = np.mean([1 - cosine(t[b].flatten().numpy(), s[b].flatten().numpy()) for b in range(2)])
        assert terms[f"level{k}"].item() == pytest.approx(flat, rel=1e-9)
        assert terms[f"hard{k}"].item() == pytest.approx(hardest_distance(t, s, 10).item(), rel=1e-9)
    plain: Any = create("aand", hardest=0)
    assert list(plain.loss_terms(teacher, student)) == ["level1", "level2", "level3"]


def test_the_learning_rate_falls_to_a_fifth_after_80_and_again_after_90_percent_of_the_epochs() -> None:
    method: Any = create("aand", epochs=120)
    rates = [method.learning_rate_at(epoch) for epoch in range(1, 121)]
    optimiser = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=0.005)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [96, 108], 0.2)
    expected = []
    for _ in range(120):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert rates == pytest.approx(expected, rel=1e-12)


# The whole


def test_an_amplifier_learns_a_high_gate_on_anomalies_and_moves_them_away_from_normal() -> None:
    """Normal features lie around one direction, abnormal ones around a near one."""
    torch.manual_seed(0)
    amplifier = Amplifier(16, 8, prototypes=5, temperature=0.2)
    optimiser = torch.optim.Adam(amplifier.parameters(), 0.005, (0.5, 0.999))
    abnormal = torch.rand(4, 8, 8) < 0.2
    everywhere = torch.ones_like(abnormal)
    direction = torch.ones(16, 1, 1)
    direction[:4] = -1
    feature = torch.where(abnormal[:, None], direction, 1.0) + 0.3 * torch.randn(4, 16, 8, 8)
    before = amplification_loss(feature, feature, abnormal, everywhere, 0.3).item()
    for _ in range(60):
        logit, residual = amplifier(feature)
        apart = amplification_loss(feature, feature + abnormal[:, None] * residual, abnormal, everywhere, 0.3)
        optimiser.zero_grad()
        (focal_loss(logit, abnormal) + 0.1 * apart).backward()
        optimiser.step()
    assert ((logit > 0) == abnormal).float().mean() > 0.99
    assert before == pytest.approx(0.3, abs=0.01)
    assert apart.item() < 0.05


def test_the_student_is_compared_with_the_amplified_features() -> None:
    method: Any = create("aand").fit(samples(4), [], Context())
    assert isinstance(method.target_, AmplifiedTeacher)
    pixels = torch.stack(
        [torch.from_numpy(np.asarray(image)) for image in feature_cache.load_images(samples(2), 64, None)[[0, 1]]]
    )
    features = method.target_(method.target_.normalise(pixels))
    with torch.no_grad():
        maps = method.anomaly_map(features, method.student_.eval()(features))
    for prediction, expected in zip(method.predict(samples(2), Context()), maps, strict=True):
        torch.testing.assert_close(prediction.anomaly_map, expected, rtol=1e-4, atol=1e-5)


def test_without_amplification_and_hard_loss_aand_is_rd() -> None:
    maps = [
        list(create(name, **values).fit(samples(5), [], Context()).predict(samples(2, "test"), Context()))
        for name, values in (("rd", {}), ("aand", {"amplification_epochs": 0, "hardest": 0}))
    ]
    for rd, aand in zip(*maps, strict=True):
        torch.testing.assert_close(rd.anomaly_map, aand.anomaly_map)


@pytest.mark.parametrize(
    ("values", "epochs"), [({"epochs": 6}, 5), ({"epochs": 1}, 1), ({"amplification_epochs": 3}, 3)]
)
def test_stage_one_has_100_epochs_for_every_120_unless_amplification_epochs_is_set(
    values: dict[str, int], epochs: int
) -> None:
    record = create("aand", **values).fit(samples(3), [], Context()).record
    assert [entry["epoch"] for entry in record["amplification"]["history"]] == list(range(1, epochs + 1))


def test_the_record_states_the_textures_and_foregrounds(tmp_path: Path) -> None:
    record = create("aand").fit(samples(3), [], Context()).record["amplification"]
    assert record["textures"] == "256 procedural (no folder given)"
    assert record["foregrounds"] == "estimated in 0 of 3 images, the whole image in the others"
    Image.new("RGB", (90, 70), (1, 2, 3)).save(tmp_path / "grey.png")
    record = create("aand", texture_folder=str(tmp_path)).fit(samples(3), [], Context()).record["amplification"]
    assert record["textures"] == f"1 of {tmp_path}"


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("stop", [("amplify", 2), ("amplify", 3), ("fit", 2)])
def test_a_fit_interrupted_in_either_stage_resumes_bit_for_bit(
    stop: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_loop, "CHECKPOINT_SECONDS", 0)

    def interrupt(progress: Progress) -> None:
        if (progress.phase, progress.done) == stop:
            raise Interrupted

    def maps(method: Method) -> Tensor:
        return torch.stack([prediction.anomaly_map for prediction in method.predict(samples(2, "test"), Context())])

    def fresh() -> Method:
        return create("aand", epochs=3, amplification_epochs=3)

    whole = maps(fresh().fit(samples(5), [], Context(seed=5)))
    context = Context(seed=5, checkpoint=tmp_path / "checkpoint.pt")
    with pytest.raises(Interrupted):
        fresh().fit(samples(5), [], replace(context, progress=interrupt))
    reports: list[tuple[str, int]] = []
    resumed = fresh().fit(
        samples(5), [], replace(context, progress=lambda report: reports.append((report.phase, report.done)))
    )
    every = [("amplify", 1), ("amplify", 2), ("amplify", 3), ("fit", 1), ("fit", 2), ("fit", 3)]
    assert reports == every[every.index(stop) + 1 :]
    assert torch.equal(maps(resumed), whole)


def test_the_oracle_keeps_the_gates_with_the_highest_pixel_ap_and_evaluates_their_maps() -> None:
    pixel_aps = iter([0.2, 0.6, 0.4])
    received: list[Prediction] = []

    def evaluate_test(predict: Callable[[Sequence[Sample]], Iterator[Prediction]]) -> Mapping[str, float]:
        received.extend(predict(samples(3, "test")))
        return {"pixel_ap": next(pixel_aps, 0.0), "image_auroc": 0.5}

    method = create("aand", epochs=1, amplification_epochs=6, selection="oracle")
    record = method.fit(samples(4), [], Context(evaluate_test=evaluate_test, evaluate_every=2)).record["amplification"]
    assert record["epoch"] == 4
    assert [entry["measured"].get("pixel_ap") for entry in record["history"]] == [None, 0.2, None, 0.6, None, 0.4]
    gates = torch.stack([prediction.anomaly_map for prediction in received[:9]])
    assert gates.shape == (9, 64, 64)
    assert gates.min() >= 0
    assert gates.max() <= 3
    assert (
        create("aand", epochs=1, amplification_epochs=6).fit(samples(4), [], Context()).record["amplification"]["epoch"]
        == 6
    )


@pytest.mark.parametrize("size", [64, 96])
def test_every_multiple_of_32_works(size: int) -> None:
    method = create("aand", image_size=size, epochs=1).fit(samples(2), [], Context())
    assert [prediction.anomaly_map.shape for prediction in method.predict(samples(1, "test"), Context())] == [
        (size, size)
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", 0.0),
        ("temperature", float("nan")),
        ("prototypes", 0),
        ("amplification_epochs", -1),
        ("amplify_weight", -0.1),
        ("hardest", -1),
        ("margin", -0.1),
        ("margin", 2.5),
    ],
)
def test_a_hyper_parameter_out_of_range_is_refused_by_name(key: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{key}={value}; "):
        create("aand", **{key: value})


def test_a_texture_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="contains no image"):
        create("aand", texture_folder=str(tmp_path)).fit(samples(2), [], Context())


def test_the_official_initialisation_starts_with_residuals_half_as_large_as_the_features() -> None:
    """On features of unit scale behind a ReLU; with torch's default the residuals are a twentieth."""
    features = random(0, 500, 256).relu().float()
    for init, expected in (("kaiming", 0.54), ("default", 0.06)):
        torch.manual_seed(0)
        network = perceptron(256, init)
        assert network(features).tanh().abs().mean().item() == pytest.approx(expected, abs=0.02)
        assert all(layer.bias.abs().max() > 0 for layer in network if isinstance(layer, nn.Linear))
    torch.manual_seed(0)
    weights = [layer.weight for layer in perceptron(256) if isinstance(layer, nn.Linear)]
    assert [round(weight.std().item() * weight.shape[0] ** 0.5, 1) for weight in weights] == [1.4] * 3  # sqrt(2)


@pytest.mark.parametrize("init", ["kaiming", "default"])
def test_the_initialisation_of_the_amplifiers_is_a_hyper_parameter(init: str) -> None:
    method: Any = create("aand", amplifier_init=init, amplification_epochs=1, learning_rate=1e-12)
    method.fit(samples(2), [], Context())
    weight = method.target_.amplifiers.stages[2].query[0].weight  # as it started: the learning rate is next to nothing
    fan_in, fan_out = weight.shape[1], weight.shape[0]
    assert weight.std().item() == pytest.approx((2 / fan_out if init == "kaiming" else 1 / 3 / fan_in) ** 0.5, rel=0.05)


def test_a_perceptron_is_at_most_1024_wide() -> None:
    widths = {channels: perceptron(channels)[2].in_features for channels in (64, 256, 512, 1024)}
    assert widths == {64: 128, 256: 512, 512: 1024, 1024: 1024}
