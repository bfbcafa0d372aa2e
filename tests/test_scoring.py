"""From a run to tidy rows: what is predicted reaches the right image, and is scored against the right truth."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks import datasets, params, results, runs, status
from benchmarks.datasets._files import read_image
from benchmarks.execution import worker
from benchmarks.plan import Run
from benchmarks.schema import SCORE_COLUMNS
from benchmarks.scoring import score, summary
from benchmarks.status import State
from benchmarks.storage import score_files
from methods.base import InputError

pytestmark = pytest.mark.usefixtures("results_folder")


def expand(root: Path, protocol: str = "multi_class", dataset: str = "toy", seeds: tuple[int, ...] = (0,)) -> list[Run]:
    values = params.Params(
        suite="test", methods=["bright"], datasets=[dataset], roots={dataset: root}, protocols=[protocol],
        seeds=list(seeds), pretrain=[], conventions=["default"], allow={},
    )  # fmt: skip
    return [run for run in runs.expand(values) if isinstance(run, Run)]


def execute(run: Run) -> None:
    worker.execute(run, "cpu", 1, 1.0)
    status.collect(run)


def scored(run: Run, *conventions: str) -> pd.DataFrame:
    score.score_group(run.group, [run], conventions or ["default"])
    return summary.read_scores([run.group])


def brightness(path: Path) -> np.ndarray:
    return read_image(path).float().mean(0)[::4, ::4].numpy()


def test_every_prediction_is_stored_under_the_key_of_its_image(toy_root: Path, own_methods: Path) -> None:
    (run,) = expand(toy_root)
    execute(run)
    dataset = datasets.load("toy", toy_root)
    _, predictions = results.load(results.result_dir(run))
    paths = {item.key: item.image for c in dataset.categories for item in dataset.items(c, "test")}
    train = [item.image for c in dataset.categories for item in dataset.items(c, "train")]
    mean = np.mean([read_image(path).float().mean().item() for path in train])
    assert sorted(key for keys, _, _ in predictions.values() for key in keys) == sorted(paths)
    for keys, scores, maps in predictions.values():
        for key, value, one in zip(keys, scores, maps, strict=True):
            np.testing.assert_allclose(one, np.abs(brightness(paths[key]) - mean), atol=1e-3)
            assert value == pytest.approx(one.mean(), rel=1e-5)


def test_the_record_says_how_the_numbers_were_made(toy_root: Path, own_methods: Path) -> None:
    (run,) = expand(toy_root)
    execute(run)
    record, _ = results.load(results.result_dir(run))
    assert record.hyper_parameters == {"scale": 1.0}
    assert record.data.train == 24
    assert {"created", "git_commit", "git_dirty", "host", "device", "versions", "peak_memory_bytes"} <= (
        record.provenance.model_fields_set
    )


def test_rows_equal_scikit_learn_on_each_kind_of_anomaly(toy_root: Path, own_methods: Path) -> None:
    (run,) = expand(toy_root)
    execute(run)
    rows = scored(run, "map_size").set_index(["category", "subset", "metric"])
    dataset = datasets.load("toy", toy_root)
    _, predictions = results.load(results.result_dir(run))
    keys, scores, maps = predictions["cog"]
    items = {item.key: item for item in dataset.items("cog", "test")}
    truths = [dataset.truth(items[key]) for key in keys]
    for subset in ("all", "logical", "structural"):
        chosen = [i for i, t in enumerate(truths) if subset == "all" or t.subset in ("good", subset)]
        labels = [truths[i].anomalous for i in chosen]
        row = rows.loc[("cog", subset)]
        assert row.loc["image_auroc", "value"] == pytest.approx(roc_auc_score(labels, scores[chosen]))
        assert row.loc["image_ap", "value"] == pytest.approx(average_precision_score(labels, scores[chosen]))
        assert row.loc["image_auroc", "images"] == len(chosen)
        assert row.loc["image_auroc", "anomalous"] == sum(labels)
        # The maps are a quarter of the masks' size: a pixel counts as defect that any antialiased defect touches.
        masks = [
            np.asarray(Image.fromarray(t.mask.astype(np.uint8) * 255).resize((32, 32), Image.Resampling.BILINEAR)) > 0
            for t in truths
        ]
        touched = np.stack([masks[i] for i in chosen])
        assert row.loc["pixel_auroc", "value"] == pytest.approx(roc_auc_score(touched.ravel(), maps[chosen].ravel()))


def test_a_data_set_with_saturation_thresholds_gets_spro_and_others_do_not(toy_root: Path, own_methods: Path) -> None:
    for dataset, expected in (("toy", True), ("folder", False)):
        (run,) = expand(toy_root, dataset=dataset) if expected else expand(folder_of(toy_root), dataset=dataset)
        execute(run)
        assert ("spro" in set(scored(run, "default", "loco")["metric"])) is expected


def folder_of(toy_root: Path) -> Path:
    """Two categories of toy as a plain tree, without defects: nothing anomalous to score."""
    root = toy_root.parent / "plain"
    for category in ("cog", "tray"):
        for split in ("train", "test"):
            target = root / category / split / "good"
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(toy_root / category / split / "good")
    return root


def test_a_value_that_cannot_be_is_empty_and_says_why(toy_root: Path, own_methods: Path) -> None:
    (run,) = expand(folder_of(toy_root), dataset="folder")
    execute(run)
    rows = scored(run)
    assert rows["value"].isna().all()
    assert set(rows["anomalous"]) == {0}
    assert rows["reason"].str.contains("no anomalous image|no defect pixel").all()


def test_details_name_the_cells_worst_images_and_hold_the_curve_that_spro_is_the_area_of(
    toy_root: Path, own_methods: Path
) -> None:
    (run,) = expand(toy_root)
    execute(run)
    rows = scored(run, "default", "loco").set_index(["category", "subset", "metric"])
    stem = results.details_dir(run.group) / "cog-seed0"
    found = results.read_json(stem.with_suffix(".json")) or {}
    rising = sorted(found["images"], key=lambda image: image["score"])
    missed = [image["key"] for image in rising if image["anomalous"]][:2]
    false = [image["key"] for image in rising[::-1] if not image["anomalous"]][:2]
    with np.load(stem.with_suffix(".extremes.npz")) as stored:
        assert list(stored["keys"]) == [*missed, *false]
        assert list(stored["truth"].any((1, 2))) == [True, True, False, False]
    curve = found["curves"]["spro"]
    grid = np.linspace(0, 0.05, 1001)
    area = np.trapezoid(np.interp(grid, curve["fpr"], curve["spro"]), grid) / 0.05
    assert area == pytest.approx(rows.loc[("cog", "all", "spro"), "value"], abs=0.01)


def test_conventions_of_one_size_and_threshold_share_their_rows_and_every_choice_has_its_own(
    toy_root: Path, own_methods: Path
) -> None:
    (run,) = expand(toy_root)
    execute(run)
    rows = scored(run, "default", "map_size", "mvtec_ad_2", "pooled_256", "pooled_256_half", "rd_official")
    key = ["category", "subset", "metric", "convention"]
    assert not rows.duplicated(key).any()
    of_cog = rows[(rows["category"] == "cog") & (rows["subset"] == "all")].groupby("metric")["convention"].unique()
    assert list(of_cog["aupro"]) == [
        "pooled, FPR<=0.3, native size", "pooled, FPR<=0.05, native size",
        "pooled, FPR<=0.3, mask>0, size of the maps", "pooled, FPR<=0.3, mask>0, 256 px",
        "pooled, FPR<=0.3, mask>0.5, 256 px", "per_image, FPR<0.3, mask>0.5, 256 px",
    ]  # fmt: skip
    assert list(of_cog["pixel_ap"]) == [
        "native size", "mask>0, size of the maps", "mask>0, 256 px", "mask>0.5, 256 px"
    ]  # fmt: skip


def test_an_unknown_convention_is_answered_with_those_there_are(toy_root: Path, own_methods: Path) -> None:
    (run,) = expand(toy_root)
    execute(run)
    with pytest.raises(InputError, match=r"no convention 'rd'. Known: default, map_size"):
        scored(run, "rd")


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (("distance.mean().item()", 'float("nan")'), "3[0-9] scores and 0 pixels that are not finite"),
        (("for sample in test:", "for sample in test[1:]:"), "gave 35 predictions for 36 images"),
        (("self.mean_ = ", "self.mean_ = None and "), "TypeError"),
    ],
)
def test_a_method_that_breaks_the_contract_fails_and_the_status_says_how(
    toy_root: Path, own_methods: Path, edit: tuple[str, str], says: str
) -> None:
    path = own_methods / "bright.py"
    path.write_text(path.read_text().replace(*edit))
    (run,) = expand(toy_root)
    with pytest.raises((ValueError, TypeError)):
        execute(run)
    state, reason = status.read_status(run)
    assert state is State.FAILED
    assert pd.Series([reason]).str.contains(says).all(), reason


def test_means_are_over_categories_within_a_seed_first(results_folder: Path) -> None:
    named = {"variant": "rd", "dataset": "toy", "protocol": "one_class", "subset": "all"}
    named |= {"metric": "image_auroc", "convention": "folder label"}
    values = ((0, "cog", 0.5), (0, "tray", 0.7), (1, "cog", 0.9))
    rows = [named | {"seed": seed, "category": category, "value": value} for seed, category, value in values]
    (results_folder / "scores").mkdir(parents=True)
    pd.DataFrame(rows, columns=list(SCORE_COLUMNS)).to_csv(
        results_folder / "scores" / "rd-toy-one_class.csv", index=False
    )
    score_files.seal(results_folder, "rd-toy-one_class", (results_folder / "scores").glob("*.csv"), {})
    summary.write(["rd-toy-one_class"])
    metrics = results.read_json(results_folder / "metrics" / "rd-toy-one_class.json")
    assert metrics == {"image_auroc": 0.75}


def test_one_run_is_scored_alone_as_in_its_group_and_nothing_is_written(
    toy_root: Path, own_methods: Path, results_folder: Path
) -> None:
    first, second = expand(toy_root, seeds=(0, 1))
    for run in (first, second):
        execute(run)
    alone = score.score_runs([second], ["default"])
    assert not (results_folder / "scores").exists()
    score.score_group(first.group, [first, second], ["default"])
    together = summary.read_scores([first.group])
    order = ["category", "metric", "convention"]
    expected = together[together.seed == 1].sort_values(order).value
    np.testing.assert_allclose(alone.sort_values(order).value, expected, rtol=0, atol=0)
