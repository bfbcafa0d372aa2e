"""DSKD against its equations, written as loops."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_distillation import maps
from test_methods import create, samples
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import methods
from methods.base import Context, InputError
from methods.components import contextual, teachers
from methods.components.contextual import ContextualTeacher, context, contextual_divergence
from methods.dskd import GlobalContextCondensing


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


def divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    return contextual_divergence(teacher, context(teacher, temperature), student, temperature)


def with_context(teacher: list[Tensor]) -> list[Tensor]:
    """What DSKD distils: the teacher's maps, then their contexts."""
    return [*teacher, *(context(level, 1.0) for level in teacher)]


@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_the_contextual_divergence_and_its_gradient_equal_equations_3_to_6(temperature: float) -> None:
    teacher, student = maps(0, (2, 4, 3, 3))[0], maps(1, (2, 4, 3, 3))[0].requires_grad_()
    measured = divergence(teacher, student, temperature)
    expected = slow_divergence(teacher.numpy(), student.detach().numpy(), temperature)
    np.testing.assert_allclose(measured.detach().flatten(1).numpy(), expected, rtol=1e-8)

    weights = torch.linspace(0.5, 2, 18, dtype=torch.float64).reshape(2, 9)
    (measured.flatten(1) * weights).sum().backward()
    for at in [(0, 1, 2, 0), (1, 3, 1, 1)]:
        step, ends = 1e-6, []
        for sign in (1, -1):
            shifted = student.detach().numpy().copy()
            shifted[at] += sign * step
            ends.append(float((slow_divergence(teacher.numpy(), shifted, temperature) * weights.numpy()).sum()))
        assert student.grad is not None
        assert student.grad[at].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)


def direct_divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Equations 3 to 6 as they are written, with all N x N affinities and torch's own gradient; (B, N)."""
    t, s = (m.flatten(2) / m.flatten(2).norm(dim=1, keepdim=True) for m in (teacher, student))
    own, crossed = ((x.mT @ t / temperature).softmax(2) for x in (t, s))
    return temperature**2 * (own * (own / crossed).log()).sum(2)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 3), st.integers(8, 80), st.integers(4, 20), st.integers(4, 20)),
    temperature=st.floats(0.2, 1.5),
    deviation=st.floats(0.7, 2),
    positive=st.booleans(),
)
def test_in_float32_loss_and_gradient_are_within_1e_5_of_the_equations_in_float64(
    seed: int, shape: tuple[int, ...], temperature: float, deviation: float, positive: bool
) -> None:
    """For features of both signs, and for positive ones, which are all similar. The student is not next to the teacher:
    there the gradient is so small that float32 has fewer digits of it."""
    teacher, noise = maps(seed, shape, shape)
    student = teacher + deviation * noise
    if positive:
        teacher, student = teacher.relu() + 0.1, student.relu() + 0.1
    losses, gradients = [], []
    for compute, dtype in ((divergence, torch.float32), (direct_divergence, torch.float64)):
        leaf = student.to(dtype).requires_grad_()
        loss = compute(teacher.to(dtype), leaf, temperature).mean()
        (gradient,) = torch.autograd.grad(loss, leaf)
        losses.append(loss.item())
        gradients.append(gradient.double())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5, abs=1e-6)
    assert (gradients[0] - gradients[1]).norm() <= 1e-5 * gradients[1].norm()


@given(st.integers(0, 10_000), st.floats(0.05, 5))
def test_a_divergence_is_zero_for_the_teacher_itself_and_never_below(seed: int, temperature: float) -> None:
    teacher, student = maps(seed, (1, 3, 4, 2), (1, 3, 4, 2))
    assert divergence(teacher, teacher, temperature).abs().max() < 1e-10
    assert divergence(teacher, student, temperature).min() > -1e-10


def test_the_affinities_are_not_stored_in_either_pass() -> None:
    teacher, student = torch.randn(2, 1, 8, 64, 64)  # 4096 positions: 64 MiB of affinities
    student.requires_grad_()
    kept: list[int] = []
    with (
        sdpa_kernel(SDPBackend.FLASH_ATTENTION),  # an error where only the one that stores them can be used
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t),
    ):
        divergence(teacher, student, 1.0).sum().backward()
    assert max(kept) <= teacher.numel()


def test_the_context_of_an_image_is_computed_once_in_a_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def counted(features: Tensor, temperature: float) -> Tensor:
        seen.append(len(features))
        return context(features, temperature)

    monkeypatch.setattr(contextual, "context", counted)
    create("dskd", epochs=3).fit(samples(4), [], Context())
    assert sum(seen) == 3 * (1 + 4)  # levels times images; one more finds out the shapes


def test_the_cached_context_belongs_to_its_teacher_and_temperature() -> None:
    first, second = (teachers.load(f"{name}.untrained", {}) for name in ("resnet18", "resnet34"))
    targets = [ContextualTeacher(first, 1.0), ContextualTeacher(second, 1.0), ContextualTeacher(first, 0.5)]
    assert len({first.digest, *(target.digest for target in targets)}) == 4


@pytest.mark.parametrize(("local_loss", "global_loss"), [("pixel", "contextual"), ("contextual", "pixel")])
def test_loss_terms_are_the_mean_over_positions_of_each_student_and_level(local_loss: Any, global_loss: Any) -> None:
    shapes = ((2, 4, 4, 4), (2, 6, 2, 2), (2, 8, 2, 1))
    teacher, local_, global_ = (maps(seed, *shapes) for seed in range(3))
    method: Any = methods.create("dskd", local_loss=local_loss, global_loss=global_loss)
    terms = method.loss_terms(with_context(teacher), [local_, global_])
    slow = {
        "pixel": lambda t, s: 1 - np.array([np.diag(affinities(a, b)) for a, b in zip(s, t, strict=True)]),
        "contextual": lambda t, s: slow_divergence(t, s, 1.0),
    }
    for name, loss, student in (("local", local_loss, local_), ("global", global_loss, global_)):
        for level, (t, s) in enumerate(zip(teacher, student, strict=True), 1):
            assert terms[f"{name}{level}"].item() == pytest.approx(slow[loss](t.numpy(), s.numpy()).mean(), rel=1e-9)
    assert len(terms) == 6


def test_normal_images_give_normalised_maps_of_mean_0_and_standard_deviation_1_for_each_student() -> None:
    """Equation 8, whose mean and deviation are of the maps before blur."""
    method: Any = methods.create("dskd", image_size=64)
    shapes = ((3, 4, 16, 16), (3, 4, 8, 8), (3, 4, 4, 4))
    outputs = [
        (with_context(maps(seed, *shapes)), [maps(seed + 10, *shapes), maps(seed + 20, *shapes)]) for seed in range(2)
    ]
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
        outputs = students(ContextualTeacher(teacher, 1.0)(torch.zeros(1, 3, 256, 256)))
    for output in outputs:
        assert [level.shape[1:] for level in output] == [(256, 64, 64), (512, 32, 32), (1024, 16, 16)]
    sizes = {name: sum(p.numel() for p in student.decoder.parameters()) for name, student in students.items()}
    assert sizes["local_student"] == sizes["global_student"]  # "the same architecture as S_loc"


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
        ({"temperature": 0.0}, "temperature=0.0; it must be at least 0.05"),
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
