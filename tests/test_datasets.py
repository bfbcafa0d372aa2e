"""Data sets: what is read from which layout, and what is answered to files that are missing, broken or odd."""

import json
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import datasets, protocols
from benchmarks.datasets import _checks, toy
from benchmarks.datasets._contents import read_all
from benchmarks.datasets._digests import READING
from benchmarks.datasets._files import read_image
from benchmarks.datasets._masks import read_mask
from benchmarks.datasets._problems import Problem
from benchmarks.datasets.base import Dataset
from benchmarks.datasets.visa import official_split
from methods.base import InputError

SHARED = Path(__file__).parent.parent.parent / "shared" / "data" / "mvtec_ad"
SIZE = (24, 20)


def save(path: Path, value: int = 100, mode: str = "RGB", size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).convert(mode).save(path)
    return path


def mask(path: Path, value: int = 255, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(size[::-1], np.uint8)
    pixels[2:5, 3:9] = value
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree in the layout of MVTec AD, with one category."""
    root = tmp_path / "own"
    for index in range(3):
        save(root / "nut" / "train" / "good" / f"{index:03}.png", index)
    save(root / "nut" / "test" / "good" / "000.png", 50)
    for index in range(2):
        save(root / "nut" / "test" / "crack" / f"{index:03}.png", 60 + index)
        mask(root / "nut" / "ground_truth" / "crack" / f"{index:03}_mask.png")
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of digests that no other test has filled."""
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / "cache"))
    return tmp_path / "cache"


def problems(dataset: Dataset) -> list[Problem]:
    return read_all(dataset)[0]


def messages(dataset: Dataset, severity: str = "error") -> str:
    return "\n".join(problem.message for problem in problems(dataset) if problem.severity == severity)


def test_a_folder_is_read_as_train_test_and_masks(tree: Path) -> None:
    dataset = datasets.load("folder", tree)
    assert dataset.categories == ("nut",)
    assert [item.key for item in dataset.items("nut", "test")] == [
        "nut/test/crack/000", "nut/test/crack/001", "nut/test/good/000",
    ]  # fmt: skip
    truths = [dataset.truth(item) for item in dataset.items("nut", "test")]
    assert [truth.anomalous for truth in truths] == [True, True, False]
    assert [int(truth.mask.sum()) for truth in truths] == [18, 18, 0]
    assert not problems(dataset)


def test_a_sample_tells_a_method_nothing_of_its_label(tree: Path) -> None:
    dataset = datasets.load("folder", tree)
    for protocol in protocols.available():
        for split in protocols.expand(protocol, dataset):
            for items in split.test.values():
                given = [dataset.sample(item) for item in items]
                assert not any(word in sample.key for sample in given for word in ("crack", "good", "000"))
                assert [sample.key for sample in given] == sorted(sample.key for sample in given)
                assert set(vars(given[0])) == {"key", "category", "read"}


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "RGBA", "1"])
def test_an_image_of_any_mode_becomes_rgb_bytes(tmp_path: Path, mode: str) -> None:
    suffix = "tiff" if mode == "CMYK" else "png"
    image = read_image(save(tmp_path / f"image.{suffix}", 255, mode))
    assert (image.shape, image.dtype) == ((3, SIZE[1], SIZE[0]), torch.uint8)
    assert image.min() == 255


def test_sixteen_bits_are_scaled_not_cut_off(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png")[0].tolist() == [[0, 1, 128, 255]]


def test_a_mask_keeps_the_values_that_are_stored(tmp_path: Path) -> None:
    assert set(np.unique(read_mask(mask(tmp_path / "mask.png", 3)).values)) == {0, 3}


def zero_bytes(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[:-200])


def not_an_image(path: Path) -> None:
    path.write_text("hello")


@pytest.mark.parametrize("spoil", [zero_bytes, truncated, not_an_image])
@pytest.mark.parametrize("name", ["train/good/001.png", "test/crack/000.png", "ground_truth/crack/000_mask.png"])
def test_a_file_that_cannot_be_read_is_named_before_any_training(
    tree: Path, spoil: Callable[[Path], None], name: str
) -> None:
    path = tree / "nut" / name
    spoil(path)
    dataset = datasets.load("folder", tree)
    with pytest.raises(InputError, match=str(path)) as error:
        _checks.check(dataset)
        dataset.revision()
    assert "Extract the archive again" in str(error.value)
    assert str(path) in messages(dataset)


def test_a_mask_of_another_size_is_refused_before_any_training(tree: Path) -> None:
    path = mask(tree / "nut" / "ground_truth" / "crack" / "001_mask.png", size=(30, 20))
    with pytest.raises(InputError, match=r"001_mask\.png: mask of 30x20 pixels, its image .* has 24x20"):
        _checks.check(datasets.load("folder", tree))
    assert str(path) in messages(datasets.load("folder", tree))


def test_masks_and_images_must_come_in_pairs(tree: Path) -> None:
    (tree / "nut" / "ground_truth" / "crack" / "000_mask.png").unlink()
    mask(tree / "nut" / "ground_truth" / "crack" / "007_mask.png")
    found = messages(datasets.load("folder", tree))
    assert "crack/000.png: anomalous test image without a mask" in found
    assert "007_mask.png: mask without its image" in found
    with pytest.raises(InputError):
        _checks.check(datasets.load("folder", tree))


def test_a_half_extracted_category_is_refused(tree: Path) -> None:
    shutil.rmtree(tree / "nut" / "train")
    with pytest.raises(InputError, match="no training images"):
        _checks.check(datasets.load("folder", tree))


def test_a_test_set_of_one_class_is_usable_and_reported(tree: Path) -> None:
    shutil.rmtree(tree / "nut" / "test" / "good")
    assert any("no normal test image" in notice.message for notice in _checks.check(datasets.load("folder", tree)))


def test_a_single_training_image_is_usable_and_reported(tree: Path) -> None:
    for name in ("001", "002"):
        (tree / "nut" / "train" / "good" / f"{name}.png").unlink()
    assert any("a single training image" in notice.message for notice in _checks.check(datasets.load("folder", tree)))


def test_a_missing_root_says_where_to_get_the_data_and_how_to_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PROCTOR_MVTEC_AD_ROOT", raising=False)
    with pytest.raises(InputError) as error:
        datasets.load("mvtec_ad", tmp_path / "nowhere")
    for part in ("nowhere", "PROCTOR_MVTEC_AD_ROOT", "data/mvtec_ad", "mvtec.com", "non-commercial"):
        assert part in str(error.value)


def test_a_root_can_be_named_by_an_environment_variable(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROCTOR_FOLDER_ROOT", str(tree))
    assert datasets.load("folder").root == tree


def test_an_unknown_data_set_or_category_is_answered_with_those_there_are(tree: Path) -> None:
    with pytest.raises(InputError, match="Did you mean 'visa'"):
        datasets.load("vsa")
    with pytest.raises(InputError, match="On disk: nut"):
        datasets.load("folder", tree, ["bolt"])


def test_counts_that_differ_from_the_official_ones_are_a_notice(tree: Path) -> None:
    (tree / "nut").rename(tree / "screw")
    assert "3 train (official 320)" in messages(datasets.load("mvtec_ad", tree), "notice")


@pytest.mark.parametrize(
    ("name", "train", "validation", "test"),
    [
        ("mvtec_ad", 3629, 0, 1725),
        ("visa", 8659, 0, 2162),
        ("mvtec_loco", 1778, 305, 1568),
        ("mvtec_3d_rgb", 2656, 294, 1197),
    ],
)
def test_official_counts_add_up_to_the_published_totals(name: str, train: int, validation: int, test: int) -> None:
    counts = datasets.find(name).official_counts.values()
    totals = [sum(count["train"] for count in counts), sum(count.get("validation", 0) for count in counts)]
    assert [*totals, sum(sum(count.values()) for count in counts) - sum(totals)] == [train, validation, test]


def test_a_revision_changes_with_a_file_and_not_with_the_place(tree: Path, tmp_path: Path) -> None:
    before = datasets.load("folder", tree).revision()
    moved = tmp_path / "moved"
    shutil.copytree(tree, moved)
    assert datasets.load("folder", moved).revision() == before
    mask(moved / "nut" / "ground_truth" / "crack" / "000_mask.png", 254)
    assert datasets.load("folder", moved).revision() != before


@pytest.mark.parametrize(
    "damage", ["{oops", "[1]", '{"FILE": 5}', '{"FILE": [1, 2]}', '{"FILE": [SIZE, TIME, 7, 0, 0, false]}']
)
def test_a_damaged_cache_of_digests_changes_no_revision(tree: Path, cache: Path, damage: str) -> None:
    dataset = datasets.load("folder", tree)
    before = dataset.revision()
    file = tree / "nut" / "train" / "good" / "000.png"
    stat = file.stat()
    for word, value in (("FILE", file.resolve()), ("SIZE", stat.st_size), ("TIME", stat.st_mtime_ns)):
        damage = damage.replace(word, str(value))
    (cache / f"digests-{READING}.json").write_text(damage)
    assert dataset.revision() == before


def test_a_set_that_only_a_person_may_download_says_how(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fill in the form"):
        datasets.find("mvtec_ad").fetch(tmp_path / "new")


def test_visa_is_not_downloaded_over_an_existing_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pooch.retrieve", lambda *_, **__: pytest.fail("the download was started"))
    with pytest.raises(InputError, match="exists already"):
        datasets.find("visa").fetch(tmp_path)


def test_the_counts_of_visa_are_those_of_its_official_split() -> None:
    rows = official_split()
    test = rows[rows["split"] == "test"]
    for category, counts in datasets.find("visa").official_counts.items():
        labels = test.loc[test["object"] == category, "label"].value_counts()
        train = int(((rows["object"] == category) & (rows["split"] == "train")).sum())
        assert counts == {"train": train, "good": labels["normal"], "anomalous": labels["anomaly"]}, category


def test_mvtec_3d_reads_rgb_and_its_masks_and_no_mask_of_a_normal_image(tmp_path: Path) -> None:
    category = tmp_path / "bagel"
    for name in ("train/good", "validation/good", "test/good", "test/hole"):
        save(category / name / "rgb" / "000.png")
    mask(category / "test" / "good" / "gt" / "000.png", 0)
    mask(category / "test" / "hole" / "gt" / "000.png")
    dataset = datasets.load("mvtec_3d_rgb", tmp_path)
    assert dataset.counts("bagel") == {"train": 1, "validation": 1, "good": 1, "anomalous": 1}
    truths = [dataset.truth(item) for item in dataset.items("bagel", "test")]
    assert [(truth.anomalous, int(truth.mask.sum())) for truth in truths] == [(False, 0), (True, 18)]
    assert not messages(dataset)


def test_visa_reads_both_layouts_to_the_same_keys(tmp_path: Path) -> None:
    raw, converted = tmp_path / "raw", tmp_path / "converted"
    table = Path(datasets.__file__).with_name("visa_1cls.csv.xz")
    lines = lzma.decompress(table.read_bytes()).decode().splitlines()
    rows = [line.split(",") for line in lines if line.startswith("candle,")]
    chosen = [row for row in rows if row[1] == "train"][:2] + [row for row in rows if row[1] == "test"]
    assert len(rows) == 900 + 200
    for _, split, label, image, mask_path in chosen:
        defect = "good" if label == "normal" else "bad"
        stem = Path(image).stem
        save(raw / image, mode="L", size=(8, 8))
        save(converted / "candle" / split / defect / f"{stem}.JPG", mode="L", size=(8, 8))
        if mask_path:
            mask(raw / mask_path, 2, (8, 8))
            mask(converted / "candle" / "ground_truth" / "bad" / f"{stem}.png", 255, (8, 8))
    keys = [
        [item.key for item in datasets.load("visa", root, ["candle"]).items("candle", "test")]
        for root in (raw, converted)
    ]
    assert len(keys[0]) == 200
    assert keys[0] == keys[1]
    dataset = datasets.load("visa", raw, ["candle"])
    anomalous = next(item for item in dataset.items("candle", "test") if item.defect == "bad")
    assert dataset.truth(anomalous).mask.sum() > 0, "masks hold class indices: above 0 is defect"


@pytest.fixture
def loco(tmp_path: Path) -> Path:
    root = tmp_path / "loco"
    category = root / "pushpins"
    for split, number in (("train", 2), ("validation", 1), ("test", 1)):
        for index in range(number):
            save(category / split / "good" / f"{index:03}.png")
    for kind, values in (("logical_anomalies", (255, 251)), ("structural_anomalies", (251,))):
        save(category / "test" / kind / "000.png")
        for index, value in enumerate(values):
            mask(category / "ground_truth" / kind / "000" / f"{index:03}.png", value)
    config = [
        {"defect_name": "additional", "pixel_value": 255, "saturation_threshold": 7, "relative_saturation": False},
        {"defect_name": "bent", "pixel_value": 251, "saturation_threshold": 0.5, "relative_saturation": True},
    ]
    (category / "defects_config.json").write_text(json.dumps(config))
    return root


def test_loco_keeps_validation_apart_and_gives_regions_with_saturation(loco: Path) -> None:
    dataset = datasets.load("mvtec_loco", loco)
    assert [len(dataset.items("pushpins", split)) for split in ("train", "validation", "test")] == [2, 1, 3]
    truths = {item.defect: dataset.truth(item) for item in dataset.items("pushpins", "test")}
    logical = truths["logical_anomalies"]
    assert (logical.subset, truths["good"].subset) == ("logical", "good")
    assert [(int(region.mask.sum()), region.saturation) for region in logical.regions] == [(18, 7.0), (18, 9.0)]


def test_loco_refuses_a_region_that_its_list_of_defects_does_not_know(loco: Path) -> None:
    mask(loco / "pushpins" / "ground_truth" / "structural_anomalies" / "000" / "000.png", 13)
    assert "pixel values [13]" in messages(datasets.load("mvtec_loco", loco))


def test_toy_is_the_same_for_a_seed_and_another_for_another(tmp_path: Path) -> None:
    few = {"train": 1, "validation": 1, "good": 1, "anomalous": 3}
    roots = [tmp_path / name for name in ("a", "b", "c")]
    for root, seed in zip(roots, (0, 0, 1), strict=True):
        toy.generate(root, seed, **few)
    bytes_of = [[path.read_bytes() for path in sorted(root.rglob("*.png"))] for root in roots]
    assert bytes_of[0] == bytes_of[1]
    assert bytes_of[0] != bytes_of[2]


def test_toy_has_nothing_to_complain_about_and_both_kinds_of_anomaly(toy_root: Path) -> None:
    dataset = datasets.load("toy", toy_root)
    assert not problems(dataset)
    assert len(dataset.categories) >= 3
    subsets = {dataset.truth(item).subset for c in dataset.categories for item in dataset.items(c, "test")}
    assert subsets == {"good", "logical", "structural"}


def test_multi_class_trains_on_all_categories_and_tests_each(toy_root: Path) -> None:
    dataset = datasets.load("toy", toy_root)
    (split,) = protocols.expand("multi_class", dataset)
    assert len(split.train) == sum(len(dataset.items(category, "train")) for category in dataset.categories)
    assert tuple(split.test) == dataset.categories
    with pytest.raises(InputError, match="one_class"):
        protocols.expand("one_clas", dataset)


@pytest.mark.realdata
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there")
def test_real_screw_has_the_official_counts() -> None:
    dataset = datasets.load("mvtec_ad", SHARED, ["screw"])
    assert _checks.check(dataset) == []
    assert sum(dataset.truth(item).anomalous for item in dataset.items("screw", "test")) == 119
