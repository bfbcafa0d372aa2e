"""SNL's terms, map and CRAM against slow references written from the equations: loops over positions, float64."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from test_methods import create, predictions, samples
from torch import Tensor, nn

import methods
from methods.base import Context, InputError
from methods.components import teachers
from methods.components.anomaly_maps import cosine_distance
from methods.components.structural import (
    CRAM,
    inter_affinity_distance,
    intra_affinity_distance,
    intra_affinity_map,
    spatial_cosine_distance,
    spatial_divergence,
)

FINE, COARSE = (3, 4, 3, 3), (3, 10, 2, 3)  # fewer channels than positions, and more
OFF = {"spatial_weight": 0.0, "intra_weight": 0.0, "inter_weight": 0.0, "centres": 0, "batch_norm": "running"}
NAMES = ["snl", "snl_fd"]


def maps(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.sqrt(vector @ vector)


def slow_spatial_cosine(teacher: np.ndarray, student: np.ndarray) -> float:
    """1 / (B C) sum over images and channels of 1 - cos of the channel's maps as vectors."""
    channels = list(np.ndindex(teacher.shape[:2]))
    return sum(1 - unit(teacher[b, c].ravel()) @ unit(student[b, c].ravel()) for b, c in channels) / len(channels)


def slow_divergence(teacher: np.ndarray, student: np.ndarray, temperature: float = 2.0) -> float:
    """tau^2 / (B C) sum over images and channels of sum_i p_i log(p_i / q_i)."""
    total = 0.0
    for b, c in np.ndindex(teacher.shape[:2]):
        p, q = (np.exp(level[b, c].ravel() / temperature) for level in (teacher, student))
        p, q = p / p.sum(), q / q.sum()
        total += sum(p[i] * np.log(p[i] / q[i]) for i in range(len(p)))
    return temperature**2 * total / teacher.shape[0] / teacher.shape[1]


def slow_affinity_differences(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    """A_T - A_S of each image, (B, N, N), cosine by cosine."""
    t, s = (level.reshape(*level.shape[:2], -1) for level in (teacher, student))
    count, _, positions = t.shape
    differences = np.empty((count, positions, positions))
    for b, i, j in np.ndindex(differences.shape):
        cosines = [unit(level[b, :, i]) @ unit(level[b, :, j]) for level in (t, s)]
        differences[b, i, j] = cosines[0] - cosines[1]
    return differences


def slow_intra(teacher: np.ndarray, student: np.ndarray) -> float:
    return float(np.mean(slow_affinity_differences(teacher, student) ** 2))


def slow_intra_map(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    rows = (slow_affinity_differences(teacher, student) ** 2).sum(2) / np.prod(teacher.shape[2:])
    return rows.reshape(len(teacher), *teacher.shape[2:])


def slow_inter(teacher: np.ndarray, student: np.ndarray) -> float:
    total = 0.0
    for a, b in np.ndindex(len(teacher), len(teacher)):
        cosines = [unit(level[a].ravel()) @ unit(level[b].ravel()) for level in (teacher, student)]
        total += (cosines[0] - cosines[1]) ** 2
    return total / len(teacher) ** 2


def slow_channel(teacher: np.ndarray, student: np.ndarray) -> float:
    positions = list(np.ndindex(len(teacher), *teacher.shape[2:]))
    return sum(1 - unit(teacher[b, :, y, x]) @ unit(student[b, :, y, x]) for b, y, x in positions) / len(positions)


def slope(function: Callable[[np.ndarray], float], at: np.ndarray, position: tuple[int, ...]) -> float:
    """The derivative by one entry, as a central difference."""
    step, ends = 1e-6, []
    for sign in (1, -1):
        shifted = at.copy()
        shifted[position] += sign * step
        ends.append(function(shifted))
    return (ends[0] - ends[1]) / (2 * step)


TERMS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "channel": slow_channel,
    "spatial": slow_spatial_cosine,
    "intra": slow_intra,
    "inter": slow_inter,
}


@pytest.mark.parametrize("term", [*TERMS, "divergence"])
@pytest.mark.parametrize("shape", [FINE, COARSE], ids=["fine", "coarse"])
@pytest.mark.parametrize(("name", "squared"), [("snl", 1.0), ("snl_fd", 2.0)])
def test_a_term_and_its_gradient_equal_the_equation(
    name: str, squared: float, shape: tuple[int, ...], term: str
) -> None:
    """On FD the channel-wise distance is the squared one of unit vectors, 2 - 2 cos."""
    factor = 3.0 * (squared if term == "channel" else 1.0)
    slow = TERMS.get(term, slow_divergence)
    if term == "divergence":
        term = "spatial"
        method: Any = methods.create(name, spatial="divergence", temperature=2.0, spatial_weight=3.0)
    else:
        method = methods.create(name, **{f"{term}_weight": 3.0})
    teacher, student = maps(0, *shape), maps(1, *shape).requires_grad_()
    measured = method.loss_terms([teacher], [student])[f"{term}_level1"]
    t, s = teacher.numpy(), student.detach().numpy()
    assert measured.item() == pytest.approx(factor * slow(t, s), rel=1e-9)
    measured.backward()
    assert student.grad is not None
    for position in [(0, 0, 0, 0), (1, 3, 1, 2), (2, 2, 0, 1)]:
        expected = factor * slope(lambda level: slow(t, level), s, position)
        assert student.grad[position].item() == pytest.approx(expected, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("shape", [FINE, COARSE], ids=["fine", "coarse"])
def test_the_affinity_map_and_its_gradient_equal_the_equation(shape: tuple[int, ...]) -> None:
    teacher, student = maps(0, *shape), maps(1, *shape).requires_grad_()
    t, s = teacher.numpy(), student.detach().numpy()
    measured = intra_affinity_map(teacher, student)
    np.testing.assert_allclose(measured.detach().numpy(), slow_intra_map(t, s), rtol=1e-9)
    measured[1, 0, 2].backward()
    assert student.grad is not None
    for position in [(1, 3, 0, 2), (1, 2, 1, 1)]:
        expected = slope(lambda level: slow_intra_map(t, level)[1, 0, 2], s, position)
        assert student.grad[position].item() == pytest.approx(expected, rel=1e-5)


SIZES = st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 4), st.integers(1, 4))


@given(SIZES, st.integers(0, 99))
def test_the_affinity_identity_equals_the_matrices_of_positions(shape: tuple[int, int, int, int], seed: int) -> None:
    """The identity, forward and gradient, against the (N, N) matrices themselves, for any sizes."""

    def plain(teacher: Tensor, student: Tensor) -> Tensor:
        units = [(level / level.norm(dim=1, keepdim=True)).flatten(2) for level in (teacher, student)]
        affinities = [torch.einsum("bci,bcj->bij", level, level) for level in units]
        return (affinities[0] - affinities[1]).square().mean((1, 2))

    teacher, student = maps(seed, *shape), maps(seed + 100, *shape).requires_grad_()
    measured, expected = intra_affinity_distance(teacher, student), plain(teacher, student)
    torch.testing.assert_close(measured, expected, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(intra_affinity_map(teacher, student).mean((1, 2)), expected, atol=1e-12, rtol=1e-9)
    gradients = [torch.autograd.grad(value.sum(), student)[0] for value in (measured, expected)]
    torch.testing.assert_close(*gradients, atol=1e-10, rtol=1e-7)


def test_a_fine_level_keeps_no_matrix_of_positions_for_the_backward_pass() -> None:
    sizes: list[int] = []

    def record(saved: Tensor) -> Tensor:
        sizes.append(saved.numel())
        return saved

    teacher, student = torch.randn(1, 16, 64, 64), torch.randn(1, 16, 64, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(record, lambda saved: saved):
        intra_affinity_distance(teacher, student).sum()
        intra_affinity_map(teacher, student).sum()
    assert max(sizes) == 16 * 64 * 64


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "spatial cosine": spatial_cosine_distance,
    "spatial divergence": lambda teacher, student: spatial_divergence(teacher, student, 1.0),
    "intra": intra_affinity_distance,
    "intra map": intra_affinity_map,
    "inter": inter_affinity_distance,
}


@pytest.mark.parametrize("name", DISTANCES)
@given(SIZES, st.integers(0, 99))
def test_equal_features_have_no_distance_and_others_none_below_zero(
    name: str, shape: tuple[int, int, int, int], seed: int
) -> None:
    features, others = maps(seed, *shape), maps(seed + 100, *shape)
    assert DISTANCES[name](features, features).abs().max() < 1e-12
    assert DISTANCES[name](features, others).min() > -1e-12


@given(SIZES, st.floats(0.01, 100), st.integers(0, 99))
def test_affinities_ignore_scale_and_rotation_of_the_student_and_the_order_of_positions(
    shape: tuple[int, int, int, int], scale: float, seed: int
) -> None:
    teacher, student = maps(seed, *shape), maps(seed + 100, *shape)
    expected = intra_affinity_distance(teacher, student)
    torch.testing.assert_close(intra_affinity_distance(teacher, scale * student), expected, atol=1e-12, rtol=1e-9)
    images = inter_affinity_distance(teacher, student)
    torch.testing.assert_close(inter_affinity_distance(teacher, scale * student), images, atol=1e-12, rtol=1e-9)
    rotation = torch.linalg.qr(maps(seed, shape[1], shape[1])).Q
    rotated = torch.einsum("dc,bchw->bdhw", rotation, student)
    torch.testing.assert_close(intra_affinity_distance(teacher, rotated), expected, atol=1e-12, rtol=1e-9)
    order = torch.randperm(shape[2] * shape[3], generator=torch.Generator().manual_seed(seed))
    shuffled = [level.flatten(2)[:, :, order].unflatten(2, shape[2:]) for level in (teacher, student)]
    torch.testing.assert_close(intra_affinity_distance(*shuffled), expected, atol=1e-12, rtol=1e-9)


def test_the_scale_of_a_channel_does_not_change_the_cosine_of_where_it_responds() -> None:
    teacher, student = maps(0, *FINE), maps(1, *FINE)
    scales = maps(2, 3, 4, 1, 1).exp()
    torch.testing.assert_close(
        spatial_cosine_distance(teacher, scales * student), spatial_cosine_distance(teacher, student)
    )


def test_an_offset_of_a_channel_does_not_change_the_divergence() -> None:
    teacher, student = maps(0, *FINE), maps(1, *FINE)
    offsets = maps(2, 3, 4, 1, 1)
    torch.testing.assert_close(
        spatial_divergence(teacher, student + offsets, 1.0), spatial_divergence(teacher, student, 1.0)
    )


def test_a_batch_of_one_has_no_inter_affinity_to_learn() -> None:
    student = maps(1, 1, 4, 3, 3).requires_grad_()
    distance = inter_affinity_distance(maps(0, 1, 4, 3, 3), student)
    distance.backward()
    assert student.grad is not None
    assert max(distance.item(), student.grad.abs().max().item()) < 1e-15


def test_positions_without_any_response_give_finite_terms_and_gradients() -> None:
    """A teacher's maps are behind a ReLU: a position, a channel or a whole image may be zero."""
    method: Any = methods.create("snl")
    student = torch.zeros(2, 4, 3, 3, requires_grad=True)
    terms = method.loss_terms([torch.zeros(2, 4, 3, 3)], [student])
    torch.stack(list(terms.values())).sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert all(term.isfinite() for term in terms.values())


def slow_cram(cram: CRAM, features: np.ndarray) -> np.ndarray:
    """a_j = softmax_j(w_j x + b_j), z = sum_j a_j (x - c_j), y = x + BN(W z), with the statistics of this batch."""
    value = {name: tensor.detach().numpy() for name, tensor in cram.named_parameters()}
    centres = value["centres.weight"][:, :, 0, 0].T  # (K, C)
    projected = np.empty_like(features)
    for b, y, x in np.ndindex(features.shape[0], *features.shape[2:]):
        position = features[b, :, y, x]
        logits = value["assign.weight"][:, :, 0, 0] @ position + value["assign.bias"]
        assignment = np.exp(logits) / np.exp(logits).sum()
        z = sum(a * (position - centre) for a, centre in zip(assignment, centres, strict=True))
        projected[b, :, y, x] = value["project.0.weight"][:, :, 0, 0] @ z
    for c in range(features.shape[1]):
        channel = projected[:, c]
        channel = (channel - channel.mean()) / np.sqrt(channel.var() + 1e-5)
        projected[:, c] = value["project.1.weight"][c] * channel + value["project.1.bias"][c]
    return features + projected


def test_cram_and_its_gradients_equal_the_equation() -> None:
    torch.manual_seed(0)
    cram = CRAM(channels=4, centres=3).double()
    nn.init.uniform_(cram.project[1].weight)
    nn.init.uniform_(cram.project[1].bias)
    features = maps(0, *FINE).requires_grad_()
    measured = cram(features)
    np.testing.assert_allclose(measured.detach().numpy(), slow_cram(cram, features.detach().numpy()), rtol=1e-9)
    weights = maps(1, *FINE)
    (measured * weights).sum().backward()
    assert features.grad is not None

    def weighted(at: np.ndarray) -> float:
        return float((slow_cram(cram, at) * weights.numpy()).sum())

    for position in [(0, 0, 0, 0), (2, 3, 1, 2)]:
        expected = slope(weighted, features.detach().numpy(), position)
        assert features.grad[position].item() == pytest.approx(expected, rel=1e-5)

    def weighted_by_centres(at: np.ndarray) -> float:
        with torch.no_grad():
            cram.centres.weight.copy_(torch.from_numpy(at))
        return weighted(features.detach().numpy())

    centres, gradient = cram.centres.weight.detach().numpy().copy(), cram.centres.weight.grad
    assert gradient is not None
    for position in [(0, 0, 0, 0), (3, 2, 0, 0)]:
        assert gradient[position].item() == pytest.approx(slope(weighted_by_centres, centres, position), rel=1e-5)


@pytest.mark.parametrize(("channels", "centres"), [(64, 32), (256, 8)])
def test_cram_has_the_parameters_counted_by_hand(channels: int, centres: int) -> None:
    by_hand = {
        "centres": centres * channels,
        "assignment": centres * channels + centres,
        "projection": channels**2,
        "batch norm": 2 * channels,
    }
    assert sum(p.numel() for p in CRAM(channels, centres).parameters()) == sum(by_hand.values())
    assert CRAM(channels, centres)(torch.randn(2, channels, 5, 4)).shape == (2, channels, 5, 4)


def test_a_new_cram_is_the_identity_and_can_learn() -> None:
    cram, features = CRAM(4, 3).double(), maps(0, *FINE)
    output = cram(features)
    assert torch.equal(output, features)
    (output * maps(1, *FINE)).sum().backward()
    assert cram.project[1].weight.grad.abs().min() > 0


def test_centres_start_at_random_with_a_length_of_about_one() -> None:
    torch.manual_seed(0)
    lengths = CRAM(256, 32).centres.weight.norm(dim=0)
    assert 0.9 < lengths.mean() < 1.1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "architecture", ["resnet18", "resnet34", "wide_resnet50_2", "efficientnet_b0", "mobilenetv3_large_100"]
)
def test_every_block_of_the_student_ends_in_a_cram_that_is_distilled(name: str, architecture: str) -> None:
    teacher = teachers.load(f"{architecture}.untrained", {})
    method: Any = methods.create(name, image_size=64)
    student = method.build_student(teacher).eval()
    crams = [module for module in student.modules() if isinstance(module, CRAM)]
    cram_outputs: list[Tensor] = []
    for cram in crams:
        cram.register_forward_hook(lambda module, inputs, output: cram_outputs.append(output))
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = teacher(images)
        output = student(features if name == "snl" else images)
    assert [level.shape for level in output] == [level.shape for level in features]
    in_order = cram_outputs[::-1] if name == "snl" else cram_outputs  # RD's decoder goes from coarse to fine
    assert [level.data_ptr() for level in output] == [level.data_ptr() for level in in_order]


def test_the_output_of_a_cram_is_the_input_of_the_next_block() -> None:
    teacher = teachers.load("test_resnet.untrained", {})
    for name, order in (("snl", [2, 1, 0]), ("snl_fd", [0, 1, 2])):
        method: Any = methods.create(name, image_size=64)
        student = method.build_student(teacher).eval()
        images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        student_input = teacher(images) if name == "snl" else images
        with torch.no_grad():
            before = student(student_input)
            middle = [module for module in student.modules() if isinstance(module, CRAM)][1]
            middle.project[1].weight.fill_(1)
            after = student(student_input)
        changed = [not torch.equal(before[level], after[level]) for level in order]
        assert changed == [False, True, True]


def test_a_teacher_that_keeps_channels_last_is_refused_for_snl_fd() -> None:
    method: Any = methods.create("snl_fd", image_size=256)
    teacher = teachers.load("swinv2_tiny_window8_256.untrained", {})
    with pytest.raises(InputError, match="SNLFD: CRAM cannot be put after the stages of swinv2_tiny_window8_256"):
        method.build_student(teacher)


@pytest.mark.parametrize(
    ("name", "baseline", "recipe"),
    [
        ("snl", "rd", {"loss": "pixel"}),
        ("snl_fd", "fd", {"optimiser": "adam", "learning_rate": 5e-3, "selection": "last", "combine": "sum"}),
    ],
)
def test_with_its_parts_off_snl_is_its_baseline(name: str, baseline: str, recipe: dict[str, Any]) -> None:
    plain, switched_off = predictions(create(baseline, **recipe)), predictions(create(name, **OFF))
    assert all(torch.equal(a.anomaly_map, b.anomaly_map) for a, b in zip(plain, switched_off, strict=True))


@pytest.mark.parametrize("term", TERMS)
def test_a_weight_of_zero_leaves_a_term_out(term: str) -> None:
    levels = [maps(0, *FINE), maps(1, *COARSE)]
    every: Any = methods.create("snl")
    without: Any = methods.create("snl", **{f"{term}_weight": 0.0})
    expected, measured = every.loss_terms(levels, levels[:]), without.loss_terms(levels, levels[:])
    assert set(expected) - set(measured) == {f"{term}_level1", f"{term}_level2"}
    assert all(torch.equal(measured[name], expected[name]) for name in measured)


LEVELS = ((2, 4, 8, 8), (2, 4, 4, 4), (2, 40, 2, 2))


def outputs(seed: int) -> tuple[list[Tensor], list[Tensor]]:
    teacher, student = ([maps(2 * seed + number, *shape) for shape in LEVELS] for number in (0, 1))
    return teacher, student


def slow_maps(teacher: list[Tensor], student: list[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """M_fea and M_aff: up-sampled, summed over levels, blurred; (B, 64, 64)."""

    def upsampled(level: Tensor) -> np.ndarray:
        plain = nn.functional.interpolate(level[:, None], 64, mode="bilinear", align_corners=True)[:, 0].numpy()
        return np.stack([gaussian_filter(one, 4.0) for one in plain])

    levels = list(zip(teacher, student, strict=True))
    feature = sum(upsampled(cosine_distance(t, s)) for t, s in levels)
    affinity = sum(upsampled(torch.from_numpy(slow_intra_map(t.numpy(), s.numpy()))) for t, s in levels)
    return np.asarray(feature), np.asarray(affinity)


@pytest.mark.parametrize(("name", "squared"), [("snl", 1.0), ("snl_fd", 2.0)])
def test_the_anomaly_map_weighs_both_maps_by_their_spread_on_normal_images(name: str, squared: float) -> None:
    method: Any = methods.create(name, image_size=64)
    normal = [slow_maps(*outputs(seed)) for seed in (1, 2, 3)]
    feature, affinity = (np.concatenate(levels) for levels in zip(*normal, strict=True))
    method.calibrate(outputs(seed) for seed in (1, 2, 3))
    assert method.lambda_ == pytest.approx(0.25 * squared * feature.std() / affinity.std(), rel=1e-6)
    feature, affinity = slow_maps(*outputs(0))
    expected = squared * feature + method.lambda_ * affinity
    np.testing.assert_allclose(method.anomaly_map(*outputs(0)).numpy(), expected, rtol=1e-6)

    method.calibrate(iter(()))
    assert method.lambda_ == 1.0
    np.testing.assert_allclose(method.anomaly_map(*outputs(0)).numpy(), squared * feature + affinity, rtol=1e-6)


def test_the_anomaly_map_leaves_out_what_no_term_trains() -> None:
    feature, affinity = slow_maps(*outputs(0))
    for weights, expected in (
        ({"intra_weight": 0.0}, feature),
        ({"intra_weight": 0.0, "channel_weight": 0.0}, feature),
        ({"spatial_weight": 0.0, "channel_weight": 0.0}, affinity),
    ):
        method: Any = methods.create("snl", image_size=64, **weights)
        method.calibrate(outputs(seed) for seed in (1, 2))
        assert method.lambda_ == 1.0
        np.testing.assert_allclose(method.anomaly_map(*outputs(0)).numpy(), expected, rtol=1e-6)


def test_a_constant_map_is_not_divided_by() -> None:
    method: Any = methods.create("snl", image_size=64)
    same = outputs(0)[0]
    method.calibrate([(same, same)])
    assert np.isfinite(method.lambda_)


@pytest.mark.parametrize("name", NAMES)
def test_the_record_holds_every_term_of_every_level_and_the_weight_of_the_affinity_map(name: str) -> None:
    method = create(name).fit(samples(5), samples(2, "validation"), Context())
    terms = {f"{term}_level{level}" for term in TERMS for level in (1, 2, 3)}
    assert set(method.record["history"][-1]["terms"]) == terms
    assert 0 < method.record["lambda"] != 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"centres": -1}, "centres=-1; it must be at least 0"),
        ({"intra_weight": -0.5}, "intra_weight=-0.5; it must be at least 0"),
        ({"spatial_weight": float("nan")}, "spatial_weight=nan; it must be at least 0"),
        ({"temperature": 0.0}, "temperature=0.0; it must be above 0"),
        ({"affinity_scale": 0.0}, "affinity_scale=0.0; it must be above 0"),
        ({"channel_weight": 0.0, "spatial_weight": 0.0, "intra_weight": 0.0, "inter_weight": 0.0}, "Set one of them"),
        ({"channel_weight": 0.0, "spatial_weight": 0.0, "intra_weight": 0.0}, "Set one of them"),
    ],
)
def test_an_invalid_hyper_parameter_is_refused_with_a_suggestion(
    name: str, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        methods.create(name, **values)
