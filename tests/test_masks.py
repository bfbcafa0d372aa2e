"""Masks are read as they were annotated, in whatever way a file carries its shape, or refused with the cure."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from benchmarks.datasets._masks import read_mask
from methods.base import InputError

SIZE = 64


def disc(size: int = SIZE, radius: float = 7) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return np.hypot(x - 0.6 * size, y - 0.4 * size) < radius * size / SIZE


DISC = disc()
GREY = (DISC * 255).astype(np.uint8)


def stack(*channels: np.ndarray | int) -> Image.Image:
    return Image.fromarray(np.stack([np.broadcast_to(c, DISC.shape) for c in channels], -1).astype(np.uint8))


def palette(indices: np.ndarray, *colours: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8), "P")
    image.putpalette([value for colour in colours for value in colour])
    return image


def transparent_background() -> Image.Image:
    image = palette(DISC, (255, 255, 255), (255, 0, 0))
    image.info["transparency"] = 0
    return image


BLACK, WHITE, RED = (0, 0, 0), (255, 255, 255), (255, 0, 0)
EXACT: dict[str, Callable[[], Image.Image]] = {
    "grey 0/255": lambda: Image.fromarray(GREY),
    "grey 0/1": lambda: Image.fromarray(DISC.astype(np.uint8)),
    "one bit": lambda: Image.fromarray(DISC),
    "16 bits, 0/65535": lambda: Image.fromarray((DISC * 65535).astype(np.uint16)),
    "16 bits, 0/255": lambda: Image.fromarray((DISC * 255).astype(np.uint16)),
    "16 bits, 0/1": lambda: Image.fromarray(DISC.astype(np.uint16)),
    "white in RGB": lambda: stack(GREY, GREY, GREY),
    "red on black": lambda: stack(GREY, 0, 0),
    "blue on black": lambda: stack(0, 0, GREY),
    "palette, black first": lambda: palette(DISC, BLACK, WHITE),
    "palette, white first": lambda: palette(~DISC, WHITE, BLACK),
    "palette, red at index 7": lambda: palette(np.where(DISC, 7, 3), *[BLACK] * 7, RED),
    "palette of one colour": lambda: palette(DISC, BLACK, BLACK),
    "palette, transparent white background": transparent_background,
    "opaque alpha": lambda: stack(GREY, GREY, GREY, 255),
    "opaque alpha on grey": lambda: stack(GREY, 255),
    "white, shape in alpha": lambda: stack(255, 255, 255, GREY),
    "black, shape in alpha": lambda: stack(0, 0, 0, GREY),
    "red, shape in alpha, white where transparent": lambda: stack(255, 255 - GREY, 255 - GREY, GREY),
    "grey and alpha, shape in alpha": lambda: stack(255, GREY),
}


@pytest.mark.parametrize("kind", EXACT)
def test_a_mask_is_what_a_viewer_shows(tmp_path: Path, kind: str) -> None:
    EXACT[kind]().save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png")
    np.testing.assert_array_equal(mask.defect, DISC)
    assert (mask.levels, mask.rule) == (2, "labels")
    assert mask.carrier == ("alpha" if "in alpha" in kind or "transparent" in kind else "palette" if "palette" in kind
                            else "grey")  # fmt: skip


@pytest.mark.parametrize("suffix", ["bmp", "gif", "tif", "webp", "pgm", "PNG"])
def test_a_mask_may_have_any_format(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(GREY).save(tmp_path / f"mask.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    np.testing.assert_array_equal(read_mask(tmp_path / f"mask.{suffix}").defect, DISC)


@pytest.mark.parametrize("quality", [30, 60, 85, 95, 100])
@pytest.mark.parametrize("suffix", ["jpg", "webp", "tif"])
def test_a_lossy_mask_has_the_area_that_was_annotated(tmp_path: Path, suffix: str, quality: int) -> None:
    options = {"compression": "jpeg"} if suffix == "tif" else {}
    Image.fromarray(GREY).save(tmp_path / f"mask.{suffix}", quality=quality, **options)
    mask = read_mask(tmp_path / f"mask.{suffix}")
    assert (mask.defect != DISC).sum() <= 0.06 * DISC.sum(), f"{mask.defect.sum()} of {DISC.sum()} pixels"
    assert mask.levels > 2 and mask.rule == "half"


def test_a_lossy_mask_is_cut_at_half_even_if_it_has_few_levels(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64), np.uint8)
    pixels[:32] = 255
    pixels[60:, :8] = 2  # as compression leaves it
    Image.fromarray(pixels).save(tmp_path / "mask.jpg", quality=100)
    assert read_mask(tmp_path / "mask.jpg").defect.sum() == 32 * 64


@pytest.mark.parametrize(
    "soften",
    [
        lambda image: image.resize((16, 16)).resize((SIZE, SIZE), Image.Resampling.BILINEAR),
        lambda image: image.filter(ImageFilter.GaussianBlur(1)),
        lambda image: Image.fromarray(disc(2 * SIZE)).convert("L").reduce(2),  # five levels
    ],
)
@pytest.mark.parametrize("scale", [1, 257])
def test_soft_edges_are_cut_at_half(tmp_path: Path, soften: Callable[[Image.Image], Image.Image], scale: int) -> None:
    soft = np.asarray(soften(Image.fromarray(GREY)))
    Image.fromarray(soft * np.uint16(scale) if scale > 1 else soft).save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png")
    np.testing.assert_array_equal(mask.defect, soft > 127)
    assert mask.rule == "half" and mask.levels == len(np.unique(soft)) > 4


@pytest.mark.parametrize("values", [(1, 2), range(1, 9), (85, 170, 255), (249, 255), (64, 128), (128, 255)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_labels_are_defect_whatever_their_value(tmp_path: Path, values: tuple[int, ...], dtype: type) -> None:
    labels = np.zeros((SIZE, SIZE), dtype)
    for row, value in enumerate(values):
        labels[row, :10] = value
    Image.fromarray(labels).save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png")
    np.testing.assert_array_equal(mask.defect, labels > 0)
    np.testing.assert_array_equal(mask.values, labels)
    assert (mask.rule, mask.levels) == ("labels", 1 + len(values))


def test_big_endian_16_bit_labels_are_read(tmp_path: Path) -> None:
    Image.frombytes("I;16B", (SIZE, SIZE), (DISC * 300).astype(">u2").tobytes()).save(tmp_path / "mask.tif")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.tif").defect, DISC)


def faint(path: Path) -> None:
    Image.fromarray(np.arange(SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint8) // 3).save(path)


def faint_jpeg(path: Path) -> None:
    Image.fromarray(DISC.astype(np.uint8)).save(path, "JPEG", quality=100)


def fully_transparent(path: Path) -> None:
    stack(GREY, GREY, GREY, 0).save(path)


def floating_point(path: Path) -> None:
    Image.fromarray(DISC.astype(np.float32)).save(path, "TIFF")


def red_on_blue(path: Path) -> None:
    palette(DISC, (0, 0, 255), (255, 0, 0)).save(path)


def labels_from_one(path: Path) -> None:
    Image.fromarray(DISC.astype(np.uint8) + 1).save(path)


def negative(path: Path) -> None:
    Image.fromarray(-DISC.astype(np.int32)).save(path, "TIFF")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (faint, "86 grey levels up to 85, none above half of 255.*lossless PNG"),
        (faint_jpeg, "grey levels up to 1, none above half of 255.*lossless PNG"),
        (fully_transparent, "fully transparent. Save it without alpha"),
        (floating_point, "floating-point pixels have no fixed range"),
        (red_on_blue, "2 values or colours, none of which is black.*Save it with 0 for the background"),
        (labels_from_one, "2 values or colours, none of which is black.*Save it with 0 for the background"),
        (negative, "32-bit values from -1 to 0"),
    ],
)
def test_a_mask_whose_meaning_is_open_is_refused_with_the_cure(
    tmp_path: Path, write: Callable[[Path], None], message: str
) -> None:
    write(tmp_path / "mask.png")
    with pytest.raises(InputError, match=rf"mask\.png: .*{message}"):
        read_mask(tmp_path / "mask.png")
