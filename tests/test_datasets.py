"""Data sets: what is read from which layout, and what is answered to files that are missing, broken or unusual."""

import json
import lzma
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from benchmarks import datasets, protocols
from benchmarks.datasets import _checks, toy
from benchmarks.datasets._contents import read_all
from benchmarks.datasets._digests import READING
from benchmarks.datasets._files import read_image
from benchmarks.datasets._masks import read_mask
from benchmarks.datasets._problems import Problem, grouped
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
        for split in protocols.splits(protocol, dataset, 0):
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
    (split,) = protocols.splits("multi_class", dataset, 0)
    assert len(split.train) == sum(len(dataset.items(category, "train")) for category in dataset.categories)
    assert tuple(split.test) == dataset.categories
    with pytest.raises(InputError, match="one_class"):
        protocols.splits("one_clas", dataset, 0)


# What is refused, or read, of images.


def deep(path: Path, values: np.ndarray, sbit: int | None = None) -> Path:
    """A 16-bit greyscale file, which states its significant bits or does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    chunks = PngInfo()
    if sbit:
        chunks.add(b"sBIT", bytes([sbit]))
    Image.fromarray(values.astype(np.uint16)).save(path, **({"pnginfo": chunks} if path.suffix == ".png" else {}))
    return path


def ramp(peak: int) -> np.ndarray:
    return np.linspace(0, peak, SIZE[0] * SIZE[1]).round().reshape(SIZE[::-1])


def deep_tree(root: Path, peak: int, sbit: int | None = None, suffix: str = "png") -> Path:
    for name in ("train/good/000", "train/good/001", "test/good/000", "test/crack/000"):
        deep(root / "nut" / f"{name}.{suffix}", ramp(peak), sbit)
    mask(root / "nut" / "ground_truth" / "crack" / "000_mask.png")
    return root


@pytest.mark.parametrize(("bits", "peak"), [(10, 1023), (12, 4095), (12, 3808), (14, 16383), (8, 255)])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_dark_16_bit_files_are_refused_until_their_depth_is_stated(
    tmp_path: Path, bits: int, peak: int, suffix: str
) -> None:
    root = deep_tree(tmp_path, peak, suffix=suffix)
    dataset = datasets.load("folder", root)
    message = rf"the values of 4 16-bit files end at {peak}, .* State it in .*dataset\.yaml: `bit_depth: {bits}`"
    with pytest.raises(InputError, match=message):
        dataset.revision()
    assert [problem.kind for problem in problems(dataset) if problem.severity == "error"] == ["bit depth"]
    before = datasets.load("folder", deep_tree(tmp_path / "other", 65535)).revision()
    (root / "dataset.yaml").write_text(f"bit_depth: {bits}\n")
    dataset = datasets.load("folder", root)
    assert dataset.revision() != before
    assert not messages(dataset)
    image = dataset.sample(dataset.items("nut", "train")[0]).image
    np.testing.assert_array_equal(image[0], np.rint(ramp(peak) * 255 / (2**bits - 1)))


def test_dark_files_may_be_meant_to_be_dark(tmp_path: Path) -> None:
    root = deep_tree(tmp_path, 4095)
    (root / "dataset.yaml").write_text("bit_depth: 16\n")
    dataset = datasets.load("folder", root)
    dataset.revision()
    assert dataset.sample(dataset.items("nut", "train")[0]).image.max() == 16


def test_a_value_beyond_the_stated_depth_is_refused(tmp_path: Path) -> None:
    root = deep_tree(tmp_path, 4096)
    (root / "dataset.yaml").write_text("bit_depth: 12\n")
    dataset = datasets.load("folder", root)
    with pytest.raises(InputError, match=r"value 4096, but `bit_depth: 12` in dataset\.yaml ends at 4095"):
        dataset.revision()
    with pytest.raises(InputError, match="value 4096"):
        _ = dataset.sample(dataset.items("nut", "train")[0]).image


@pytest.mark.parametrize("text", ["bit_depth: 40", "bit_depth: twelve", "depth: 12", "[", "- 12"])
def test_options_that_cannot_be_read_are_refused(tree: Path, text: str) -> None:
    (tree / "dataset.yaml").write_text(text)
    with pytest.raises(InputError, match=r"dataset\.yaml: .*such as `bit_depth: 12`"):
        datasets.load("folder", tree)


@pytest.mark.parametrize(("bits", "peak", "full"), [(12, 4080, 4095), (12, 65520, 65535), (10, 1023, 1023)])
def test_the_depth_that_a_png_states_is_its_scale(tmp_path: Path, bits: int, peak: int, full: int) -> None:
    """PNG asks that values be scaled to 16 bits whatever sBIT states; many cameras leave them as they are."""
    dataset = datasets.load("folder", deep_tree(tmp_path, peak, bits))
    dataset.revision()
    image = dataset.sample(dataset.items("nut", "train")[0]).image
    np.testing.assert_array_equal(image[0], np.rint(ramp(peak) * 255 / full))


def test_files_that_state_one_depth_and_have_two_scales_are_refused(tmp_path: Path) -> None:
    root = deep_tree(tmp_path, 4095, 12)
    deep(root / "nut" / "train" / "good" / "000.png", ramp(65520), 12)
    with pytest.raises(InputError, match=r"end at 4095, those of .*000\.png at 65520, and both state 12 bits"):
        datasets.load("folder", root).revision()


def test_the_maxval_of_a_pgm_is_its_scale(tmp_path: Path) -> None:
    values = ramp(4095)
    (tmp_path / "deep.pgm").write_bytes(b"P5 %d %d 4095\n" % SIZE + values.astype(">u2").tobytes())
    np.testing.assert_allclose(read_image(tmp_path / "deep.pgm")[0], values * 255 / 4095, atol=0.51)


def test_a_tiff_with_packed_12_bits_is_read_at_its_scale(tmp_path: Path) -> None:
    values = np.arange(64).reshape(8, 8) * 65  # to 4095
    pairs = values.reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
    tags = [(256, 3, 8), (257, 3, 8), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 200), (277, 3, 1), (278, 3, 8),
            (279, 4, packed.size)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    header = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)
    (tmp_path / "packed.tif").write_bytes(header.ljust(200, b"\0") + packed.astype(np.uint8).tobytes())
    np.testing.assert_array_equal(read_image(tmp_path / "packed.tif")[0], np.rint(values * 255 / 4095))


def colours_of_16_bits(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.stack([values] * 3, -1).astype(">u2")  # (H, W, 3)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", *SIZE, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in parts]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def test_16_bit_colours_are_read_by_their_high_byte_and_refused_where_that_is_dark(tree: Path) -> None:
    path = tree / "nut" / "train" / "good" / "009.png"
    colours_of_16_bits(path, ramp(65535))
    datasets.load("folder", tree).revision()
    assert (read_image(path)[0].double() - torch.from_numpy(ramp(65535)) / 257).abs().max() <= 1
    colours_of_16_bits(path, ramp(4095))
    with pytest.raises(InputError, match=r"009\.png: 16-bit colours with values up to about 3855 .* 16 of 256 levels"):
        datasets.load("folder", tree).revision()


def oriented(path: Path, orientation: int = 6, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size)
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = orientation
    image.save(path, exif=exif)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", [2, 6, 8])
@pytest.mark.parametrize("name", ["train/good/900", "test/crack/900", "ground_truth/crack/001_mask"])
def test_an_exif_orientation_is_refused_with_tag_and_cure(tree: Path, name: str, suffix: str, orientation: int) -> None:
    """Also where the image is square, so that sizes cannot tell."""
    if "ground_truth" in name:
        (tree / "nut" / f"{name}.png").unlink()
    path = oriented(tree / "nut" / f"{name}.{suffix}", orientation, (20, 20))
    if "test" in name:
        mask(tree / "nut" / "ground_truth" / "crack" / "900_mask.png", size=(20, 20))
    dataset = datasets.load("folder", tree)
    message = rf"{path.name}: EXIF orientation {orientation}, .*-auto-orient.*-Orientation=1"
    with pytest.raises(InputError, match=message):
        dataset.revision()
    assert messages(dataset).count("\n") == 0, "one error"


def test_an_orientation_that_says_nothing_is_no_error(tree: Path) -> None:
    oriented(tree / "nut" / "train" / "good" / "900.jpg", 1)
    oriented(tree / "nut" / "train" / "good" / "901.jpg", 0)
    assert not messages(datasets.load("folder", tree))


def test_a_turned_mask_is_answered_with_the_tag_and_not_with_its_size(tree: Path) -> None:
    oriented(tree / "nut" / "test" / "crack" / "900.jpg")
    mask(tree / "nut" / "ground_truth" / "crack" / "900_mask.png", size=SIZE[::-1])
    dataset = datasets.load("folder", tree)
    (found,) = messages(dataset).splitlines()
    assert "900.jpg: EXIF orientation 6" in found
    with pytest.raises(InputError, match=r"900\.jpg: EXIF orientation 6"):
        dataset.truth(next(item for item in dataset.items("nut", "test") if item.image.stem == "900"))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_above_the_limit_is_refused_by_its_pixels(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tree / "nut" / "train" / "good" / "big.png", size=(100, 60))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)  # Pillow warns above it, and refuses above twice of it
    datasets.load("folder", tree).revision()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with pytest.raises(InputError, match=r"big\.png: 6,000 pixels, more than the 4,000 that are read") as error:
        read_image(path)
    assert "tiles" in str(error.value) and "again" not in str(error.value)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_values_without_a_range_are_refused_before_any_training(tree: Path, kind: type) -> None:
    Image.fromarray((ramp(65535) * 2).astype(kind)).save(tree / "nut" / "train" / "good" / "x.tif")
    with pytest.raises(InputError, match=r"x\.tif: (floating-point pixels|32-bit values from 0 to 131070)"):
        datasets.load("folder", tree).revision()


# What is read of a folder.


SUFFIXES = [".JPG", ".JPEG", ".BMP", ".tif", ".webp", ".jfif", ".ppm", ".gif", ".pcx", ".TGA", ".jp2", ".png"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_of_pillow_is_read_whatever_its_case(tree: Path, suffix: str) -> None:
    path = tree / "nut" / "train" / "good" / f"x{suffix}"
    Image.new("RGB", SIZE, (200, 0, 0)).save(path, **({"format": "JPEG"} if suffix == ".jfif" else {}))
    dataset = datasets.load("folder", tree)
    assert path in {item.image for item in dataset.items("nut", "train")}
    assert read_image(path)[0].float().mean() == pytest.approx(200, abs=3)
    assert not problems(dataset)


@pytest.mark.parametrize("name", ["train/good/line2", "train/bad", "test/good/line2", "ground_truth/crack/old", "test"])
def test_images_that_are_left_out_are_named_and_counted(tree: Path, name: str) -> None:
    for index in range(3):
        save(tree / "nut" / name / f"left{index}.png")
    found = [problem for problem in grouped(problems(datasets.load("folder", tree))) if "not read" in problem.message]
    (left_out,) = found
    assert (left_out.severity, left_out.count) == ("warning", 3)
    assert f"{name}/left0.png: image that is not read" in left_out.message


def test_files_of_other_kinds_are_named_with_what_is_read(tree: Path) -> None:
    for name in ("a.svg", "b.svg", "c.npy", ".DS_Store"):
        (tree / "nut" / "train" / "good" / name).write_text("x")
    (tree / "nut" / "readme.txt").write_text("x")
    found = grouped(problems(datasets.load("folder", tree)))
    assert [(problem.severity, problem.count) for problem in found] == [("notice", 2), ("notice", 1)]
    assert "a.svg: file that is not read" in found[0].message and ".jfif .jp2" in found[0].message


def test_folders_that_are_not_categories_are_named(tree: Path) -> None:
    (tree / "nuts_old").mkdir()
    assert "not read, as they are not categories of Image folder: nuts_old" in messages(
        datasets.load("folder", tree), "notice"
    )


def test_several_frames_are_told_and_the_first_is_read(tree: Path) -> None:
    frames = [Image.new("L", SIZE, value) for value in (10, 20, 30)]
    frames[0].save(tree / "nut" / "train" / "good" / "x.gif", save_all=True, append_images=frames[1:])
    assert read_image(tree / "nut" / "train" / "good" / "x.gif").max() == 10
    assert "x.gif: 3 frames or pages, of which the first is read" in messages(datasets.load("folder", tree), "notice")


@pytest.mark.parametrize(
    ("ours", "extra"),
    [("001_mask.png", "001_mask.bmp"), ("000_mask.png", "000.png"), ("001_mask.png", "001_mask.PNG")],
)
def test_two_masks_for_one_image_are_refused_by_name(tree: Path, ours: str, extra: str) -> None:
    mask(tree / "nut" / "ground_truth" / "crack" / extra)
    dataset = datasets.load("folder", tree)
    with pytest.raises(InputError, match=r"are both masks of the same image\. Keep one") as error:
        _checks.check(dataset)
    assert ours in str(error.value) and extra in str(error.value)
    with pytest.raises(InputError, match="Keep one"):
        dataset.truth(next(item for item in dataset.items("nut", "test") if len(item.masks) == 2))


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("0 1", "0 1"),
        ("0 1", "0_mask 1_mask"),
        ("0 1", "0_mask 1"),
        ("0_mask 1_mask", "0_mask 1_mask"),
        ("0_mask 1_mask", "0_mask_mask 1_mask_mask"),
        ("0 0_mask", "0 0_mask"),
        ("0 0_mask", "0_mask 0_mask_mask"),
        ("0_mask 1_mask", "0_mask 1_mask_mask"),
    ],
)
def test_both_documented_names_of_masks_work_whatever_the_stems(tmp_path: Path, images: str, masks: str) -> None:
    for index, (image, name) in enumerate(zip(images.split(), masks.split(), strict=True)):
        save(tmp_path / "nut" / "test" / "crack" / f"{image}.png")
        mask(tmp_path / "nut" / "ground_truth" / "crack" / f"{name}.png", 1 + index)
    save(tmp_path / "nut" / "train" / "good" / "0.png")
    dataset = datasets.load("folder", tmp_path)
    _checks.check(dataset)
    found = {item.image.stem: [path.stem for path in item.masks] for item in dataset.items("nut", "test")}
    assert found == {image: [name] for image, name in zip(images.split(), masks.split(), strict=True)}


def test_a_mask_that_fits_two_images_is_refused(tmp_path: Path) -> None:
    for stem in ("0", "0_mask", "1"):
        save(tmp_path / "nut" / "test" / "crack" / f"{stem}.png")
    for stem in ("0_mask", "1"):
        mask(tmp_path / "nut" / "ground_truth" / "crack" / f"{stem}.png")
    save(tmp_path / "nut" / "train" / "good" / "0.png")
    with pytest.raises(InputError, match=r"0_mask\.png: mask of several images"):
        _checks.check(datasets.load("folder", tmp_path))


def test_images_that_differ_in_their_suffix_alone_are_refused(tree: Path) -> None:
    for index in range(2):
        save(tree / "nut" / "train" / "good" / f"{index:03}.bmp")
    with pytest.raises(InputError, match=r"000\.bmp and 000\.png share a stem \(and 1 more such stems\)"):
        _checks.check(datasets.load("folder", tree))


def test_many_problems_of_a_kind_are_one_line_with_a_count(tree: Path) -> None:
    for index in range(12):
        save(tree / "nut" / "test" / "crack" / f"9{index:02}.png")
        mask(tree / "nut" / "ground_truth" / "crack" / f"9{index:02}_mask.png", size=(30, 20))
    dataset = datasets.load("folder", tree)
    with pytest.raises(InputError, match=r"900_mask\.png: mask of 30x20 .* at the image's size\. \(and 11 more\)$"):
        _checks.check(dataset)
    (error,) = [problem for problem in grouped(problems(dataset)) if problem.severity == "error"]
    assert error.count == 12, "one error for each mask"


def test_images_of_several_sizes_are_fine(tree: Path) -> None:
    for index, size in enumerate([(64, 48), (30, 30)]):
        save(tree / "nut" / "train" / "good" / f"9{index}.png", size=size)
        save(tree / "nut" / "test" / "crack" / f"9{index}.png", size=size)
        mask(tree / "nut" / "ground_truth" / "crack" / f"9{index}.png", size=size)
    found, (contents,) = read_all(datasets.load("folder", tree))
    assert not [problem for problem in found if problem.severity == "error"]
    assert contents.sizes == {"24x20": 6, "64x48": 2, "30x30": 2}


# Labels without masks.


def test_without_any_mask_a_category_has_labels_alone(tree: Path) -> None:
    shutil.rmtree(tree / "nut" / "ground_truth")
    dataset = datasets.load("folder", tree)
    (problem,) = _checks.check(dataset)
    assert problem.severity == "warning" and "nut: no masks, so images are scored and pixels are not" in problem.message
    truths = [dataset.truth(item) for item in dataset.items("nut", "test")]
    assert [(truth.anomalous, truth.mask) for truth in truths] == [(True, None), (True, None), (False, None)]


def test_an_official_data_set_without_masks_is_half_extracted(tree: Path) -> None:
    (tree / "nut").rename(tree / "screw")
    shutil.rmtree(tree / "screw" / "ground_truth")
    with pytest.raises(InputError, match=r"screw: no masks, though MVTec AD has them\. Extract the archive again"):
        _checks.check(datasets.load("mvtec_ad", tree))


# Roots.


def test_a_root_may_start_at_home_or_at_a_variable(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tree.parent))
    monkeypatch.setenv("SCANS", str(tree.parent))
    assert datasets.load("folder", "~/own").root == tree
    assert datasets.load("folder", "$SCANS/own").root == datasets.load("folder", Path("${SCANS}/own")).root == tree
    monkeypatch.setenv("PROCTOR_FOLDER_ROOT", "~/own")
    assert datasets.load("folder").root == tree


def test_a_root_one_level_off_is_answered_with_the_right_one(tree: Path) -> None:
    with pytest.raises(InputError, match=rf"{tree.parent} holds no category folder\. {tree} does: give that as root"):
        datasets.load("folder", tree.parent)
    with pytest.raises(InputError, match=f"It is itself a category: give {tree} as root"):
        datasets.load("folder", tree / "nut")


def test_only_a_missing_default_place_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROCTOR_TOY_ROOT", raising=False)
    assert datasets.is_to_be_fetched("toy")
    assert not datasets.is_to_be_fetched("toy", tmp_path / "typo")
    monkeypatch.setenv("PROCTOR_TOY_ROOT", "typo")
    assert not datasets.is_to_be_fetched("toy")
    monkeypatch.delenv("PROCTOR_TOY_ROOT")
    (tmp_path / "data" / "toy").mkdir(parents=True)
    assert not datasets.is_to_be_fetched("toy")


@pytest.mark.parametrize(
    "failure",
    [ConnectionError("name or service\nnot known"), ValueError("SHA256 hash of downloaded file does not match"),
     OSError(28, "No space left on device")],
)  # fmt: skip
def test_a_download_that_fails_is_one_line_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr("pooch.retrieve", fail)
    with pytest.raises(InputError, match=rf"VisA could not be extracted to .*{str(failure).split()[-1]}") as error:
        datasets.find("visa").fetch(tmp_path / "visa")
    assert "\n" not in str(error.value) and "download it manually: download https://" in str(error.value)
    assert not (tmp_path / "visa").exists()


def test_an_archive_that_cannot_be_extracted_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.tar").write_bytes(b"not a tar")
    monkeypatch.setattr("pooch.retrieve", lambda *_, **__: str(tmp_path / "bad.tar"))
    with pytest.raises(InputError, match="ReadError"):
        datasets.find("visa").fetch(tmp_path / "visa")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.tar"]


def test_either_published_count_of_loco_is_accepted_and_named(loco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = datasets.find("mvtec_loco")
    assert cls.earlier_counts["splicing_connectors"]["train"] == 354
    assert cls.official_counts["splicing_connectors"]["train"] == 360
    on_disk = {"train": 2, "validation": 1, "good": 1, "logical": 1, "structural": 1}
    for newer, earlier, end in ((on_disk, {}, ""), (on_disk | {"train": 3}, on_disk, "as the authors published first"),
                                (on_disk | {"train": 3}, {}, "do not compare")):  # fmt: skip
        monkeypatch.setattr(cls, "official_counts", {"pushpins": newer})
        monkeypatch.setattr(cls, "earlier_counts", {"pushpins": earlier} if earlier else {})
        found = messages(datasets.load("mvtec_loco", loco), "notice")
        assert (end in found and "2 train (official 3)" in found) if end else "official" not in found


@pytest.fixture
def ad2(tmp_path: Path) -> Path:
    """A part of MVTec AD 2, as some download it: one category, without the private test sets."""
    root = tmp_path / "ad2"
    for place in ("train/good", "validation/good", "test_public/good", "test_public/bad"):
        save(root / "can" / place / "000_regular.png", len(place))
    mask(root / "can" / "test_public" / "ground_truth" / "bad" / "000_regular_mask.png")
    return root


@pytest.mark.parametrize(
    ("name", "archive"), [("mvtec_loco", "mvtec_loco_anomaly_detection"), ("mvtec_ad_2", "mvtec_ad_2")]
)
def test_a_folder_of_the_archives_name_in_the_root_is_found(
    loco: Path, ad2: Path, tmp_path: Path, name: str, archive: str
) -> None:
    root = tmp_path / "outer"
    shutil.copytree({"mvtec_loco": loco, "mvtec_ad_2": ad2}[name], root / archive)
    inner, outer = datasets.load(name, root / archive), datasets.load(name, root)
    assert outer.root == inner.root and outer.revision() == inner.revision()
    (category,) = inner.categories
    shutil.copytree(root / archive / category, root / category)
    assert datasets.load(name, root).root == root


def test_a_part_of_mvtec_ad_2_is_scored_and_what_is_missing_is_told(ad2: Path) -> None:
    dataset = datasets.load("mvtec_ad_2", ad2)
    assert messages(dataset) == ""
    told = messages(dataset, "notice")
    assert "7 of 8 categories are not there" in told
    assert "can/test_private is not there. The public test set is scored" in told
    assert [dataset.truth(item).anomalous for item in dataset.items("can", "test")] == [True, False]


def test_a_part_of_loco_is_usable_and_what_is_missing_is_told(loco: Path) -> None:
    for part in ("test", "ground_truth"):
        shutil.rmtree(loco / "pushpins" / part / "structural_anomalies")
    shutil.rmtree(loco / "pushpins" / "validation")
    dataset = datasets.load("mvtec_loco", loco)
    assert messages(dataset) == ""
    told = messages(dataset, "notice")
    assert "4 of 5 categories are not there" in told and "0 validation (official 69)" in told
    assert [item.defect for item in dataset.items("pushpins", "test")] == ["good", "logical_anomalies"]


def test_masks_of_loco_that_were_merged_into_one_are_refused_with_the_way_to_use_them(loco: Path) -> None:
    folder = loco / "pushpins" / "ground_truth" / "logical_anomalies"
    shutil.rmtree(folder)
    mask(folder / "000.png")
    found = messages(datasets.load("mvtec_loco", loco))
    assert f"{folder}/000.png: a single mask, where {folder}/000/ should hold one for each region" in found
    shutil.rmtree(loco / "pushpins" / "test" / "structural_anomalies")
    shutil.rmtree(loco / "pushpins" / "ground_truth" / "structural_anomalies")
    assert messages(datasets.load("folder", loco)) == ""


LOCO = SHARED.parent / "mvtec_loco_juice_bottle"


@pytest.mark.realdata
@pytest.mark.skipif(not LOCO.is_dir(), reason=f"{LOCO} is not there")
def test_real_juice_bottle_with_merged_masks_is_usable_as_a_folder_of_images(tmp_path: Path) -> None:
    (tmp_path / "loco").mkdir()
    (tmp_path / "loco" / "juice_bottle").symlink_to(LOCO)
    dataset = datasets.load("mvtec_loco", tmp_path / "loco")
    assert dataset.counts("juice_bottle") == {"train": 335, "validation": 54, "logical": 142}
    assert "a single mask" in messages(dataset)
    assert _checks.check(datasets.load("folder", tmp_path / "loco"))  # notices alone: no normal test image
    items = datasets.load("folder", tmp_path / "loco").items("juice_bottle", "test")
    assert len(items) == 142 and all(item.masks for item in items)


@pytest.mark.parametrize("same", ["train", "validation", "label"])
def test_copies_of_images_are_named(tree: Path, same: str) -> None:
    source = tree / "nut" / ("test/crack/000.png" if same == "label" else f"{same}/good/000.png")
    if same == "validation":
        source.parent.mkdir(parents=True)
        Image.new("RGB", Image.open(tree / "nut" / "train" / "good" / "000.png").size, (1, 2, 3)).save(source)
    shutil.copy(source, tree / "nut" / "test" / "good" / "copy.png")
    found = messages(datasets.load("folder", tree), "warning")
    assert "good/copy.png" in found and str(source) in found
    assert (f"copy of the {same} image" in found) is (same != "label")


@pytest.mark.realdata
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there")
def test_real_screw_has_the_official_counts() -> None:
    dataset = datasets.load("mvtec_ad", SHARED, ["screw"])
    assert _checks.check(dataset) == []
    assert sum(dataset.truth(item).anomalous for item in dataset.items("screw", "test")) == 119
