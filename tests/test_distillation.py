"""What teacher-student methods share: losses against slow references, the feature cache, selection, resumption."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_methods import create, samples
from torch import Tensor
from torchvision.transforms import Resize

import methods
from methods.base import Context, InputError
from methods.components import feature_cache, teachers
from methods.components.decoders import Decoder, OneClassBottleneck


def maps(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


SHAPES = ((2, 4, 6, 6), (2, 6, 3, 3), (2, 8, 2, 2))


def one_minus_cosine(a: np.ndarray, b: np.ndarray) -> float:
    return 1 - float(a @ b) / float(np.sqrt(a @ a) * np.sqrt(b @ b))


def slow_pixel(teacher: np.ndarray, student: np.ndarray) -> float:
    """RD, equations 1 and 2, of one level."""
    count, _, height, width = teacher.shape
    positions = list(np.ndindex(count, height, width))
    return sum(one_minus_cosine(teacher[b, :, y, x], student[b, :, y, x]) for b, y, x in positions) / len(positions)


def slow_flat(teacher: np.ndarray, student: np.ndarray) -> float:
    """RD's official code, of one level."""
    images = list(zip(teacher, student, strict=True))
    return sum(one_minus_cosine(t.ravel(), s.ravel()) for t, s in images) / len(images)


def slow_squared(teacher: np.ndarray, student: np.ndarray) -> float:
    """STFPM's official code, of one level: squared distance of unit vectors, mean over positions and images."""
    positions = list(np.ndindex(teacher.shape[0], *teacher.shape[2:]))
    total = 0.0
    for b, y, x in positions:
        t, s = teacher[b, :, y, x], student[b, :, y, x]
        total += float(np.sum((t / np.sqrt(t @ t) - s / np.sqrt(s @ s)) ** 2))
    return total / len(positions)


@pytest.mark.parametrize(
    ("method", "values", "slow"),
    [("rd", {"loss": "flat"}, slow_flat), ("rd", {"loss": "pixel"}, slow_pixel), ("fd", {}, slow_squared)],
)
def test_a_loss_and_its_gradient_equal_the_equation(
    method: str, values: dict[str, Any], slow: Callable[[np.ndarray, np.ndarray], float]
) -> None:
    loss: Any = methods.create(method, **values)
    teacher, student = maps(0, *SHAPES), maps(1, *SHAPES)
    for level in student:
        level.requires_grad_()
    terms = list(loss.loss_terms(teacher, student).values())
    expected = [slow(t.numpy(), s.detach().numpy()) for t, s in zip(teacher, student, strict=True)]
    assert [term.item() for term in terms] == pytest.approx(expected, rel=1e-9)

    torch.stack(terms).sum().backward()
    for level, (t, s) in enumerate(zip(teacher, student, strict=True)):
        at, step = (1, 2, 1, 0), 1e-6
        shifted = [s.detach().numpy().copy() for _ in range(2)]
        shifted[0][at] += step
        shifted[1][at] -= step
        slope = (slow(t.numpy(), shifted[0]) - slow(t.numpy(), shifted[1])) / (2 * step)
        assert s.grad is not None
        assert s.grad[at].item() == pytest.approx(slope, rel=1e-4), f"level {level}"


def test_rd_on_wide_resnet_50_has_the_stated_parts() -> None:
    """Parameters as in ADer's log of RD, whose bottleneck is built narrow; shapes as in the official code."""
    teacher = teachers.load("wide_resnet50_2.untrained", {})
    bottleneck, decoder = OneClassBottleneck(teacher), Decoder(teacher)
    narrow = OneClassBottleneck(teacher, base_width=64)
    millions = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (bottleneck, narrow, decoder)]
    assert 30.83 in [round(count, 2) for count in millions[:2]]
    assert round(millions[2], 2) == 24.92
    with torch.no_grad():
        code = bottleneck.eval()(teacher(torch.zeros(1, 3, 256, 256)))
        features = decoder.eval()(code)
    assert code.shape == (1, 2048, 8, 8)
    assert [level.shape[1:] for level in features] == [(256, 64, 64), (512, 32, 32), (1024, 16, 16)]


def test_the_students_of_fd_and_the_teacher_share_an_architecture_but_no_weights() -> None:
    teacher = teachers.load("test_resnet.untrained", {})
    student = teacher.untrained_copy()
    shapes = [{name: value.shape for name, value in net.state_dict().items()} for net in (student, teacher.network)]
    assert shapes[0] == shapes[1]
    assert not torch.equal(next(student.parameters()), next(teacher.network.parameters()))


def test_fd_multiplies_its_levels_at_a_quarter_of_the_image_size() -> None:
    method: Any = methods.create("fd", image_size=64)
    teacher, student = (maps(seed, (1, 4, 16, 16), (1, 4, 8, 8), (1, 4, 4, 4)) for seed in (0, 1))
    product = torch.ones(1, 1, 16, 16, dtype=torch.float64)
    for t, s in zip(teacher, student, strict=True):
        squared = ((t / t.norm(dim=1, keepdim=True) - s / s.norm(dim=1, keepdim=True)) ** 2).sum(1, keepdim=True)
        product = product * torch.nn.functional.interpolate(squared, (16, 16), mode="bilinear")
    expected = torch.nn.functional.interpolate(product, (64, 64), mode="bilinear")[:, 0]
    torch.testing.assert_close(method.anomaly_map(teacher, student), expected)


def test_cached_images_are_bit_identical_to_the_official_transform(tmp_path: Path) -> None:
    train = samples(3, size=100)
    for cache in (None, tmp_path):
        cached = feature_cache.load_images(train, 64, cache)[[2, 0, 1]]
        for row, index in enumerate((2, 0, 1)):
            plain = Resize((64, 64))(Image.fromarray(train[index].image.permute(1, 2, 0).numpy()))
            np.testing.assert_array_equal(cached[row].numpy(), np.asarray(plain).transpose(2, 0, 1))


def test_images_are_decoded_once_for_all_runs(tmp_path: Path) -> None:
    feature_cache.load_images(samples(3), 64, tmp_path)

    def fail() -> Tensor:
        raise AssertionError("decoded again")

    again = [type(sample)(sample.key, sample.category, fail) for sample in samples(3)]
    feature_cache.load_images(again, 64, tmp_path)


@pytest.mark.parametrize("name", ["rd", "fd"])
def test_training_on_cached_features_equals_training_without_a_cache(name: str, tmp_path: Path) -> None:
    histories = []
    for context in (
        Context(cache=None, cache_gib=0),  # computed again at each step
        Context(cache=None),  # kept in memory
        Context(cache=tmp_path / "both"),  # kept in memory and on disk
        Context(cache=tmp_path / "both"),  # read from the disk
        Context(cache=tmp_path / "disk", cache_gib=0),  # on disk only
    ):
        method = create(name).fit(samples(6), [], context)
        histories.append([entry["terms"] for entry in method.record["history"]])
    for history in histories[1:]:
        for entry, expected in zip(history, histories[0], strict=True):
            assert entry == pytest.approx(expected, rel=1e-6)
    assert histories[1:] == [histories[1]] * 4


def test_a_damaged_cache_file_is_computed_again(tmp_path: Path) -> None:
    context = Context(cache=tmp_path)
    before = create("rd").fit(samples(4), [], context).record["history"][-1]["terms"]["level1"]
    for path in tmp_path.rglob("*.npy"):
        damaged = bytearray(path.read_bytes())
        damaged[len(damaged) // 2] ^= 0xFF
        path.write_bytes(damaged)
    assert create("rd").fit(samples(4), [], context).record["history"][-1]["terms"]["level1"] == before


def test_fd_keeps_the_epoch_with_the_lowest_mean_map_on_held_out_normal_images() -> None:
    record = create("fd", epochs=4).fit(samples(10), [], Context()).record
    values = [entry["measured"]["validation"] for entry in record["history"]]
    assert record["selection"] == "validation"
    assert record["epoch"] == 1 + int(np.argmin(values))


def test_images_held_out_for_selection_are_not_used_to_build_the_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    received: list[Tensor] = []
    method = create("rd", selection="validation")
    monkeypatch.setattr(
        method, "build_target", lambda teacher, images, context: received.append(images[range(len(images))]) or teacher
    )
    method.fit(samples(10), [], Context())
    training, _ = method._hold_out(10, validation=False)
    assert torch.equal(received[0], feature_cache.load_images(samples(10), method.image_size, None)[training])
    assert len(training) == 8


def test_a_checkpoint_of_another_fit_or_a_damaged_one_is_not_resumed(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    create("rd").fit(samples(4), [], Context(seed=1, checkpoint=checkpoint))
    for spoil in (lambda: None, lambda: checkpoint.write_bytes(checkpoint.read_bytes()[:1000])):
        spoil()
        epochs: list[int] = []
        context = Context(
            seed=2, checkpoint=checkpoint, progress=lambda report, epochs=epochs: epochs.append(report.done)
        )  # type: ignore[misc]
        create("rd").fit(samples(4), [], context)
        assert epochs == [1, 2]


@pytest.mark.parametrize(("key", "value"), [("momentum", 1.0), ("weight_decay", -1e-4)])
def test_fd_refuses_momentum_and_weight_decay_out_of_range(key: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{key}={value}"):
        methods.create("fd", **{key: value})


def test_a_teacher_of_one_image_size_is_refused_for_another_before_training() -> None:
    with pytest.raises(InputError, match="does not accept images of 64 pixels"):
        create("rd", teacher="swin_tiny_patch4_window7_224.untrained").fit(samples(2), [], Context())


def test_a_loss_that_is_not_finite_stops_the_fit_and_is_reported_with_its_epoch_step_and_term() -> None:
    with pytest.raises(InputError, match=r"term 'level1' is nan in epoch 1, step 2\. Lower learning_rate"):
        create("rd", learning_rate=1e30).fit(samples(8), [], Context())
