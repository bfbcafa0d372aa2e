"""Localization metrics: against brute force over every threshold, by property, and where they are undefined."""

import numpy as np
import pytest
import reference_metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc, average_precision_score, roc_auc_score

from benchmarks.metrics import localization
from benchmarks.metrics.detection import UndefinedMetric
from benchmarks.metrics.localization import Pixels, pooled_pro, prepare, prepare_regions, pro_curve
from benchmarks.metrics.pro import per_image_pro, rescaled_pro
from tests.speed.bench_metrics import argsort_aupro, compare_pixel_metrics, compare_spro, native_cost

LIMITS = (0.01, 0.05, 0.3, 1.0)
few = settings(max_examples=40)


def rates(pixels):
    return [localization.auroc(pixels), localization.average_precision(pixels), localization.f1_max(pixels)]


def areas(pixels, limits=LIMITS):
    return [pooled_pro(pixels, limit) for limit in limits]


def of_masks(maps, masks):
    return Pixels(maps, prepare(masks))


def of_regions(maps, regions):
    return Pixels(maps, prepare_regions(regions, [one.shape for one in maps]))


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
    pixels = of_masks(maps, masks)
    labels, scores = masks.ravel(), maps.ravel()
    assert localization.auroc(pixels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert localization.average_precision(pixels) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert localization.f1_max(pixels) == pytest.approx(reference.f1_max(labels, scores), abs=1e-12)
    for limit in LIMITS:
        assert pooled_pro(pixels, limit) == pytest.approx(reference.aupro(maps, masks, limit), abs=1e-12)


@few
@given(scenes())
def test_spro_equals_brute_force_with_overlaps_ties_and_broken_saturations(scene):
    maps, regions = scene
    for limit, value in zip(LIMITS, areas(of_regions(list(maps), regions)), strict=True):
        assert value == pytest.approx(reference.spro(maps, regions, limit), abs=1e-12)


@few
@given(pictures())
def test_spro_with_the_areas_as_saturation_is_aupro(picture):
    maps, masks = picture
    regions = [reference.components(mask) for mask in masks]
    assert areas(of_regions(maps, regions)) == pytest.approx(areas(of_masks(maps, masks)), abs=1e-12)


@few
@given(pictures(), st.permutations(range(3)))
def test_a_strictly_rising_transform_and_a_new_order_of_images_change_nothing(picture, order):
    maps, masks = picture
    pixels, again = of_masks(maps, masks), of_masks(np.exp(9 * maps.astype(np.float64))[order], masks[order])
    before = rates(pixels) + areas(pixels)
    assert rates(again) + areas(again) == pytest.approx(before, abs=1e-12)
    assert all(0 <= value <= 1 for value in before)


@few
@given(scenes(), st.permutations(range(3)))
def test_spro_ignores_the_order_of_images_and_strictly_rising_transforms(scene, order):
    maps, regions = scene
    before = areas(of_regions(maps, regions))
    after = of_regions([np.exp(9 * maps[i].astype(np.float64)) for i in order], [regions[i] for i in order])
    assert areas(after) == pytest.approx(before, abs=1e-12)
    assert all(0 <= value <= 1 for value in before)


@few
@given(pictures(), st.permutations(range(3)))
def test_images_of_several_sizes_are_pooled_pixel_by_pixel(picture, order):
    maps, masks = picture
    cut = [(slice(None), slice(None)), (slice(1, 5), slice(7)), (slice(2), slice(3, 6))]
    maps, masks = ([array[i][cut[i]] for i in order] for array in (maps, masks))
    pixels = of_masks(maps, masks)
    labels, scores = (np.concatenate([one.ravel() for one in of]) for of in (masks, maps))
    assert localization.auroc(pixels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert localization.f1_max(pixels) == pytest.approx(reference.f1_max(labels, scores), abs=1e-12)
    # Padding with a score below all others, in regions of its own, is no part of any image.
    padded = [np.pad(one, [(0, 6 - one.shape[0]), (0, 7 - one.shape[1])], constant_values=-9) for one in maps]
    inside = [np.pad(np.ones(one.shape, bool), [(0, 6 - one.shape[0]), (0, 7 - one.shape[1])]) for one in maps]
    whole = [np.pad(mask, [(0, 6 - mask.shape[0]), (0, 7 - mask.shape[1])]) for mask in masks]
    regions = [reference.components(mask) for mask in whole]
    fpr, pro = reference.operating_points(padded, regions)
    free = sum(int((of & ~mask).sum()) for of, mask in zip(inside, whole, strict=True))
    fpr = np.minimum(fpr * sum(int((~mask).sum()) for mask in whole) / free, 1)
    for limit, value in zip(LIMITS, areas(pixels), strict=True):
        assert value == pytest.approx(reference.area_up_to(fpr, pro, limit), abs=1e-12)


def test_a_constant_map_scores_half():
    masks = np.zeros((2, 4, 4), bool)
    masks[1, 1:3, 1:3] = True
    pixels = of_masks(np.ones((2, 4, 4), np.float32), masks)
    assert localization.auroc(pixels) == pooled_pro(pixels, 1.0) == 0.5
    assert pooled_pro(pixels, 0.3) == pytest.approx(0.15)  # the diagonal, cut at 0.3 and divided by it
    assert localization.average_precision(pixels) == pytest.approx(4 / 32)


def test_the_truth_as_map_scores_one_and_its_opposite_zero():
    masks = np.zeros((2, 5, 5), bool)
    masks[0, 0, 0] = masks[1, 2:4, 3] = True
    best, worst = (of_masks(sign * masks.astype(np.float32), masks) for sign in (1, -1))
    assert [*rates(best), pooled_pro(best)] == pytest.approx([1] * 4)
    assert localization.auroc(worst) == pooled_pro(worst) == 0


def test_a_region_of_one_pixel_counts_as_much_as_a_large_one():
    masks = np.zeros((1, 10, 10), bool)
    masks[0, 0, 0] = masks[0, 5:, 5:] = True
    maps = np.zeros((1, 10, 10), np.float32)
    maps[0, 0, 0] = 1  # found: 1 of 26 defect pixels, 1 of 2 regions
    assert pooled_pro(of_masks(maps, masks)) == pytest.approx(0.5 + 0.5 * 0.15)


def test_pixels_that_touch_at_a_corner_are_one_region_but_not_across_images():
    masks = np.zeros((2, 3, 3), bool)
    masks[0, 0, 0] = masks[0, 1, 1] = masks[1, 0, 0] = True
    assert prepare(masks).saturation.tolist() == [2, 1]


def test_the_area_is_cut_exactly_at_the_limit():
    masks = np.array([[[True, False, False, False, False]]])
    maps = np.array([[[1, 2, 1, 0, 0]]], np.float32)  # PRO rises from 0 to 1 between FPR 0.25 and 0.5
    at = {limit: pooled_pro(of_masks(maps, masks), limit) for limit in (0.25, 0.3, 0.5, 1.0)}
    assert at == pytest.approx({0.25: 0, 0.3: 0.05 * 0.2 / 2 / 0.3, 0.5: 0.125 / 0.5, 1.0: 0.125 + 0.5})


def test_saturation_below_the_area_is_reached_early_and_above_it_never():
    mask = np.zeros((2, 5), bool)
    mask[0, :4] = True
    perfect = [mask.astype(np.float32)]
    assert pooled_pro(of_regions(perfect, [[(mask, 4)]]), 1) == pytest.approx(1)
    assert pooled_pro(of_regions(perfect, [[(mask, 8)]]), 1) == pytest.approx(0.5)
    half_found = np.zeros((2, 5), np.float32)
    half_found[0, :2] = 1
    assert pooled_pro(of_regions([half_found], [[(mask, 2)]]), 1) == pytest.approx(1)


@few
@given(pictures(choice=[2, 5]))
def test_ties_are_drawn_as_in_mvtecs_evaluation(picture):
    # An argsort of all pixels, then only the last of those that share a value, then the trapezoidal rule.
    maps, masks = picture
    assert pooled_pro(of_masks(maps, masks)) == pytest.approx(argsort_aupro(maps, masks), abs=1e-12)


@few
@given(scenes())
def test_the_points_of_the_curve_span_the_area(scene):
    maps, regions = scene
    pixels = of_regions(maps, regions)
    fpr, pro = pro_curve(pixels)
    assert np.trapezoid(pro, fpr) == pytest.approx(pooled_pro(pixels, 1), abs=1e-12)


def test_a_long_curve_is_thinned_and_still_runs_from_0_to_1():
    random = np.random.default_rng(0)
    masks = random.random((2, 60, 60)) < 0.1
    pixels = of_masks((random.random(masks.shape) + 0.3 * masks).astype(np.float32), masks)
    fpr, pro = pro_curve(pixels, points=100)
    assert len(fpr) == len(pro) == 100
    assert (fpr[0], pro[0], fpr[-1], pro[-1]) == pytest.approx((0, 0, 1, 1))
    assert np.trapezoid(pro, fpr) == pytest.approx(pooled_pro(pixels, 1), abs=0.005)


METRICS = (
    localization.auroc,
    localization.average_precision,
    localization.f1_max,
    pooled_pro,
    pro_curve,
    per_image_pro,
    rescaled_pro,
)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
def test_all_normal_and_all_defect_are_undefined_with_a_reason(metric):
    maps = np.random.default_rng(0).random((2, 4, 4)).astype(np.float32)
    with pytest.raises(UndefinedMetric, match="no defect pixel"):
        metric(of_masks(maps, np.zeros(maps.shape, bool)))
    with pytest.raises(UndefinedMetric, match="no defect pixel"):
        metric(of_regions(maps, [[], []]))
    with pytest.raises(UndefinedMetric, match="no defect-free pixel"):
        metric(of_masks(maps, np.ones(maps.shape, bool)))


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(1, 0, 0), (1, 3, 3), (2, 3, 3)])  # defective, defect-free, in a normal image
def test_a_map_that_is_not_finite_is_refused_and_its_image_named(metric, bad, place):
    masks = np.zeros((3, 4, 4), bool)
    masks[:2, 0, 0] = True
    maps = np.random.default_rng(0).random((3, 4, 4)).astype(np.float32)
    maps[place] = bad
    with pytest.raises(ValueError, match=rf"image {place[0]} holds NaN or infinity") as error:
        metric(of_masks(maps, masks))
    assert not isinstance(error.value, UndefinedMetric)


def test_maps_masks_and_regions_that_do_not_fit_are_refused():
    maps, masks = np.zeros((2, 4, 4), np.float32), np.zeros((2, 4, 5), bool)
    masks[:, 0, 0] = True
    with pytest.raises(ValueError, match=r"image 0 must be \(4, 5\) float32, not \(4, 4\)"):
        pooled_pro(of_masks(maps, masks))
    with pytest.raises(ValueError, match="must be float, not int64"):
        pooled_pro(of_masks(maps.astype(int), masks[:, :, :4]))
    with pytest.raises(ValueError, match=r"image 1 must be .* float32, not .* float64"):
        pooled_pro(of_masks([maps[0], maps[1].astype(np.float64)], masks[:, :, :4]))
    with pytest.raises(ValueError, match="1 anomaly maps for the ground truth of 2 images"):
        pooled_pro(of_masks(maps[:1], masks[:, :, :4]))
    with pytest.raises(ValueError, match=r"the mask of image 0 must be .* bool"):
        prepare(masks.astype(np.float32))
    with pytest.raises(ValueError, match="limit"):
        pooled_pro(of_masks(np.eye(4, dtype=np.float32)[None], np.eye(4, dtype=bool)[None]), 0)
    with pytest.raises(ValueError, match="region 0 of image 1: the mask"):
        of_regions(maps, [[], [(np.ones((9, 9), bool), 3)]])
    with pytest.raises(ValueError, match="region 0 of image 1: the mask"):
        of_regions(maps, [[], [(np.zeros((4, 4), bool), 3)]])
    with pytest.raises(ValueError, match="region 0 of image 0: the saturation"):
        of_regions(maps, [[(np.eye(4, dtype=bool), 0)], []])


def test_the_maps_are_not_changed():
    maps = np.random.default_rng(0).random((2, 4, 4)).astype(np.float32)
    masks = np.eye(4, dtype=bool)[None].repeat(2, 0)
    before = maps.copy()
    for metric in METRICS:
        metric(of_masks(maps, masks))
    pooled_pro(of_regions(maps, [[(mask, 2)] for mask in masks]))
    assert (maps == before).all()


def test_all_metrics_of_a_category_share_one_sort(monkeypatch):
    maps, masks = np.random.default_rng(0).random((2, 4, 4)).astype(np.float32), np.eye(4, dtype=bool)[None]
    pixels, split, sorts = of_masks(maps, masks.repeat(2, 0)), Pixels.split, []
    monkeypatch.setattr(Pixels, "split", lambda self: sorts.append(1) or split(self))
    rates(pixels), areas(pixels), pro_curve(pixels)
    assert len(sorts) == 1


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
                    per_image_pro(of_masks(maps.astype(np.float64), masks))
                return
            values.append(auc(fpr / fpr.max(), pro))
    assert per_image_pro(of_masks(maps.astype(np.float64), masks)) == pytest.approx(np.mean(values), abs=1e-12)


def test_the_pro_of_stfpms_code_equals_its_definition_and_exceeds_the_exact_one():
    random = np.random.default_rng(0)
    masks = np.zeros((3, 24, 24), bool)
    masks[1, 4:9, 4:9] = masks[2, 10:20, 2:7] = True
    maps = random.random(masks.shape) + 0.4 * masks
    fpr, pro = reference.thresholded_pro(maps, masks, maps.max() - np.arange(4000) * (np.ptp(maps) / 4000))
    fpr, pro = fpr[fpr <= 0.3], pro[fpr <= 0.3]
    expected = auc((fpr - fpr.min()) / np.ptp(fpr), (pro - pro.min()) / np.ptp(pro))
    assert rescaled_pro(of_masks(maps, masks)) == pytest.approx(expected, abs=1e-12)
    assert rescaled_pro(of_masks(maps, masks)) > pooled_pro(of_masks(maps, masks)) + 0.05


def test_the_benchmark_compares_equal_values():
    for row in (compare_pixel_metrics(32, 1, 1, 1), compare_spro(32, 50, 1, 1, 1)):
        assert row.difference < 1e-12
        assert row.transform_difference < 1e-12
        assert row.peak_mib > 0 and row.ratio > 0


def test_the_cost_at_native_size_is_about_one_copy_of_the_maps():
    cost = native_cost(images=20, size=400, rounds=1)
    assert cost.peak_mib < 1.5 * 20 * 400**2 * 4 / 2**20 + 1
    assert cost.seconds > 0 and cost.preparation_seconds > 0
