"""DSKD against its equations, written as loops."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_distillation import maps
from test_methods import create, samples
from torch import Tensor

import methods
from methods import dskd
from methods.base import Context, InputError
from methods.components import teachers
from methods.dskd import GlobalContextCondensing, contextual_divergence


def affinities(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Equations 3 and 5: a_ij = cos(features_i, others_j), for (C, h, w) maps."""
    a, b = (m.reshape(len(m), -1).T for m in (features, others))
    return np.array([[(i @ j) / math.sqrt((i @ i) * (j @ j)) for j in b] for i in a])


def softmax(row: np.ndarray, temperature: float) -> np.ndarray:
    """Equation 4."""
    powers = [math.exp(value / temperature) for value in row]
    return np.array([power / sum(powers) for power in powers])


def slow_divergence(teacher: np.ndarray, student: np.ndarray, temperature: float) -> np.ndarray:
    """Equation 6 at each position of one level, (B, N)."""
    result = []
    for t, s in zip(teacher, student, strict=True):
        own, crossed = affinities(t, t), affinities(s, t)
        rows = [(softmax(a, temperature), softmax(b, temperature)) for a, b in zip(own, crossed, strict=True)]
        result.append([temperature**2 * sum(p * math.log(p / q) for p, q in zip(*row, strict=True)) for row in rows])
    return np.array(result)


@pytest.mark.parametrize("temperature", [1.0, 0.2])
@pytest.mark.parametrize("max_affinities", [2**20, 20])
def test_the_contextual_divergence_and_its_gradient_equal_equations_3_to_6(
    temperature: float, max_affinities: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(dskd.MAX_AFFINITIES, "cpu", max_affinities)  # 20: one row of 3 x 3 positions at a time
    teacher, student = maps(0, (2, 4, 3, 3))[0], maps(1, (2, 4, 3, 3))[0].requires_grad_()
    divergence = contextual_divergence(teacher, student, temperature)
    expected = slow_divergence(teacher.numpy(), student.detach().numpy(), temperature)
    np.testing.assert_allclose(divergence.detach().flatten(1).numpy(), expected, rtol=1e-8)

    weights = torch.linspace(0.5, 2, 18, dtype=torch.float64).reshape(2, 9)
    (divergence.flatten(1) * weights).sum().backward()
    for at in [(0, 1, 2, 0), (1, 3, 1, 1)]:
        step, ends = 1e-6, []
        for sign in (1, -1):
            shifted = student.detach().numpy().copy()
            shifted[at] += sign * step
            ends.append(float((slow_divergence(teacher.numpy(), shifted, temperature) * weights.numpy()).sum()))
        assert student.grad is not None
        assert student.grad[at].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)


@given(st.integers(0, 10_000), st.floats(0.05, 5))
def test_a_divergence_is_zero_for_the_teacher_itself_and_never_below(seed: int, temperature: float) -> None:
    teacher, student = maps(seed, (1, 3, 4, 2), (1, 3, 4, 2))
    assert contextual_divergence(teacher, teacher, temperature).abs().max() < 1e-10
    assert contextual_divergence(teacher, student, temperature).min() > -1e-10


def test_only_a_few_rows_of_the_affinities_are_kept_for_the_backward_pass() -> None:
    student = torch.randn(1, 8, 64, 64, requires_grad=True)  # 4096 positions: 64 MiB of affinities
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        contextual_divergence(torch.randn(1, 8, 64, 64), student, 1.0)
    assert max(kept) <= 2**20


@pytest.mark.parametrize(("local_loss", "global_loss"), [("pixel", "contextual"), ("contextual", "pixel")])
def test_loss_terms_are_the_mean_over_positions_of_each_student_and_level(local_loss: Any, global_loss: Any) -> None:
    shapes = ((2, 4, 4, 4), (2, 6, 2, 2))
    teacher, local_, global_ = (maps(seed, *shapes) for seed in range(3))
    method: Any = methods.create("dskd", local_loss=local_loss, global_loss=global_loss)
    terms = method.loss_terms(teacher, [local_, global_])
    slow = {
        "pixel": lambda t, s: 1 - np.array([np.diag(affinities(a, b)) for a, b in zip(s, t, strict=True)]),
        "contextual": lambda t, s: slow_divergence(t, s, 1.0),
    }
    for name, loss, student in (("local", local_loss, local_), ("global", global_loss, global_)):
        for level, (t, s) in enumerate(zip(teacher, student, strict=True), 1):
            assert terms[f"{name}{level}"].item() == pytest.approx(slow[loss](t.numpy(), s.numpy()).mean(), rel=1e-9)
    assert len(terms) == 4


def test_normal_images_give_normalised_maps_of_mean_0_and_standard_deviation_1_for_each_student() -> None:
    """Equation 8, whose mean and deviation are of the maps before blur."""
    method: Any = methods.create("dskd", image_size=64)
    shapes = ((3, 4, 16, 16), (3, 4, 8, 8))
    outputs = [(maps(seed, *shapes), [maps(seed + 10, *shapes), maps(seed + 20, *shapes)]) for seed in range(2)]
    method.calibrate(outputs)
    for name in ("local", "global"):
        pixels = torch.cat([method._maps(*batch, sigma=0)[name] for batch in outputs])
        assert method.scales_[name] == pytest.approx((pixels.mean().item(), pixels.std(correction=0).item()))
    both = method.anomaly_map(*outputs[0])
    blurred = method._maps(*outputs[0], sigma=4.0)
    parts = [(blurred[name] - method.scales_[name][0]) / method.scales_[name][1] for name in blurred]
    torch.testing.assert_close(both, parts[0] + parts[1])
    method.calibrate([])
    assert method.scales_["local"] == (0.0, 1.0)


@pytest.mark.parametrize("condense", ["conv", "pool"])
def test_the_condensing_block_has_the_stated_shapes_and_sizes(condense: Any) -> None:
    """2048 x 8 x 8 to a code of 1 x 1 x g and back, as WideResNet-50-2 has it at 256 pixels."""
    features = torch.randn(1, 2048, 8, 8)
    for g in (512, 1024, 2048):
        block = GlobalContextCondensing(2048, g, 8, condense)
        code = block.condense(block.reduce(features))
        assert code.shape == (1, g, 1, 1)
        assert block(features).shape == (1, 2048, 8, 8)
        convolutions = sum(p.numel() for p in block.parameters())
        channels = 0 if g == 2048 else 2048 * g + 2 * g + g * 2048 + 2048  # 1x1, batch norm, 1x1 with bias
        positions = 2 * (g * 8 * 8 + g) if condense == "conv" else 0
        assert convolutions == channels + positions


def test_a_code_by_pooling_does_not_depend_on_positions() -> None:
    """Moving a pattern within the map changes nothing."""
    block = GlobalContextCondensing(6, 4, 4, "pool").eval()
    features = torch.randn(1, 6, 4, 4)
    torch.testing.assert_close(block(features), block(features.roll(1, 3)))


def test_each_student_restores_all_levels_of_wide_resnet_50() -> None:
    method: Any = methods.create("dskd", gccb_channels=1024)
    teacher = teachers.load("wide_resnet50_2.untrained", {})
    students = method.build_student(teacher).eval()
    with torch.no_grad():
        outputs = students(teacher(torch.zeros(1, 3, 256, 256)))
    for output in outputs:
        assert [level.shape[1:] for level in output] == [(256, 64, 64), (512, 32, 32), (1024, 16, 16)]
    sizes = {name: sum(p.numel() for p in student.decoder.parameters()) for name, student in students.items()}
    assert sizes["local"] == sizes["global"]  # "the same architecture as S_loc"


@pytest.mark.parametrize(
    ("values", "terms"),
    [
        ({"local_loss": "none"}, ["global1", "global2", "global3"]),
        ({"global_loss": "none"}, ["local1", "local2", "local3"]),
        ({"gccb_channels": 0}, ["local1", "local2", "local3", "global1", "global2", "global3"]),
    ],
)
def test_a_student_or_the_block_can_be_left_out(values: dict[str, Any], terms: list[str]) -> None:
    method = create("dskd", epochs=1, **values).fit(samples(4), [], Context())
    assert list(method.record["history"][0]["terms"]) == terms
    assert len(list(method.predict(samples(2, "test"), Context()))) == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0; it must be above 0"),
        ({"gccb_channels": -1}, "gccb_channels=-1"),
        ({"local_loss": "none", "global_loss": "none"}, "at least one student"),
    ],
)
def test_invalid_hyper_parameters_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        methods.create("dskd", **values)


def test_the_local_student_alone_is_rd_with_the_loss_of_the_paper() -> None:
    teacher, student = (maps(seed, (2, 4, 8, 8), (2, 6, 4, 4), (2, 8, 2, 2)) for seed in (0, 1))
    rd: Any = methods.create("rd", image_size=64, loss="pixel")
    local: Any = methods.create("dskd", image_size=64, global_loss="none")
    local.calibrate([])
    assert list(local.loss_terms(teacher, [student]).values()) == list(rd.loss_terms(teacher, student).values())
    measured: Tensor = local.anomaly_map(teacher, [student])
    torch.testing.assert_close(measured, rd.anomaly_map(teacher, student))
