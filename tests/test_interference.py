"""Probes of cross-class interference: how they are composed, predicted, stored, scored and reported."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks import datasets, interference, params, results, runs, status
from benchmarks.datasets.base import Dataset
from benchmarks.execution import worker
from benchmarks.interference import Probe
from benchmarks.plan import Plan, Run
from benchmarks.schema import PROBE_COLUMNS
from benchmarks.scoring import score
from benchmarks.status import State
from methods.base import InputError
from reports import build
from reports import specs as report_specs
from reports.aggregate import Cell, aggregate, with_protocol_difference

SETTINGS: dict[str, Any] = {"ratios": [0.3, 0.7], "patch": 0.25, "images": 5}
pytestmark = pytest.mark.usefixtures("results_folder")

METHOD = '''
"""For tests: light is anomalous on what is dark, and dark on what is light; a blind one sees nothing."""
from dataclasses import dataclass
from methods.base import Method, Prediction

@dataclass(kw_only=True, eq=False)
class Seeing(Method):
    paper = source = "none"
    blind: bool = False

    def fit(self, train, validation, context):
        return self

    def predict(self, test, context):
        for sample in test:
            distance = sample.image.float().mean(0)
            distance = (distance - 30).clamp(0) if sample.category == "dark" else (200 - distance).clamp(0)
            distance = distance * (not self.blind)
            yield Prediction(distance.mean().item(), distance)
'''


@pytest.fixture
def seeing(own_methods: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "methods.seeing", raising=False)  # of an earlier test
    (own_methods / "seeing.py").write_text(METHOD)


@pytest.fixture(scope="session")
def plain_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories of noise, one dark, one light, of one size; and an anomalous image of each."""
    return paint(tmp_path_factory.mktemp("plain"), {"dark": (0, 20, (16, 20)), "light": (220, 256, (16, 20))})


def paint(root: Path, looks: dict[str, tuple[int, int, tuple[int, int]]]) -> Path:
    random = np.random.default_rng(0)
    for category, (low, high, size) in looks.items():
        for name in ("train/good/0", "train/good/1", "test/good/0", "test/good/1", "test/good/2", "test/hole/0"):
            path = root / category / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(low, high, (*size, 3)).astype(np.uint8)).save(path)
        mask = root / category / "ground_truth" / "hole" / "0_mask.png"
        mask.parent.mkdir(parents=True)
        Image.fromarray(np.pad(np.full((2, 2), 255, np.uint8), ((0, size[0] - 2), (0, size[1] - 2)))).save(mask)
    return root


def load(root: Path) -> Dataset:
    return datasets.load("folder", root)


def pixels(dataset: Dataset, probe: Probe) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The probe and the two images that it is made of, (3, H, W) int each."""
    samples = interference.sample(dataset, probe), dataset.sample(probe.a), dataset.sample(probe.b)
    made, a, b = (sample.image.numpy().astype(int) for sample in samples)
    return made, a, b


def of_kind(drawn: list[Probe], kind: str) -> list[Probe]:
    return [probe for probe in drawn if probe.kind == kind]


def expand(root: Path, **changes: Any) -> list[Run]:
    values = {
        "suite": "test", "methods": ["seeing"], "datasets": ["folder"], "roots": {"folder": root}, "seeds": [0],
        "protocols": ["one_class", "multi_class"], "pretrain": [], "conventions": ["default"], "allow": {},
        "interference": SETTINGS,
    }  # fmt: skip
    return [run for run in runs.expand(params.Params(**(values | changes))) if isinstance(run, Run)]


def execute(planned: list[Run]) -> None:
    for run in planned:
        worker.execute(run, "cpu", 1, 1.0)
        status.collect(run)


def report(folder: Path) -> Path:
    """The report of the specs that this is about; the others take most of the time."""
    specs = folder / "specs"
    specs.mkdir()
    for path in report_specs.FOLDER.glob("*.yaml"):
        if re.search("from: (protocols|interference|composites)", path.read_text()):
            (specs / path.name).write_bytes(path.read_bytes())
    # The images are noise, so that no method tells their anomalies from it.
    return build.build(results.RESULTS, folder / "build", specs, allow={"collapsed": "the images are noise"}).parent


def scored(planned: list[Run]) -> pd.DataFrame:
    rows = []
    for group in dict.fromkeys(run.group for run in planned):
        score.score_group(group, [run for run in planned if run.group == group], ["default"])
        rows.append(pd.read_csv(results.RESULTS / "interference" / f"{group}.csv"))
    return pd.concat(rows)


# How probes are composed.


def test_a_mixture_is_the_weighted_mean_of_two_normal_images_pixel_by_pixel(plain_root: Path) -> None:
    dataset = load(plain_root)
    drawn = of_kind(interference.probes(dataset, "dark", **SETTINGS), "mixup")
    assert {probe.ratio for probe in drawn} == {0.3, 0.7}
    for probe in drawn:
        made, a, b = pixels(dataset, probe)
        for place in np.ndindex(*a.shape):
            exact = probe.ratio * a[place] + (1 - probe.ratio) * b[place]
            assert abs(made[place] - exact) <= 0.5 + 1e-4


def test_a_patch_comes_out_of_the_centre_of_the_other_image_and_leaves_the_rest_as_it_was(plain_root: Path) -> None:
    dataset = load(plain_root)
    for probe in of_kind(interference.probes(dataset, "dark", **SETTINGS), "cut_paste"):
        made, a, b = pixels(dataset, probe)
        truth = interference.mask(dataset, probe)
        rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
        assert (len(rows), len(columns), truth.sum()) == (4, 5, 20)  # a quarter of 16 x 20 each way, and a rectangle
        np.testing.assert_array_equal(made[:, ~truth], a[:, ~truth])
        patch = made[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        centres = [b[:, y : y + 4, x : x + 5] for y in range(4, 9) for x in range(5, 11)]
        assert sum(np.array_equal(patch, centre) for centre in centres) == 1


def test_the_other_image_is_brought_to_the_size_of_the_first(tmp_path: Path) -> None:
    dataset = load(paint(tmp_path, {"dark": (0, 20, (16, 20)), "light": (220, 256, (31, 9))}))
    for probe in interference.probes(dataset, "dark", **SETTINGS):
        made, a, _ = pixels(dataset, probe)
        assert made.shape == a.shape
        assert made.max() > 50, "nothing of the light image is there"
        assert interference.mask(dataset, probe).shape == a.shape[1:]


@given(st.integers(1, 300), st.floats(0.001, 0.5), st.floats(0, 1, exclude_max=True), st.booleans())
def test_a_patch_never_leaves_its_image_or_the_centre_it_is_cut_from(
    side: int, share: float, position: float, centred: bool
) -> None:
    margin = side // 4 if centred else 0
    interval = interference._interval(side, share, position, margin)
    assert margin <= interval.start < interval.stop <= side - margin
    assert interval.stop - interval.start == max(1, int(share * side))


def test_probes_are_made_of_normal_test_images_of_two_categories(toy_root: Path) -> None:
    dataset = datasets.load("toy", toy_root)
    drawn = interference.probes(dataset, "cog", [0.5], 0.2, images=40)
    assert {(p.a.category, p.a.split, p.a.defect, p.b.split, p.b.defect) for p in drawn} == {
        ("cog", "test", "good", "test", "good")
    }
    assert {p.b.category for p in drawn} == {"fabric", "tray"}
    uses = pd.Series([p.a.key for p in of_kind(drawn, "mixup")]).value_counts()
    assert list(uses) == [10, 10, 10, 10], "each normal image is used as often as the others"


def test_all_ratios_mix_the_same_pairs_and_more_probes_add_to_fewer(toy_root: Path) -> None:
    dataset = datasets.load("toy", toy_root)
    few, many = (interference.probes(dataset, "cog", [0.3, 0.7], 0.2, images) for images in (6, 9))
    pairs = {ratio: [(p.a, p.b) for p in of_kind(few, "mixup") if p.ratio == ratio] for ratio in (0.3, 0.7)}
    assert pairs[0.3] == pairs[0.7]
    assert set(few) <= set(many)


def test_a_probes_key_looks_like_that_of_a_test_image(toy_root: Path) -> None:
    dataset = datasets.load("toy", toy_root)
    drawn = interference.probes(dataset, "cog", **SETTINGS)
    keys = [interference.sample(dataset, probe).key for probe in drawn]
    keys += [dataset.sample(item).key for item in dataset.items("cog", "test")]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"cog/test/[0-9a-f]{12}", key) for key in keys)


# What is refused, and what makes a run stale.


def test_a_data_set_of_one_category_is_refused_before_any_training(plain_root: Path, seeing: None) -> None:
    with pytest.raises(InputError, match=r"folder has only 'dark' here.*remove `interference`"):
        expand(plain_root, categories={"folder": ["dark"]})


def test_a_category_without_normal_test_images_is_refused_before_any_training(tmp_path: Path, seeing: None) -> None:
    root = paint(tmp_path, {"dark": (0, 20, (16, 20)), "light": (220, 256, (16, 20))})
    for path in (root / "light" / "test" / "good").glob("*.png"):
        path.unlink()
    with pytest.raises(InputError, match=r"light has none"):
        expand(root)


def test_without_probes_a_fingerprint_is_what_it_was_and_with_them_they_alone_are_added(
    plain_root: Path, seeing: None
) -> None:
    without, asked = expand(plain_root, interference=None), expand(plain_root)
    other = expand(plain_root, interference=SETTINGS | {"images": 6})
    for before, with_probes, changed in zip(without, asked, other, strict=True):
        parts = dict(with_probes.fingerprint_parts)
        assert parts.pop("interference") != changed.fingerprint_parts["interference"]
        assert parts == before.fingerprint_parts
        assert len({run.fingerprint for run in (before, with_probes, changed)}) == 3


def test_a_changed_image_of_another_category_makes_a_run_stale_by_its_probes_alone(
    tmp_path: Path, seeing: None
) -> None:
    root = paint(tmp_path, {"dark": (0, 20, (16, 20)), "light": (220, 256, (16, 20))})
    before, *_ = expand(root, protocols=["one_class"])
    Image.new("RGB", (20, 16), "white").save(root / "light" / "test" / "good" / "0.png")
    after, *_ = expand(root, protocols=["one_class"])
    assert before.split == "dark"
    assert {k for k, v in after.fingerprint_parts.items() if before.fingerprint_parts[k] != v} == {"interference"}


@pytest.mark.parametrize("name", ["dark.maps.npy", "dark.scores.npy"])
def test_a_damaged_file_of_probes_makes_its_run_stale_and_is_named(plain_root: Path, seeing: None, name: str) -> None:
    run, *_ = planned = expand(plain_root)
    execute(planned[:1])
    assert status.read_status(run).state is State.DONE
    path = results.result_dir(run) / "interference" / name
    path.write_bytes(path.read_bytes()[:-5])
    state, reason = status.read_status(run)
    assert state is State.STALE
    assert name in reason


# What is predicted and scored.


def test_every_variant_protocol_and_seed_sees_the_same_probes(plain_root: Path, seeing: None) -> None:
    variants = {"one": {"method": "seeing"}, "two": {"method": "seeing"}}
    planned = expand(plain_root, methods=["one", "two"], variants=variants, seeds=[0, 1])
    execute(planned)
    stored: dict[str, list[Any]] = {"dark": [], "light": []}
    for run in planned:
        for category, of_probes in results.load_part(results.result_dir(run), "interference").items():
            stored[category].append(of_probes)
    for found in stored.values():
        assert len(found) == 8
        keys, scores, maps = found[0]
        assert len(keys) == len(scores) == 15
        assert len(maps) == 5, "the maps of mixtures are not kept"
        for other in found[1:]:
            assert other[0] == keys
            np.testing.assert_array_equal(other[1], scores)
            np.testing.assert_array_equal(other[2], maps)


def test_probes_leave_the_predictions_of_test_images_as_they_are(plain_root: Path, seeing: None) -> None:
    run, *_ = planned = expand(plain_root, protocols=["multi_class"])
    execute(planned)
    _, with_probes = results.load(results.result_dir(run))
    execute(expand(plain_root, protocols=["multi_class"], interference=None))
    record, without = results.load(results.result_dir(run))
    assert "interference" not in record and results.load_part(results.result_dir(run), "interference") == {}
    for category, (keys, scores, maps) in without.items():
        assert keys == with_probes[category][0]
        np.testing.assert_array_equal(scores, with_probes[category][1])
        np.testing.assert_array_equal(maps, with_probes[category][2])


def test_a_method_that_sees_what_is_foreign_scores_one_and_a_blind_one_a_half(plain_root: Path, seeing: None) -> None:
    variants = {"seer": {"method": "seeing"}, "blind": {"method": "seeing", "blind": True}}
    planned = expand(plain_root, methods=["seer", "blind"], variants=variants)
    execute(planned)
    rows = scored(planned)
    aurocs = rows[rows.metric.isin(["image_auroc", "pixel_auroc"])]
    assert len(aurocs) == 2 * 2 * 2 * 4  # variants, protocols, categories; three kinds of probes, one with two metrics
    assert list(aurocs[aurocs.variant == "seer"].value) == pytest.approx([1.0] * 16)
    assert list(aurocs[aurocs.variant == "blind"].value) == pytest.approx([0.5] * 16)
    assert list(rows[(rows.variant == "seer") & (rows.metric == "aupro")].value) == pytest.approx([1.0] * 4)


def test_a_row_says_which_probe_it_is_about_and_how_many_images(plain_root: Path, seeing: None) -> None:
    planned = expand(plain_root, protocols=["one_class"])
    execute(planned)
    rows = scored(planned)
    dark = rows[rows.category == "dark"].set_index(["probe", "ratio", "metric"])
    assert tuple(rows.columns) == PROBE_COLUMNS
    assert set(dark.index) == {
        *(("mixup", ratio, "image_auroc") for ratio in (0.3, 0.7)),
        *(("cut_paste", 0.25, m) for m in ("image_auroc", "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro")),
    }
    assert tuple(dark.loc[("mixup", 0.3, "image_auroc"), ["images", "anomalous"]]) == (8, 5)  # 3 normal, 5 mixtures
    assert tuple(dark.loc[("cut_paste", 0.25, "aupro"), ["images", "anomalous"]]) == (5, 5)
    assert set(dark.fingerprint) == {planned[0].fingerprint}


def test_probes_that_were_not_predicted_cannot_be_scored(plain_root: Path, seeing: None) -> None:
    run, *_ = planned = expand(plain_root)
    execute(planned[:1])
    other = Run(**{**run.__dict__, "interference": SETTINGS | {"patch": 0.5}})
    with pytest.raises(InputError, match="the stored probes are not those"):
        score.score_group(run.group, [other], ["default"])


def test_a_suite_without_probes_gets_a_file_without_rows(plain_root: Path, seeing: None) -> None:
    planned = expand(plain_root, interference=None)
    execute(planned)
    assert scored(planned).empty


# What the report makes of it.


def test_the_report_has_a_table_and_a_figure_of_each(plain_root: Path, seeing: None, tmp_path: Path) -> None:
    planned = expand(plain_root, seeds=[0, 1])
    execute(planned)
    rows = scored(planned)
    out = report(tmp_path)
    page = (out / "index.html").read_text()
    assert 'class="problems"' not in page
    names = ("protocol_gap", "mixtures", "patch_bars", "patch_examples")
    assert all(list((out / "figures").glob(f"{name}-folder*.svg")) for name in names)
    with next((out / "tables").glob("mixtures_and_patches-folder-one_class-*.csv")).open() as file:
        (row,) = csv.DictReader(file)
    mixed = rows[(rows.protocol == "one_class") & (rows.ratio == 0.3)].value.mean()
    assert float(row["mixup 0.3"]) == pytest.approx(mixed)
    assert row["cut_paste 0.25: seeds"] == "2"
    assert list((out / "tables").glob("patches-folder-multi_class-cut_paste-0-25.md"))
    degradation = next((out / "tables").glob("degradation-folder-image_auroc-*.md")).read_text()
    assert re.search(r"variant +\| +one_class \| +multi_class \| +difference", degradation)
    assert "in points, taken within each seed first" in degradation


def test_without_probes_and_with_one_protocol_the_report_leaves_them_out(
    plain_root: Path, seeing: None, tmp_path: Path
) -> None:
    planned = expand(plain_root, interference=None, protocols=["one_class"])
    execute(planned)
    scored(planned)
    out = report(tmp_path)
    assert not [*out.glob("tables/*"), *out.glob("figures/*")]
    assert 'class="problems"' not in (out / "index.html").read_text()


def tidy(protocol: str, category: str, seed: int, value: float, reason: str = "") -> dict[str, Any]:
    values = {"variant": "rd", "method": "rd", "dataset": "toy", "protocol": protocol, "category": category}
    values |= {"subset": "all", "metric": "aupro", "convention": "pooled", "selection": "last", "teacher": "t"}
    values |= {"fingerprint": "f", "record": f"results/predictions/rd-toy-{protocol}/s-seed{seed}/record.json"}
    return values | {"seed": seed, "value": value, "reason": reason}


def degraded(rows: list[dict[str, Any]]) -> dict[tuple[str, str], Cell]:
    cells = aggregate(with_protocol_difference(pd.DataFrame(rows)), Plan(suite=""))
    return {(row["protocol"], row["category"]): row["cell"] for row in cells.to_dict("records")}


def test_the_difference_is_taken_within_a_seed_then_its_spread_over_seeds() -> None:
    one = {("a", 0): 0.9, ("a", 1): 0.7, ("b", 0): 0.8, ("b", 1): 0.8}
    many = {("a", 0): 0.8, ("a", 1): 0.7, ("b", 0): 0.5, ("b", 1): 0.9}
    rows = [tidy("one_class", *cell, value) for cell, value in one.items()]
    rows += [tidy("multi_class", *cell, value) for cell, value in reversed(many.items())]
    cells = degraded(rows)
    assert cells["difference", "a"].values == pytest.approx({0: -0.1, 1: 0.0})
    assert cells["difference", "a"].std == pytest.approx(np.std([-0.1, 0.0], ddof=1))
    assert cells["difference", "mean"].values == pytest.approx({0: -0.2, 1: 0.05})
    assert cells["difference", "mean"].text == "-7.5 ± 17.7"
    assert cells["one_class", "mean"].mean == pytest.approx(0.8)
    assert cells["multi_class", "mean"].mean == pytest.approx(0.725)


def test_a_difference_needs_the_cell_under_both_protocols_and_says_what_it_lacks() -> None:
    rows = [tidy("one_class", "a", 0, 0.9), tidy("one_class", "a", 1, 0.9), tidy("multi_class", "a", 0, 0.8)]
    rows += [tidy("one_class", "b", 0, 0.9), tidy("multi_class", "b", 0, float("nan"), "no defect pixel")]
    cells = degraded(rows)
    assert list(cells["difference", "a"].values) == [0]
    assert cells["difference", "b"].note == "multi_class: no defect pixel"
    assert with_protocol_difference(pd.DataFrame(rows[:2])).empty
