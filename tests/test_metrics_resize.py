"""Bringing maps and masks to a size: against the definitions, and STFPM's masks against OpenCV."""

import zlib

import numpy as np
import pytest
import reference_metrics as reference

from benchmarks.metrics.resize import MASK_RULES, fit_map, fit_maps, fit_masks

# Of `pattern` by cv2.resize, in OpenCV 4.8.1 as in 5.0.0: how many pixels are not 0, and the crc32 of these bits.
OPENCV = [
    ((900, 900), (256, 256), 12483, 2366973061),
    ((1024, 1024), (256, 256), 12556, 4040825232),
    ((700, 840), (256, 256), 11764, 2428320741),
    ((512, 512), (256, 256), 12546, 528368122),
    ((1400, 1900), (256, 256), 11143, 2870198463),
    ((100, 130), (256, 256), 11600, 1546673701),
    ((37, 53), (16, 24), 61, 442313666),
    ((300, 1), (64, 8), 8, 2663100666),
]


def pattern(height, width):
    """A disc and scattered pixels."""
    y, x = np.mgrid[:height, :width]
    disc = (y - height * 0.6) ** 2 + (x - width * 0.4) ** 2 < (min(height, width) / 6) ** 2
    return ((y * y * 7 + x * x * 13 + x * y * 3) % 101 < 2) | disc


@pytest.mark.parametrize(("native", "size", "pixels", "bits"), OPENCV)
def test_masks_without_antialiasing_are_those_of_opencv_bit_for_bit(native, size, pixels, bits):
    (fitted,) = fit_masks([pattern(*native)], [size], "mask>0 not antialiased")
    assert int(fitted.sum()) == pixels
    assert zlib.crc32(np.packbits(fitted).tobytes()) == bits


@pytest.mark.parametrize(("native", "size"), [row[:2] for row in OPENCV[2:]])
def test_masks_without_antialiasing_follow_the_four_nearest_pixels(native, size):
    value = reference.bilinear(pattern(*native) * 255.0, size)
    (fitted,) = fit_masks([pattern(*native)], [size], "mask>0 not antialiased")
    clear = abs(value - 0.5) > 0.3  # in between, OpenCV's fixed-point arithmetic decides what rounds to 0
    assert (fitted == (value > 0.5))[clear].all()
    assert clear.mean() > 0.99


@pytest.mark.parametrize(("native", "size"), [row[:2] for row in OPENCV])
def test_the_nearest_pixel_is_the_one_that_the_centre_lies_in(native, size):
    mask = pattern(*native)
    rows, columns = ([int((i + 0.5) * old / new) for i in range(new)] for old, new in zip(native, size, strict=True))
    (fitted,) = fit_masks([mask], [size], "mask>0.5 nearest")
    assert (fitted == mask[np.ix_(rows, columns)]).all()


@pytest.mark.parametrize(("rule", "least"), [("mask>0", 1 / 510), ("mask>0.5", 0.5)])
def test_antialiased_masks_equal_the_definition(rule, least):
    mask = pattern(61, 53)
    value = reference.resized(mask.astype(float), (23, 30))
    clear = abs(value - least) > 1 / 255  # 8 bits decide in between
    (fitted,) = fit_masks([mask], [(23, 30)], rule)
    assert (fitted == (value > least))[clear].all()


def test_what_becomes_of_a_small_defect_depends_on_the_rule():
    small, large = np.zeros((64, 64), bool), np.zeros((80, 40), bool)
    small[10, 8], large[:40] = True, True  # none of the four pixels nearest to a centre at 16x16
    found = {rule: fit_masks([small, large, np.zeros((5, 5), bool)], [(16, 16)] * 3, rule) for rule in MASK_RULES}
    assert {rule: bool(masks[0].any()) for rule, masks in found.items()} == {
        "mask>0": True, "mask>0.5": False, "mask>0 not antialiased": False, "mask>0.5 nearest": False
    }  # fmt: skip
    for masks in found.values():
        assert [(mask.shape, mask.dtype) for mask in masks] == [((16, 16), bool)] * 3
        assert masks[1][:7].all() and not masks[1][9:].any()
        assert not masks[2].any()


@pytest.mark.parametrize("rule", MASK_RULES)
def test_masks_and_maps_of_the_right_size_are_not_changed(rule):
    masks = list(np.random.default_rng(0).random((2, 9, 7)) < 0.5)
    assert all(fitted is mask for fitted, mask in zip(fit_masks(masks, [(9, 7)] * 2, rule), masks, strict=True))
    maps = np.random.default_rng(0).random((2, 9, 7)).astype(np.float32)
    assert fit_maps(maps, [(9, 7)] * 2) is maps


def test_every_map_gets_a_size_of_its_own():
    maps = np.random.default_rng(0).random((3, 9, 7)).astype(np.float32)
    sizes = [(9, 7), (18, 30), (5, 6)]
    fitted = fit_maps(maps, sizes)
    assert (
        [one.shape for one in fitted]
        == sizes
        == [fit_map(one, size).shape for one, size in zip(maps, sizes, strict=True)]
    )
    for one, source, size in zip(fitted, maps, sizes, strict=True):
        assert one.dtype == np.float32
        assert one == pytest.approx(reference.resized(source, size), abs=1e-6)
    assert [one.shape for one in fitted] == sizes, "it can be read again"
    assert (fit_map(np.full((9, 7), 3, np.float32), (18, 21)) == 3).all()
