"""Conventions: what each says of itself, and that scoring gives what a slow reading of its rule gives."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import reference_metrics as reference
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks import datasets
from benchmarks.datasets.base import Region, Truth
from benchmarks.metrics.conventions import CONVENTIONS
from benchmarks.metrics.localization import Pixels, average_precision, pooled_pro, prepare
from benchmarks.metrics.resize import MASK_RULES, fit_map
from benchmarks.scoring import score
from tests.speed.bench_metrics import argsort_aupro

SHARED = Path(__file__).parent.parent.parent / "shared" / "data" / "mvtec_ad"


def test_each_convention_says_what_it_is():
    assert {name: convention.describe() for name, convention in CONVENTIONS.items()} == {
        "default": "pooled, FPR<=0.3, native size",
        "map_size": "pooled, FPR<=0.3, mask>0, size of the maps",
        "loco": "saturated, FPR<=0.05, native size",
        "mvtec_ad_2": "pooled, FPR<=0.05, native size",
        "rd_official": "per_image, FPR<0.3, mask>0.5, 256 px",
        "stfpm_official": "rescaled, FPR<=0.3, mask>0 not antialiased, 256 px",
        "aand_official": "per_image, FPR<0.3, mask>0.5 nearest, 256 px",
        "pooled_256": "pooled, FPR<=0.3, mask>0, 256 px",
        "pooled_256_half": "pooled, FPR<=0.3, mask>0.5, 256 px",
    }


@pytest.mark.parametrize("convention", CONVENTIONS.values(), ids=CONVENTIONS)
def test_masks_are_left_as_annotated_at_native_size_alone(convention):
    assert (convention.masks is None) == (convention.size == "native")
    assert convention.masks is None or convention.masks in MASK_RULES
    assert convention.describe().endswith(convention.describe_pixels())


def test_one_convention_differs_from_the_next_in_one_choice_alone():
    def changed(one: str, other: str) -> set[str]:
        fields = CONVENTIONS[one]._fields[1:]
        return {name for name in fields if getattr(CONVENTIONS[one], name) != getattr(CONVENTIONS[other], name)}

    assert changed("pooled_256", "pooled_256_half") == {"masks"}
    assert changed("pooled_256_half", "rd_official") == {"pro"}
    assert changed("rd_official", "aand_official") == {"masks"}
    assert changed("default", "mvtec_ad_2") == {"fpr_limit"}
    assert changed("map_size", "pooled_256") == {"size"}


TOLERANCE = 2e-5  # of the slow readings, which cut the corners of a curve

# Three images of different sizes, one of them normal: defects small and large, at borders, and maps smaller than all.
SIZES = [(61, 53), (300, 280), (40, 97)]
REGIONS = [[np.s_[5:20, 8:30], np.s_[40:43, 2:50], np.s_[60, 51:53]], [np.s_[100:190, 30:70], np.s_[7:9, 250:253]], []]
MAPS = np.random.default_rng(1).random((3, 32, 32), np.float32)
MAPS[0, 2:9, 4:17] += 0.5
MAPS[1, 10:19, 3:8] += 0.3


def truths() -> list[Truth]:
    found = []
    for size, places in zip(SIZES, REGIONS, strict=True):
        regions = []
        for place in places:
            region = np.zeros(size, bool)
            region[place] = True
            regions.append(Region(region, 0.7 * float(region.sum())))
        mask = np.any([np.zeros(size, bool), *(region.mask for region in regions)], axis=0)
        found.append(Truth(bool(places), mask, tuple(regions), "anomalous" if places else "good"))
    return found


def scored(name: str, order: list[int] | None = None) -> dict[str, float]:
    order = order or [0, 1, 2]
    cell = score.CellPredictions({}, [str(i) for i in order], MAPS.max((1, 2))[order], MAPS[order])
    rows = list(score.category_rows([truths()[i] for i in order], [cell], [CONVENTIONS[name]]))
    assert not any(row["reason"] for row in rows)
    return {row["metric"]: row["value"] for row in rows if row["convention"] != "folder label"}


def expected(name: str) -> dict[str, float]:
    """By reading the rule of the convention, pixel by pixel."""
    masks, regions = [truth.mask for truth in truths()], [truth.regions for truth in truths()]
    if name in ("default", "mvtec_ad_2", "loco"):
        maps = [reference.resized(one, size).astype(np.float32) for one, size in zip(MAPS, SIZES, strict=True)]
        if name == "loco":
            return {"spro": coarse_spro(maps, regions, 0.05)}
    elif name == "map_size":
        maps, masks = list(MAPS), [reference.resized(mask.astype(float), (32, 32)) > 1 / 510 for mask in masks]
    else:
        square = (256, 256)
        maps = [reference.resized(one, square).astype(np.float32) for one in MAPS]
        brought = {
            "rd_official": lambda mask: reference.resized(mask.astype(float), square) > 0.5,
            "pooled_256_half": lambda mask: reference.resized(mask.astype(float), square) > 0.5,
            "pooled_256": lambda mask: reference.resized(mask.astype(float), square) > 1 / 510,
            "stfpm_official": lambda mask: reference.bilinear(mask * 255.0, square) > 0.5,
            "aand_official": lambda mask: reference.nearest(mask, square),
        }[name]
        masks = [brought(mask) for mask in masks]
    labels, scores = (np.concatenate([one.ravel() for one in of]) for of in (masks, maps))
    pixel = {"pixel_auroc": roc_auc_score(labels, scores), "pixel_ap": average_precision_score(labels, scores)}
    if name in ("rd_official", "aand_official"):
        return pixel | {
            "aupro": np.mean([reference.rd_pro(one, mask) for one, mask in zip(maps[:2], masks[:2], strict=True)])
        }
    if name == "stfpm_official":
        return pixel | {"aupro": reference.stfpm_pro(maps, masks)}
    areas = [[Region(mask, mask.sum()) for mask, _ in reference.components(mask)] for mask in masks]
    return pixel | {"aupro": coarse_spro(maps, areas, 0.05 if name == "mvtec_ad_2" else 0.3)}


def coarse_spro(maps, regions, limit):
    """sPRO from 2000 thresholds, for images of any size: the curve's corners between them are cut."""
    free = [
        ~np.any([np.zeros(one.shape, bool), *(r.mask for r in of)], axis=0)
        for one, of in zip(maps, regions, strict=True)
    ]
    fpr, pro = [0.0], [0.0]
    values = np.concatenate([one.ravel() for one in maps])
    for threshold in np.quantile(values, np.linspace(1, 0.4, 2000)):
        found = [one >= threshold for one in maps]
        fpr.append(sum(np.sum(a & b) for a, b in zip(found, free, strict=True)) / sum(np.sum(one) for one in free))
        shares = [min(np.sum(a & r.mask) / r.saturation, 1) for a, of in zip(found, regions, strict=True) for r in of]
        pro.append(np.mean(shares))
    return reference.area_up_to(fpr, pro, limit)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_scoring_under_a_convention_equals_a_slow_reading_of_its_rule(name):
    found = scored(name)
    assert set(found) == ({"spro"} if name == "loco" else {"pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro"})
    for metric, value in expected(name).items():
        assert found[metric] == pytest.approx(value, abs=TOLERANCE), metric


def test_any_two_conventions_are_further_apart_than_that_tolerance():
    found = {name: scored(name) for name in CONVENTIONS if name != "loco"}
    for one, other in combinations(found, 2):
        pixels = CONVENTIONS[one].describe_pixels() == CONVENTIONS[other].describe_pixels()
        for metric in ("aupro",) if pixels else ("pixel_ap", "aupro"):
            assert abs(found[one][metric] - found[other][metric]) > 3 * TOLERANCE, (one, other, metric)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_which_image_comes_first_changes_nothing_though_their_sizes_differ(name):
    assert scored(name, [2, 0, 1]) == pytest.approx(scored(name), abs=1e-12)


@pytest.mark.realdata
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there")
def test_on_real_images_float16_costs_little_and_small_dilated_masks_flatter():
    dataset = datasets.load("mvtec_ad", SHARED, ["toothbrush"])
    mean = np.mean([grey(item.image) for item in dataset.items("toothbrush", "train")], axis=0)
    items = dataset.items("toothbrush", "test")
    maps = np.stack([gaussian_filter(abs(grey(item.image) - mean), 2) for item in items])
    truths = [dataset.truth(item) for item in items]
    cell = score.CellPredictions({}, [item.key for item in items], maps.max((1, 2)), maps)
    rows = score.category_rows(truths, [cell], [CONVENTIONS["default"], CONVENTIONS["map_size"]])
    found = {(row["metric"], row["convention"]): row["value"] for row in rows}
    masks = np.stack([truth.mask for truth in truths])
    native = np.stack([fit_map(one, mask.shape) for one, mask in zip(maps, masks, strict=True)])
    assert found["aupro", "pooled, FPR<=0.3, native size"] == pytest.approx(argsort_aupro(native, masks), abs=1e-9)
    precision = found["pixel_ap", "native size"]
    assert precision == pytest.approx(average_precision_score(masks.ravel(), native.ravel()), abs=1e-9)
    assert found["pixel_ap", "mask>0, size of the maps"] > 1.02 * precision
    rounded = Pixels(native.astype(np.float16), prepare(masks))
    assert pooled_pro(rounded) == pytest.approx(found["aupro", "pooled, FPR<=0.3, native size"], abs=1e-5)
    assert average_precision(rounded) == pytest.approx(precision, abs=5e-4)


def grey(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("L").resize((128, 128)), np.float32) / 255
