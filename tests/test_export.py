"""Maps in official layouts: other readers find the expected names, sizes and metrics."""

import struct
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import reference_metrics
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score
from typer.testing import CliRunner

from benchmarks import cli, datasets, params, plan, results, runs, status
from benchmarks.datasets._contents import read_all
from benchmarks.datasets._problems import Problem
from benchmarks.datasets.mvtec_ad_2 import MVTecAD2
from benchmarks.execution import worker
from benchmarks.metrics.resize import fit_map
from benchmarks.plan import Run
from benchmarks.scoring import score, summary
from benchmarks.submissions import export
from methods.base import InputError

pytestmark = pytest.mark.usefixtures("results_folder")


@pytest.fixture
def ad2_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two categories of MVTec AD 2 as the archive has them, with three images in each private set."""
    monkeypatch.setattr(MVTecAD2, "private_counts", {"can": 3, "vial": 3})
    root = tmp_path / "mvtec_ad_2"
    rng = np.random.default_rng(0)

    def paint(name: str, defect: bool = False) -> None:
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(90, 130, (48, 64, 3), np.uint8)
        if defect:
            pixels[10:30, 20:44] += 60
        Image.fromarray(pixels).save(path)

    for category in ("can", "vial"):
        for number in range(4):
            paint(f"{category}/train/good/{number:03}_regular")
        for number in range(2):
            paint(f"{category}/validation/good/{number:03}_regular")
            paint(f"{category}/test_public/good/{number:03}_regular")
            paint(f"{category}/test_public/bad/{number:03}_overexposed", defect=True)
            mask = np.zeros((48, 64), np.uint8)
            mask[10:30, 20:44] = 255
            folder = root / category / "test_public" / "ground_truth" / "bad"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(folder / f"{number:03}_overexposed_mask.png")
        for number in range(3):
            paint(f"{category}/test_private/{number:03}_regular", defect=number == 1)
            paint(f"{category}/test_private_mixed/{number:03}_mixed", defect=number == 1)
    return root


@pytest.fixture
def ad_root(tmp_path: Path) -> Path:
    """A category of MVTec AD whose images differ in size."""
    root = tmp_path / "mvtec_ad"
    for name, size in {
        "train/good/000": (64, 48), "train/good/001": (64, 48), "test/good/000": (64, 48),
        "test/broken_large/000": (64, 48), "test/broken_large/001": (62, 46),
    }.items():  # fmt: skip
        path = root / "bottle" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise(size, 40).convert("RGB").save(path)
        if "broken" in name:
            mask = root / "bottle" / f"{name.replace('test', 'ground_truth')}_mask.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", size, 255).save(mask)
    return root


def execute(dataset: str, root: Path, protocol: str = "one_class", scale: float = 1.0) -> list[Run]:
    """Finished runs of the method `bright`, whose maps are a quarter of the image's size."""
    values = params.Params(
        suite="test", methods=["bright"], hyper_parameters={"scale": scale}, datasets=[dataset], roots={dataset: root},
        protocols=[protocol], seeds=[0], pretrain=[], conventions=["default"], allow={},
    )  # fmt: skip
    planned = [run for run in runs.expand(values) if isinstance(run, Run)]
    for run in planned:
        worker.execute(run, "cpu", 1, 1.0)
        status.collect(run)
    return planned


def read_archive(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar.getmembers()}  # type: ignore[union-attr]


def read_float16(content: bytes) -> np.ndarray:
    """A TIFF of one strip, read by the tags of TIFF 6.0: independent of the library that wrote it."""
    assert content[:4] == b"II*\0"
    (at,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, at)
    tags = {}
    for entry in range(count):
        tag, kind, _, value = struct.unpack_from("<HHII", content, at + 2 + 12 * entry)
        tags[tag] = value & 0xFFFF if kind == 3 else value
    width, height, offset = tags[256], tags[257], tags[273]
    assert (tags[258], tags[259], tags[277], tags[339]) == (16, 1, 1, 3), "16 bits, not compressed, one channel, float"
    return np.frombuffer(content, "<f2", width * height, offset).reshape(height, width)


def exact_pro(maps: np.ndarray, regions: list[list[tuple[np.ndarray, float]]], limit: float) -> float:
    """Area under the (s)PRO curve by sorting all pixels: each region is (mask, saturation)."""
    free = np.ones(maps.shape, bool)
    overlaps = []
    order = np.argsort(-maps, axis=None, kind="stable")
    for image, of_image in enumerate(regions):
        for mask, saturation in of_image:
            free[image] &= ~mask
            covered = np.zeros(maps.shape)
            covered[image] = mask
            overlaps.append(np.minimum(np.cumsum(covered.ravel()[order]) / saturation, 1))
    last = np.append(np.diff(maps.ravel()[order]) != 0, True)  # of each group of equal scores
    fpr = np.cumsum(free.ravel()[order])[last] / free.sum()
    return reference_metrics.area_up_to(np.append(0, fpr), np.append(0, np.mean(overlaps, 0)[last]), limit)


# MVTec AD and MVTec LOCO.


def test_exported_maps_give_the_same_metrics_in_another_reader(toy_root: Path, own_methods: Path) -> None:
    planned = execute("toy", toy_root)
    score.score_group(planned[0].group, planned, ["loco", "mvtec_ad_2"])
    rows = summary.read_scores([planned[0].group]).set_index(["category", "subset", "metric"])["value"]
    target, dataset = results.RESULTS / "exported", datasets.load("toy", toy_root)
    assert export.export(planned, target) == len([path for path in target.rglob("*") if path.is_file()])
    for category in dataset.categories:
        items = dataset.items(category, "test")
        truths = [dataset.truth(item) for item in items]
        maps = np.stack([np.asarray(Image.open(target / f"{item.key}.tiff")) for item in items])  # (N, H, W), by Pillow
        assert maps.dtype == np.float32 and maps.shape[1:] == truths[0].mask.shape
        masks = np.stack([truth.mask for truth in truths])
        regions = [[(region.mask, region.saturation) for region in truth.regions] for truth in truths]
        computed = {
            "pixel_auroc": roc_auc_score(masks.ravel(), maps.ravel()),
            "pixel_ap": average_precision_score(masks.ravel(), maps.ravel()),
            "aupro": exact_pro(maps, [reference_metrics.components(mask) for mask in masks], 0.05),
            "spro": exact_pro(maps, regions, 0.05),
        }
        assert computed == pytest.approx({metric: rows[category, "all", metric] for metric in computed}, abs=1e-6)


def test_each_map_has_the_size_of_its_image(ad_root: Path, own_methods: Path, tmp_path: Path) -> None:
    assert export.export(execute("mvtec_ad", ad_root), tmp_path / "maps") == 3
    written = {path.relative_to(tmp_path / "maps").as_posix(): path for path in (tmp_path / "maps").rglob("*.tiff")}
    assert {name: Image.open(path).size for name, path in written.items()} == {
        "bottle/test/good/000.tiff": (64, 48),
        "bottle/test/broken_large/000.tiff": (64, 48),
        "bottle/test/broken_large/001.tiff": (62, 46),
    }


def test_the_command_exports_one_seed_of_a_planned_group(ad_root: Path, own_methods: Path, tmp_path: Path) -> None:
    (run,) = execute("mvtec_ad", ad_root)
    plan.write(results.RESULTS, plan.make("test", [run]))
    arguments = ["export", "bright", "mvtec_ad", "one_class", "--out", str(tmp_path / "maps")]
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    assert len(list((tmp_path / "maps").rglob("*.tiff"))) == 3
    unplanned = CliRunner().invoke(cli.app, [*arguments, "--seed", "1"]).exception
    assert "The suite has no run with" in str(unplanned) and "seed 1" in str(unplanned)


def test_an_existing_output_is_never_overwritten(ad_root: Path, own_methods: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"exists already. Delete it, or choose another --out"):
        export.export(execute("mvtec_ad", ad_root), tmp_path)


def test_missing_maps_are_named_and_nothing_is_left_behind(ad_root: Path, own_methods: Path, tmp_path: Path) -> None:
    planned = execute("mvtec_ad", ad_root)
    (results.result_dir(planned[0]) / "bottle.maps.npy").unlink()
    with pytest.raises(InputError, match=r"bright-mvtec_ad-one_class/bottle-seed0 is stale .*bottle.maps.npy is miss"):
        export.export(planned, tmp_path / "new")
    assert not list(tmp_path.glob("*new*"))


def test_a_deleted_image_is_named_and_nothing_is_left_behind(ad_root: Path, own_methods: Path, tmp_path: Path) -> None:
    planned = execute("mvtec_ad", ad_root)
    (ad_root / "bottle" / "test" / "good" / "000.png").unlink()
    with pytest.raises(InputError, match="bottle/test/good/000 was predicted, but is no longer in the data set"):
        export.export(planned, tmp_path / "new")
    assert not list(tmp_path.glob("*new*"))


def test_a_data_set_without_an_official_layout_is_refused(ad_root: Path, own_methods: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Image folder has no official layout.*MVTec AD 2"):
        export.export(execute("folder", ad_root), tmp_path / "new")


# MVTec AD 2.


def test_private_images_are_predicted_and_never_scored(ad2_root: Path, own_methods: Path) -> None:
    planned = execute("mvtec_ad_2", ad2_root, "multi_class")
    private = results.load_part(results.result_dir(planned[0]), "private")
    assert {category: (keys[0], len(keys), maps.shape) for category, (keys, _, maps) in private.items()} == {
        category: (f"{category}/test_private/000_regular", 6, (6, 12, 16)) for category in ("can", "vial")
    }
    score.score_group(planned[0].group, planned, ["default"])
    rows = summary.read_scores([planned[0].group])
    assert set(rows["images"]) == {4} and set(rows["anomalous"]) == {2}
    assert rows["value"].notna().all()


def test_the_key_of_a_private_image_reveals_nothing(ad2_root: Path) -> None:
    dataset = datasets.load("mvtec_ad_2", ad2_root)
    keys = [dataset.sample(item).key for item in dataset.private("can")]
    assert len(set(keys)) == 6
    assert all(key.startswith("can/private/") and len(key) == len("can/private/") + 12 for key in keys)


def problems(root: Path) -> list[Problem]:
    return read_all(datasets.load("mvtec_ad_2", root))[0]


def test_a_private_set_that_is_not_whole_is_a_notice(ad2_root: Path) -> None:
    (incomplete,) = problems(ad2_root)
    assert "6 of 8 categories are not there" in incomplete.message
    (ad2_root / "can" / "test_private" / "001_regular.png").unlink()
    _, problem = problems(ad2_root)
    assert problem.severity == "notice"
    assert "can/test_private: 2 images (official 3)" in problem.message


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e7])
def test_the_archive_holds_float16_maps_that_lose_less_than_a_thousandth(
    ad2_root: Path, own_methods: Path, tmp_path: Path, scale: float
) -> None:
    """For any range of the maps. Without scaling, float16 has 0 for the smallest here and infinity for the largest."""
    planned = execute("mvtec_ad_2", ad2_root, scale=scale)
    assert export.export(planned, tmp_path / "mine.tar.gz") == 12
    members = read_archive(tmp_path / "mine.tar.gz")
    keys, _, _ = results.load_part(results.result_dir(planned[0]), "private")["can"]
    whole = {f"{split}/{number:03}_{name}" for number in range(3)
             for split, name in (("test_private", "regular"), ("test_private_mixed", "mixed"))}  # fmt: skip
    assert set(members) == {
        f"mine/{folder}/{category}/{stem}.{suffix}"
        for folder, suffix in (("anomaly_images", "tiff"), ("anomaly_images_thresholded", "png"))
        for category in ("can", "vial")
        for stem in whole
    }
    rough = np.stack([read_float16(members[f"mine/anomaly_images/{key}.tiff"]) for key in keys]).astype(float)
    _, _, stored = results.load_part(results.result_dir(planned[0]), "private")["can"]
    fine = np.stack([fit_map(one, (48, 64)) for one in stored]).astype(float)
    assert np.isfinite(rough).all()
    ratio = rough.max() / fine.max()
    assert np.log2(ratio) == pytest.approx(round(np.log2(ratio)), abs=1e-3), "a power of two, so no bit changes"
    defect = np.zeros(fine.shape, bool)
    defect[[i for i, key in enumerate(keys) if "/001_" in key], 10:30, 20:44] = True
    regions = [reference_metrics.components(mask) for mask in defect]
    for metric in (
        lambda maps: roc_auc_score(defect.ravel(), maps.ravel()),
        lambda maps: average_precision_score(defect.ravel(), maps.ravel()),
        lambda maps: exact_pro(maps, regions, 0.05),
    ):
        assert metric(rough) == pytest.approx(metric(fine), abs=1e-3)


@pytest.mark.parametrize(("rule", "stds"), [("mean+3std", 3.0), ("mean+0.5std", 0.5), ("20", None)])
def test_thresholded_images_follow_the_rule_on_validation_pixels(
    ad2_root: Path, own_methods: Path, tmp_path: Path, rule: str, stds: float | None
) -> None:
    planned = execute("mvtec_ad_2", ad2_root)
    export.export(planned, tmp_path / "mine.tar.gz", rule)
    members = read_archive(tmp_path / "mine.tar.gz")
    for run in planned:
        folder = ad2_root / run.split
        train, held_out = (
            np.stack([np.asarray(Image.open(path), float).mean(2) for path in (folder / split / "good").iterdir()])
            for split in ("train", "validation")
        )
        pixels = np.abs(held_out[:, ::4, ::4] - train.mean())  # what the method `bright` makes of an image
        above = float(rule) if stds is None else pixels.mean() + stds * pixels.std()
        values: set[int] = set()
        keys, _, maps = results.load_part(results.result_dir(run), "private")[run.split]
        for key, fine in zip(keys, [fit_map(one, (48, 64)) for one in maps], strict=True):
            shown = np.asarray(Image.open(BytesIO(members[f"mine/anomaly_images_thresholded/{key}.png"])))
            assert shown.dtype == np.uint8
            np.testing.assert_array_equal(shown, np.where(fine > above, 255, 0))
            values |= set(shown.ravel().tolist())
        assert values == {0, 255}


@pytest.mark.parametrize("rule", ["mean-3std", "mean+std", "nan", "inf", ""])
def test_an_invalid_threshold_rule_is_refused(ad2_root: Path, own_methods: Path, tmp_path: Path, rule: str) -> None:
    with pytest.raises(InputError, match=r"--threshold is .* such as mean\+3std"):
        export.export(execute("mvtec_ad_2", ad2_root), tmp_path / "mine.tar.gz", rule)


def test_an_archive_that_the_server_would_refuse_is_refused(ad2_root: Path, own_methods: Path, tmp_path: Path) -> None:
    (ad2_root / "vial" / "test_private_mixed" / "002_mixed.png").unlink()
    planned = execute("mvtec_ad_2", ad2_root)
    with pytest.raises(InputError, match="1 map missing, such as vial/test_private_mixed/002_mixed"):
        export.export(planned, tmp_path / "mine.tar.gz")
    with pytest.raises(InputError, match=r"--out is 'mine'.*choose a name in .tar.gz"):
        export.export(planned, tmp_path / "mine")
    assert not list(tmp_path.glob("*mine*"))
