"""Localization metrics: against brute force over every threshold, by property, and where they are undefined."""

import numpy as np
import pytest
import reference_metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc, average_precision_score, roc_auc_score

from benchmarks.metrics.conventions import CONVENTIONS, fit_maps, fit_masks
from benchmarks.metrics.detection import UndefinedMetric
from benchmarks.metrics.localization import (
    aupro,
    per_image_pro,
    pixel_metrics,
    prepare,
    prepare_regions,
    pro_curve,
    rescaled_pro,
    spro,
)
from tests.speed.bench_metrics import compare_pixel_metrics, compare_spro

LIMITS = (0.01, 0.05, 0.3, 1.0)
few = settings(max_examples=40)


def flat(metrics):
    return [*list(metrics.values())[:3], *metrics["aupro"].values()]


@st.composite
def pictures(draw, choice=(1, 2, 5, 1000)):
    """Maps (3, 6, 7) with few or many distinct values, and masks with some defect and some defect-free pixel."""
    random, levels = np.random.default_rng(draw(st.integers(0, 2**32))), draw(st.sampled_from(choice))
    masks = random.random((3, 6, 7)) < draw(st.sampled_from([0.02, 0.3, 0.9]))
    masks[:, 0, 0], masks[1, 2, 3] = False, True
    return random.integers(0, levels, masks.shape).astype(np.float32) / levels - 0.25, masks


@st.composite
def scenes(draw):
    """Maps (3, 6, 7) and overlapping regions with saturations below and above their area, whole and broken."""
    maps, _ = draw(pictures())
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    regions = []
    for count in (0, 2, 3):
        masks = [random.random((6, 7)) < 0.2 for _ in range(count)]
        for mask in masks:
            mask[0, 0], mask[3, 3] = False, True
        regions.append([(mask, draw(st.sampled_from([0.4, 1, 2.5, 5, 30]))) for mask in masks])
    return maps, regions


@few
@given(pictures())
def test_pixel_metrics_equal_scikit_learn_and_brute_force(picture):
    maps, masks = picture
    found = pixel_metrics(maps, prepare(masks), LIMITS)
    labels, scores = masks.ravel(), maps.ravel()
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert found["pixel_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert found["pixel_f1_max"] == pytest.approx(reference.f1_max(labels, scores), abs=1e-12)
    for limit in LIMITS:
        assert found["aupro"][limit] == pytest.approx(reference.aupro(maps, masks, limit), abs=1e-12)
        assert aupro(maps, prepare(masks), limit) == found["aupro"][limit]


@few
@given(scenes())
def test_spro_equals_brute_force_with_overlaps_ties_and_broken_saturations(scene):
    maps, regions = scene
    for limit, value in spro(list(maps), regions, LIMITS).items():
        assert value == pytest.approx(reference.spro(maps, regions, limit), abs=1e-12)


@few
@given(pictures())
def test_spro_with_the_areas_as_saturation_is_aupro(picture):
    maps, masks = picture
    regions = [reference.components(mask) for mask in masks]
    assert spro(maps, regions, LIMITS) == pytest.approx(pixel_metrics(maps, prepare(masks), LIMITS)["aupro"], abs=1e-12)


@few
@given(pictures(), st.permutations(range(3)))
def test_a_strictly_rising_transform_and_a_new_order_of_images_change_nothing(picture, order):
    maps, masks = picture
    before = flat(pixel_metrics(maps, prepare(masks), LIMITS))
    after = flat(pixel_metrics(np.exp(9 * maps.astype(np.float64))[order], prepare(masks[order]), LIMITS))
    assert after == pytest.approx(before, abs=1e-12)
    assert all(0 <= value <= 1 for value in before)


@few
@given(scenes(), st.permutations(range(3)))
def test_spro_ignores_the_order_of_images_and_strictly_rising_transforms(scene, order):
    maps, regions = scene
    before = spro(maps, regions, LIMITS)
    after = spro([np.exp(9 * maps[i].astype(np.float64)) for i in order], [regions[i] for i in order], LIMITS)
    assert after == pytest.approx(before, abs=1e-12)
    assert all(0 <= value <= 1 for value in before.values())


def test_a_constant_map_scores_half():
    masks = np.zeros((2, 4, 4), bool)
    masks[1, 1:3, 1:3] = True
    found = pixel_metrics(np.ones((2, 4, 4), np.float32), prepare(masks), (0.3, 1.0))
    assert found["pixel_auroc"] == found["aupro"][1.0] == 0.5
    assert found["aupro"][0.3] == pytest.approx(0.15)  # the diagonal, cut at 0.3 and divided by it
    assert found["pixel_ap"] == pytest.approx(4 / 32)


def test_the_truth_as_map_scores_one_and_its_opposite_zero():
    masks = np.zeros((2, 5, 5), bool)
    masks[0, 0, 0] = masks[1, 2:4, 3] = True
    assert flat(pixel_metrics(masks.astype(np.float32), prepare(masks))) == pytest.approx([1] * 4)
    worst = pixel_metrics(-masks.astype(np.float32), prepare(masks))
    assert worst["pixel_auroc"] == worst["aupro"][0.3] == 0


def test_a_region_of_one_pixel_counts_as_much_as_a_large_one():
    masks = np.zeros((1, 10, 10), bool)
    masks[0, 0, 0] = masks[0, 5:, 5:] = True
    maps = np.zeros((1, 10, 10), np.float32)
    maps[0, 0, 0] = 1  # found: 1 of 26 defect pixels, 1 of 2 regions
    assert aupro(maps, prepare(masks), 0.3) == pytest.approx(0.5 + 0.5 * 0.15)


def test_pixels_that_touch_at_a_corner_are_one_region_but_not_across_images():
    masks = np.zeros((2, 3, 3), bool)
    masks[0, 0, 0] = masks[0, 1, 1] = masks[1, 0, 0] = True
    assert prepare(masks).saturation.tolist() == [2, 1]


def test_the_area_is_cut_exactly_at_the_limit():
    masks = np.array([[[True, False, False, False, False]]])
    maps = np.array([[[1, 2, 1, 0, 0]]], np.float32)  # PRO rises from 0 to 1 between FPR 0.25 and 0.5
    at = {limit: aupro(maps, prepare(masks), limit) for limit in (0.25, 0.3, 0.5, 1.0)}
    assert at == pytest.approx({0.25: 0, 0.3: 0.05 * 0.2 / 2 / 0.3, 0.5: 0.125 / 0.5, 1.0: 0.125 + 0.5})


def test_saturation_below_the_area_is_reached_early_and_above_it_never():
    mask = np.zeros((2, 5), bool)
    mask[0, :4] = True
    perfect = [mask.astype(np.float32)]
    assert spro(perfect, [[(mask, 4)]], (1.0,))[1.0] == pytest.approx(1)
    assert spro(perfect, [[(mask, 8)]], (1.0,))[1.0] == pytest.approx(0.5)
    half_found = np.zeros((2, 5), np.float32)
    half_found[0, :2] = 1
    assert spro([half_found], [[(mask, 2)]], (1.0,))[1.0] == pytest.approx(1)


@few
@given(scenes())
def test_the_points_of_the_curve_span_the_area(scene):
    maps, regions = scene
    fpr, pro = pro_curve(maps, prepare_regions(regions, (6, 7)))
    assert np.trapezoid(pro, fpr) == pytest.approx(spro(maps, regions, (1.0,))[1.0], abs=1e-12)


def test_a_long_curve_is_thinned_and_still_runs_from_0_to_1():
    random = np.random.default_rng(0)
    masks = random.random((2, 60, 60)) < 0.1
    maps = (random.random(masks.shape) + 0.3 * masks).astype(np.float32)
    fpr, pro = pro_curve(maps, prepare(masks), points=100)
    assert len(fpr) == len(pro) == 100
    assert (fpr[0], pro[0], fpr[-1], pro[-1]) == pytest.approx((0, 0, 1, 1))
    assert np.trapezoid(pro, fpr) == pytest.approx(aupro(maps, prepare(masks), 1.0), abs=0.005)


def test_all_normal_and_all_defect_are_undefined_with_a_reason():
    maps = np.random.default_rng(0).random((2, 4, 4)).astype(np.float32)
    for metric in (pixel_metrics, aupro, pro_curve, per_image_pro, rescaled_pro):
        with pytest.raises(UndefinedMetric, match="no defect pixel"):
            metric(maps, prepare(np.zeros(maps.shape, bool)))
        with pytest.raises(UndefinedMetric, match="no defect-free pixel"):
            metric(maps, prepare(np.ones(maps.shape, bool)))
    with pytest.raises(UndefinedMetric, match="no defect pixel"):
        spro(maps, [[], []])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(1, 0, 0), (1, 3, 3)])  # a defect and a defect-free pixel
def test_a_map_that_is_not_finite_is_refused_and_its_image_named(bad, place):
    masks = np.zeros((3, 4, 4), bool)
    masks[1:, 0, 0] = True
    maps = np.random.default_rng(0).random((3, 4, 4)).astype(np.float32)
    maps[place] = bad
    for metric in (pixel_metrics, aupro, pro_curve, per_image_pro, rescaled_pro):
        with pytest.raises(ValueError, match=r"image \d holds NaN or infinity") as error:
            metric(maps, prepare(masks))
        assert not isinstance(error.value, UndefinedMetric)


def test_maps_masks_and_regions_that_do_not_fit_are_refused():
    maps, masks = np.zeros((2, 4, 4), np.float32), np.zeros((2, 4, 5), bool)
    with pytest.raises(ValueError, match=r"\(2, 4, 5\) float"):
        aupro(maps, prepare(masks))
    with pytest.raises(ValueError, match="float"):
        aupro(maps.astype(int), prepare(masks[:, :, :4]))
    with pytest.raises(ValueError, match="bool"):
        prepare(masks.astype(np.float32))
    with pytest.raises(ValueError, match="limit"):
        aupro(np.eye(4, dtype=np.float32)[None], prepare(np.eye(4, dtype=bool)[None]), 0)
    with pytest.raises(ValueError, match="region 0 of image 1: the mask"):
        spro(maps, [[], [(np.ones((9, 9), bool), 3)]])
    with pytest.raises(ValueError, match="region 0 of image 1: the mask"):
        spro(maps, [[], [(np.zeros((4, 4), bool), 3)]])
    with pytest.raises(ValueError, match="region 0 of image 0: the saturation"):
        spro(maps, [[(np.eye(4, dtype=bool), 0)], []])


def test_the_maps_are_not_changed():
    maps, masks = (
        np.random.default_rng(0).random((2, 4, 4)).astype(np.float32),
        np.eye(4, dtype=bool)[None].repeat(2, 0),
    )
    before = maps.copy()
    pixel_metrics(maps, prepare(masks))
    spro(maps, [[(mask, 2)] for mask in masks])
    assert (maps == before).all()


@few
@given(pictures(choice=[1000]))
def test_the_pro_of_rds_code_equals_its_definition(picture):
    maps, masks = picture
    values = []
    for one, mask in zip(maps.astype(np.float64), masks, strict=True):
        if mask.any():
            thresholds = one.min() + np.arange(200) * (np.ptp(one) / 200)
            fpr, pro = reference.thresholded_pro(one[None], mask[None], thresholds)
            fpr, pro = fpr[fpr < 0.3], pro[fpr < 0.3]
            if len(fpr) < 2 or fpr.max() == 0:
                with pytest.raises(UndefinedMetric, match="thresholds of image"):
                    per_image_pro(maps.astype(np.float64), prepare(masks))
                return
            values.append(auc(fpr / fpr.max(), pro))
    assert per_image_pro(maps.astype(np.float64), prepare(masks)) == pytest.approx(np.mean(values), abs=1e-12)


def test_the_pro_of_stfpms_code_equals_its_definition_and_exceeds_the_exact_one():
    random = np.random.default_rng(0)
    masks = np.zeros((3, 24, 24), bool)
    masks[1, 4:9, 4:9] = masks[2, 10:20, 2:7] = True
    maps = random.random(masks.shape) + 0.4 * masks
    fpr, pro = reference.thresholded_pro(maps, masks, maps.max() - np.arange(4000) * (np.ptp(maps) / 4000))
    fpr, pro = fpr[fpr <= 0.3], pro[fpr <= 0.3]
    expected = auc((fpr - fpr.min()) / np.ptp(fpr), (pro - pro.min()) / np.ptp(pro))
    assert rescaled_pro(maps, prepare(masks)) == pytest.approx(expected, abs=1e-12)
    assert rescaled_pro(maps, prepare(masks)) > aupro(maps, prepare(masks)) + 0.05


def test_each_convention_says_what_it_is():
    described = {name: convention.describe((128, 128)) for name, convention in CONVENTIONS.items()}
    assert described == {
        "default": "pooled, FPR<=0.3, mask>0, 128 px",
        "loco": "saturated, FPR<=0.05, mask>0, native px",
        "rd_official": "per_image, FPR<0.3, mask>0.5, 256 px",
        "mvtec_ad_2": "pooled, FPR<=0.05, mask>0, native px",
        "stfpm_official": "rescaled, FPR<=0.3, mask>0, 256 px",
        "pooled_256": "pooled, FPR<=0.3, mask>0, 256 px",
        "pooled_256_half": "pooled, FPR<=0.3, mask>0.5, 256 px",
        "pooled_native": "pooled, FPR<=0.3, mask>0, native px",
    }
    assert CONVENTIONS["default"].describe((96, 128)) == "pooled, FPR<=0.3, mask>0, 96x128 px"


def test_each_convention_computes_its_own_pro():
    random = np.random.default_rng(0)
    masks = np.zeros((2, 24, 24), bool)
    masks[0, 4:9, 4:9] = masks[1, 10:20, 2:7] = True
    maps, truth = (random.random(masks.shape) + 0.4 * masks).astype(np.float32), prepare(masks)
    found = {name: convention.aupro(maps, truth) for name, convention in CONVENTIONS.items()}
    assert found == {
        "default": aupro(maps, truth, 0.3),
        **dict.fromkeys(("loco", "mvtec_ad_2"), aupro(maps, truth, 0.05)),
        "rd_official": per_image_pro(maps, truth, 0.3),
        "stfpm_official": rescaled_pro(maps, truth, 0.3),
        **dict.fromkeys(("pooled_256", "pooled_256_half", "pooled_native"), aupro(maps, truth, 0.3)),
    }


@pytest.mark.parametrize(("size", "threshold"), [("map", 0), (37, 0), (37, 0.5), ("native", 0)])
def test_a_pooled_convention_equals_its_definition_from_native_masks_and_small_maps(size, threshold):
    random = np.random.default_rng(1)
    masks = [np.zeros((61, 53), bool) for _ in range(3)]
    masks[1][5:20, 8:30] = masks[1][40:43, 2:50] = masks[2][30:58, 11:19] = True
    maps = random.random((3, 21, 19)).astype(np.float32)
    convention = CONVENTIONS["pooled_256"]._replace(size=size, mask_threshold=threshold)
    target = convention.target((21, 19), (61, 53))
    found = convention.aupro(fit_maps(maps, target), prepare(fit_masks(masks, target, threshold)))
    slow = [reference.resized(mask.astype(float), target) > max(threshold, 1 / 510) for mask in masks]
    assert found == pytest.approx(
        reference.aupro([reference.resized(one, target) for one in maps], slow, 0.3), abs=1e-5
    )


def test_one_convention_differs_from_the_next_in_one_choice_alone():
    def changed(one: str, other: str) -> set[str]:
        fields = CONVENTIONS[one]._fields[1:]
        return {name for name in fields if getattr(CONVENTIONS[one], name) != getattr(CONVENTIONS[other], name)}

    assert changed("pooled_256", "stfpm_official") == {"pro"}
    assert changed("pooled_256", "pooled_256_half") == {"mask_threshold"}
    assert changed("pooled_256_half", "rd_official") == {"pro"}
    assert changed("pooled_256", "pooled_native") == {"size"}


def test_a_small_defect_survives_a_resize_at_threshold_0_and_vanishes_at_half():
    small, large = np.zeros((64, 64), bool), np.zeros((80, 40), bool)
    small[10, 10], large[:40] = True, True
    for threshold, pixels in ((0, True), (0.5, False)):
        fitted = fit_masks([small, large, np.zeros((5, 5), bool)], (16, 16), threshold)
        assert fitted.shape == (3, 16, 16) and fitted.dtype == bool
        assert fitted[0].any() == pixels
        assert fitted[1, :7].all() and not fitted[1, 9:].any()
        assert not fitted[2].any()


def test_masks_and_maps_of_the_right_size_are_not_changed():
    masks = np.random.default_rng(0).random((2, 9, 7)) < 0.5
    assert all((fit_masks(list(masks), (9, 7), threshold) == masks).all() for threshold in (0, 0.5))
    maps = np.random.default_rng(0).random((2, 9, 7)).astype(np.float32)
    assert (fit_maps(maps, (9, 7)) == maps).all()
    assert fit_maps(np.full((2, 9, 7), 3, np.float32), (18, 21)) == pytest.approx(np.full((2, 18, 21), 3))


def test_the_benchmark_compares_equal_values():
    for row in (compare_pixel_metrics(32, 1, 1, 1), compare_spro(32, 50, 1, 1, 1)):
        assert row.difference < 1e-12
        assert row.transform_difference < 1e-12
        assert row.peak_mib > 0 and row.ratio > 0
