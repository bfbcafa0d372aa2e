"""Synthetic anomalies: where they are, what they are blended from, and the textures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from methods.base import InputError
from methods.components import anomaly_synthesis, textures
from methods.components.anomaly_synthesis import (
    CELLS,
    anomaly_masks,
    blend,
    estimate_foreground,
    otsu,
    perlin_noise,
    synthesise,
)
from methods.components.feature_cache import Rows

SEEDS = st.integers(0, 2**32 - 1)


def random_images(number: int, size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (number, 3, size, size), dtype=torch.uint8, generator=generator)


def texture_bank(size: int) -> Rows:
    return Rows([random_images(4, size, seed=9)], [(0, row) for row in range(4)])


def slow_perlin(cells: tuple[int, int], size: int, angle: np.ndarray) -> np.ndarray:
    """Perlin's definition at one pixel after another: fade, dot products with four gradients, interpolation."""
    noise = np.zeros((size, size))
    for row, column in np.ndindex(size, size):
        y, x = row * cells[0] / size, column * cells[1] / size
        a, b = int(y), int(x)

        def dot(p: int, q: int, y: float = y, x: float = x) -> float:
            return float(np.sin(angle[p, q]) * (y - p) + np.cos(angle[p, q]) * (x - q))

        fy, fx = (6 * t**5 - 15 * t**4 + 10 * t**3 for t in (y - a, x - b))
        upper = dot(a, b) + fx * (dot(a, b + 1) - dot(a, b))
        lower = dot(a + 1, b) + fx * (dot(a + 1, b + 1) - dot(a + 1, b))
        noise[row, column] = np.sqrt(2) * (upper + fy * (lower - upper))
    return noise


@pytest.mark.parametrize("cells", [(1, 1), (1, 4), (8, 2), (32, 16)])
def test_perlin_noise_by_matrices_equals_its_definition(cells: tuple[int, int]) -> None:
    noise = perlin_noise(np.array([cells, cells]), 64, np.random.default_rng(3))
    angle = np.random.default_rng(3).uniform(0, 2 * np.pi, (2, max(CELLS) + 1, max(CELLS) + 1))
    for image, angles in zip(noise, angle, strict=True):
        np.testing.assert_allclose(image, slow_perlin(cells, 64, angles), atol=1e-5)


def test_perlin_noise_lies_between_minus_one_and_one_and_its_images_differ() -> None:
    noise = perlin_noise(np.random.default_rng(0).choice(CELLS, (50, 2)), 64, np.random.default_rng(0))
    assert 0.7 < noise.abs().max() <= 1
    assert not torch.equal(noise[0], noise[1])


@settings(max_examples=25)
@given(seed=SEEDS, top=st.integers(0, 48), left=st.integers(0, 48), side=st.integers(8, 64))
def test_a_mask_stays_within_the_foreground(seed: int, top: int, left: int, side: int) -> None:
    foregrounds = torch.zeros(3, 64, 64, dtype=torch.bool)
    foregrounds[:, top : top + side, left : left + side] = True
    masks = anomaly_masks(foregrounds, np.random.default_rng(seed))
    assert not (masks & ~foregrounds).any()


@pytest.fixture
def perlin_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, Tensor]]:
    """Cells and result of each call that draws masks."""
    calls: list[tuple[np.ndarray, Tensor]] = []
    draw = anomaly_synthesis._perlin_masks

    def recorded(cells: np.ndarray, foregrounds: Tensor, rng: np.random.Generator) -> Tensor:
        calls.append((cells, draw(cells, foregrounds, rng)))
        return calls[-1][1].clone()

    monkeypatch.setattr(anomaly_synthesis, "_perlin_masks", recorded)
    return calls


def test_a_mask_is_drawn_again_at_its_scale_until_it_has_more_than_four_pixels(
    perlin_calls: list[tuple[np.ndarray, Tensor]],
) -> None:
    foregrounds = torch.zeros(200, 64, 64, dtype=torch.bool)
    foregrounds[:, 24:40, 24:40] = True
    masks = anomaly_masks(foregrounds, np.random.default_rng(0))
    tiny = [(drawn.flatten(1).sum(1) <= 4).numpy() for _, drawn in perlin_calls]
    assert tiny[0].sum() > 20  # so small a foreground is often missed
    for (cells, _), redrawn, (next_cells, _) in zip(perlin_calls, tiny, perlin_calls[1:], strict=False):
        np.testing.assert_array_equal(next_cells, cells[redrawn])
    assert (masks.flatten(1).sum(1) <= 4).sum() == tiny[-1].sum() <= tiny[0].sum() / 4


def test_an_empty_foreground_ends_with_an_empty_mask_after_eleven_draws(
    perlin_calls: list[tuple[np.ndarray, Tensor]],
) -> None:
    assert not anomaly_masks(torch.zeros(2, 64, 64, dtype=torch.bool), np.random.default_rng(0)).any()
    assert len(perlin_calls) == 11


@settings(max_examples=25)
@given(seed=SEEDS, beta=st.floats(0, 1))
def test_a_blend_is_the_image_outside_the_mask_and_the_mixture_inside(seed: int, beta: float) -> None:
    images, blended = random_images(2, 8, seed), random_images(2, 8, seed + 1)
    masks = torch.from_numpy(np.random.default_rng(seed).random((2, 8, 8)) < 0.5)
    mixed = blend(images, blended, masks, torch.tensor([beta, 0.0]))
    for b, c, y, x in np.ndindex(*images.shape):
        texture, image = blended[b, c, y, x].item(), images[b, c, y, x].item()
        expected = (1 - (beta, 0)[b]) * texture + (beta, 0)[b] * image if masks[b, y, x] else image
        assert abs(mixed[b, c, y, x].item() - expected) <= 0.501


@settings(max_examples=15)
@given(seed=SEEDS)
def test_only_masked_pixels_change_and_a_normal_image_has_no_mask(seed: int) -> None:
    images, foregrounds = random_images(6, 64, seed), torch.ones(6, 16, 16, dtype=torch.bool)
    foregrounds[:, :, 8:] = False
    synthetic, masks = synthesise(images, foregrounds, texture_bank(64), np.random.default_rng(seed))
    assert (synthetic.dtype, synthetic.shape, masks.shape) == (torch.uint8, images.shape, (6, 64, 64))
    assert not ((synthetic != images).any(1) & ~masks).any()
    assert not masks[:, :, 32:].any()


def test_a_fifth_of_the_images_stays_normal_and_the_strength_of_the_others_is_uniform_to_four_fifths(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """White textures, not augmented, on black images: an anomaly's grey is 255 (1 - beta)."""
    monkeypatch.setattr(anomaly_synthesis, "_augment", lambda texture, rng: texture)
    white = Rows([torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)], [(0, 0)])
    black, foregrounds = torch.zeros(1000, 3, 64, 64, dtype=torch.uint8), torch.ones(1000, 16, 16, dtype=torch.bool)
    synthetic, masks = synthesise(black, foregrounds, white, np.random.default_rng(0))
    abnormal = masks.flatten(1).any(1)
    assert abnormal.float().mean().item() == pytest.approx(0.8, abs=0.04)
    beta = 1 - synthetic.flatten(1).amax(1)[abnormal].float() / 255
    assert 0 <= beta.min() < 0.02
    assert 0.78 < beta.max() <= 0.802
    assert beta.mean().item() == pytest.approx(0.4, abs=0.02)


def test_a_seed_gives_the_same_anomalies_and_another_seed_others() -> None:
    images, foregrounds = random_images(4, 64), torch.ones(4, 16, 16, dtype=torch.bool)
    first, second, other = (
        synthesise(images, foregrounds, texture_bank(64), np.random.default_rng(seed))[0] for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("number", range(10))
def test_every_augmentation_keeps_shape_and_type(number: int) -> None:
    image = textures.procedural_texture(64, np.random.default_rng(0))
    rng = np.random.default_rng(number)
    changed = [anomaly_synthesis.AUGMENTATIONS[number](image, rng) for _ in range(5)]
    assert all((synthetic.shape, synthetic.dtype) == (image.shape, torch.uint8) for synthetic in changed)
    assert any(not torch.equal(synthetic, image) for synthetic in changed)


def test_half_of_the_textures_chosen_for_solarisation_stay_as_they_are() -> None:
    white, rng = torch.full((3, 8, 8), 255, dtype=torch.uint8), np.random.default_rng(0)
    solarised = [not anomaly_synthesis._solarise(white, rng).any() for _ in range(400)]
    assert sum(solarised) == pytest.approx(200, abs=40)


def test_brightness_is_multiplied_and_shifted_within_the_stated_ranges() -> None:
    grey, rng = torch.full((3, 8, 8), 100, dtype=torch.uint8), np.random.default_rng(0)
    levels = torch.cat([anomaly_synthesis._brightness(grey, rng).unique() for _ in range(400)])
    assert 50 <= levels.min() < 60
    assert 140 < levels.max() <= 150


@settings(max_examples=25)
@given(values=st.lists(st.integers(0, 20), min_size=2, max_size=30))
def test_otsu_finds_the_split_with_the_most_variance_between_the_classes(values: list[int]) -> None:
    array = np.array(values, float)
    shares = {}
    for threshold in sorted(set(values))[:-1]:
        low, high = array[array <= threshold], array[array > threshold]
        shares[threshold] = len(low) * len(high) * (low.mean() - high.mean()) ** 2 / len(array) ** 2 / array.var()
    threshold, share = otsu(torch.tensor(values).float())
    assert share == pytest.approx(max(shares.values(), default=0.0), abs=1e-9)
    if shares:
        assert shares[int(threshold)] == pytest.approx(share)


def test_the_foreground_of_an_object_on_a_plain_background_is_the_object() -> None:
    y, x = np.mgrid[:128, :128]
    disc = (y - 60) ** 2 + (x - 70) ** 2 < 30**2
    noise = np.random.default_rng(0).normal(0, 5, (3, 128, 128))
    image = torch.from_numpy((np.where(disc, 60, 200) + noise).clip(0, 255).astype(np.uint8))
    mask = estimate_foreground(image).repeat_interleave(4, 0).repeat_interleave(4, 1).numpy()
    assert (disc & mask).sum() == disc.sum()
    assert mask.sum() < 1.5 * disc.sum()


@pytest.mark.parametrize(
    "image",
    [
        torch.full((3, 64, 64), 120, dtype=torch.uint8),
        random_images(1, 64)[0],
        textures.procedural_texture(64, np.random.default_rng(1)),
        torch.arange(64).mul(3).to(torch.uint8).expand(3, 64, 64),  # a ramp from one border to the other
    ],
    ids=["plain", "noise", "texture", "ramp"],
)
def test_the_foreground_of_an_image_without_an_object_is_the_whole_image(image: Tensor) -> None:
    assert estimate_foreground(image).shape == (16, 16)
    assert estimate_foreground(image).all()


def test_hardly_any_texture_is_mistaken_for_an_object() -> None:
    rng = np.random.default_rng(5)
    whole = [estimate_foreground(textures.procedural_texture(128, rng)).all().item() for _ in range(100)]
    assert sum(whole) >= 95


def test_computed_textures_are_always_the_same_and_all_different() -> None:
    first = textures.load(None, 64, None)[list(range(40))]
    textures._procedural_textures.cache_clear()
    second = textures.load(None, 64, None)[list(range(40))]
    assert torch.equal(first, second)
    assert len({image.numpy().tobytes() for image in first}) == 40
    assert (first.flatten(1).float().std(1) > 2).all()


def save(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (90, 70), colour).save(path)


def test_the_textures_of_a_folder_are_its_images_and_those_of_its_folders(tmp_path: Path) -> None:
    save(tmp_path / "dtd" / "red.png", (200, 0, 0))
    save(tmp_path / "dtd" / "banded" / "blue.JPG", (0, 0, 200))
    (tmp_path / "dtd" / "readme.txt").write_text("not an image")
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        loaded = textures.load(tmp_path / "dtd", 64, cache)
        assert len(loaded) == 2
        colours = {tuple(image.float().mean((1, 2)).round().int().tolist()) for image in loaded[[0, 1]]}
        assert (200, 0, 0) in colours
        assert loaded[[0]].shape == (1, 3, 64, 64)


def test_textures_that_changed_are_not_read_from_the_cache(tmp_path: Path) -> None:
    save(tmp_path / "dtd" / "a.png", (200, 0, 0))
    textures.load(tmp_path / "dtd", 64, tmp_path / "cache")
    save(tmp_path / "dtd" / "a.png", (0, 99, 0))
    loaded = textures.load(tmp_path / "dtd", 64, tmp_path / "cache")
    assert loaded[[0]][0, :, 5, 5].tolist() == [0, 99, 0]


def test_a_folder_that_is_absent_or_without_images_or_with_a_broken_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent' is not a folder"):
        textures.load(tmp_path / "absent", 64, None)
    with pytest.raises(InputError, match="contains no image"):
        textures.load(tmp_path, 64, None)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"broken\.png cannot be decoded"):
        textures.load(tmp_path, 64, None)
