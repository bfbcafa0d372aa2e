"""Imported maps: those of other software are scored as our own are, and what is not a map is refused by name."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
from PIL import Image
from typer.testing import CliRunner

from benchmarks import checks, cli, datasets, fingerprint, imports, params, plan, plan_cache, results, runs, status
from benchmarks.execution import worker
from benchmarks.plan import Run, Unsupported
from benchmarks.plan_cache import PlanCache, Planned
from benchmarks.scoring import score
from benchmarks.submissions import bundle, importing, map_files, verify
from methods.base import InputError
from reports import tables
from reports.analysis import checks as findings
from reports.build import build

pytestmark = pytest.mark.usefixtures("results_folder")
GROUP = importing.Group("theirs", "toy", "multi_class")
Maps = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def imports_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(imports, "FOLDER", tmp_path / "imports")
    return tmp_path / "imports"


@pytest.fixture
def suite(toy_root: Path, own_methods: Path) -> Callable[..., params.Params]:
    """A suite of the method `bright` and the imported variant `theirs`."""

    def suite(stated: dict[str, Any] | None = None, **changes: Any) -> params.Params:
        values = {
            "suite": "test", "methods": ["bright", "theirs"], "datasets": ["toy"], "roots": {"toy": toy_root},
            "variants": {"theirs": {"method": "imported", **(stated or {})}}, "protocols": ["multi_class"],
            "seeds": [0, 1],
        }  # fmt: skip
        return params.Params(**values | changes)

    return suite


@pytest.fixture
def their_maps(toy_root: Path) -> Maps:
    """A map of each test image, of another size than the image."""
    dataset, random = datasets.load("toy", toy_root), np.random.default_rng(0)
    items = [item for category in dataset.categories for item in dataset.items(category, "test")]
    return {item.key: random.random((12, 16), np.float32) for item in items}


def save(folder: Path, maps: Maps, suffix: str = ".tiff") -> Path:
    for key, content in maps.items():
        path = folder / f"{key}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_map(path, content)
    return folder


def write_map(path: Path, content: np.ndarray) -> None:
    if path.suffix == ".npy":
        np.save(path, content)
    elif path.suffix == ".png":
        Image.fromarray(content).save(path)
    else:
        tifffile.imwrite(path, content, photometric="minisblack")


def execute(values: params.Params) -> list[Run]:
    """The imported runs of a suite, stored and scored as the pipeline does."""
    entries = [run for run in runs.expand(values) if isinstance(run, Run) and run.variant == "theirs"]
    for run in entries:
        worker.execute(run, "cpu", 1, 1.0)
        status.collect(run)
    for group in dict.fromkeys(run.group for run in entries):
        score.score_group(group, [run for run in entries if run.group == group], values.conventions)
    return entries


def rows(group: str) -> pd.DataFrame:
    return pd.read_csv(results.RESULTS / "scores" / f"{group}.csv")


def test_maps_of_one_of_our_own_runs_get_its_scores(
    suite: Callable[..., params.Params], tmp_path: Path, imports_folder: Path
) -> None:
    values = suite(conventions=["default", "map_size", "rd_official"])
    ours = [run for run in runs.expand(values) if isinstance(run, Run) and run.variant == "bright"]
    for run in ours:
        worker.execute(run, "cpu", 1, 1.0)
        status.collect(run)
        exported, scores = {}, {}
        for keys, of_images, maps in results.load(results.result_dir(run))[1].values():
            exported |= dict(zip(keys, maps, strict=True))
            scores |= dict(zip(keys, of_images, strict=True))
        folder, file = save(tmp_path / f"maps{run.seed}", exported), tmp_path / "scores.csv"
        file.write_text("image,score\n" + "".join(f"{key},{float(value)!r}\n" for key, value in scores.items()))
        if run.seed == 0:
            importing.write(folder, values, GROUP, run.seed, file)
    score.score_group(ours[0].group, ours, values.conventions)
    execute(values)
    compared = ["category", "seed", "subset", "metric", "convention", "value", "images", "anomalous"]
    expected = rows(ours[0].group).query("seed == 0")[compared].reset_index(drop=True)
    assert len(expected) > 20
    pd.testing.assert_frame_equal(rows(GROUP.name)[compared], expected, check_exact=True)


@pytest.mark.parametrize("suffix", [".tiff", ".tif", ".npy", ".png"])
def test_every_format_keeps_the_values(
    suite: Callable[..., params.Params], their_maps: Maps, tmp_path: Path, suffix: str
) -> None:
    integers = {key: (content * 65535).astype(np.uint16) for key, content in their_maps.items()}
    values = suite(seeds=[0])
    importing.write(save(tmp_path / "maps", integers, suffix), values, GROUP, 0)
    (run,) = execute(values)
    for keys, scores, maps in results.load(results.result_dir(run))[1].values():
        assert maps.dtype == np.float32
        assert [scores.tolist(), maps.tolist()] == [
            [float(integers[key].max()) for key in keys], [integers[key].astype(float).tolist() for key in keys]
        ]  # fmt: skip


def test_a_group_without_maps_says_how_to_import_them(suite: Callable[..., params.Params]) -> None:
    (entry,) = [entry for entry in runs.expand(suite()) if isinstance(entry, Unsupported)]
    command = "proctor import DIR --variant theirs --dataset toy --protocol multi_class --seed 0"
    assert entry.reason == f"none of its maps are imported: `{command}`"


def test_a_seed_without_maps_is_told_and_not_planned(
    suite: Callable[..., params.Params], their_maps: Maps, tmp_path: Path
) -> None:
    importing.write(save(tmp_path / "maps", their_maps), suite(), GROUP, 1)
    assert [run.seed for run in runs.expand(suite()) if isinstance(run, Run) and run.variant == "theirs"] == [1]
    (notice,) = [
        notice for notice in checks.check(suite(pretrain=[], conventions=["default"], allow={})) if "theirs" in notice
    ]
    assert "no imported maps of seed 0: `proctor import" in notice


def test_what_is_not_stated_is_said_to_be_not_stated(
    suite: Callable[..., params.Params], their_maps: Maps, tmp_path: Path
) -> None:
    importing.write(save(tmp_path / "maps", their_maps), suite(), GROUP, 0)
    (run,) = execute(suite(seeds=[0]))
    record = results.check(results.result_dir(run))
    assert record.is_imported
    assert [record.selection, record.paper, record.provenance.device] == ["not stated", "", ""]
    assert set(rows(GROUP.name).teacher) == {"not stated"}
    part = pd.DataFrame(rows(GROUP.name).assign(cell=tables.NOT_SCORED))
    caption = " ".join(tables.describe(part, [record]))
    assert "Teacher: not stated. Selection: not stated. Budget: epochs not stated, image size not stated." in caption
    assert "Imported: other software made the anomaly maps of theirs; image score: maximum of the map." in caption
    assert not [finding.message for finding in findings.mixed([record, record.model_copy(update={"variant": "b"})])]


def test_what_is_stated_is_stored_and_compared(
    suite: Callable[..., params.Params], their_maps: Maps, tmp_path: Path
) -> None:
    stated = {
        "teacher": "wide", "pretraining": "ImageNet-1k", "epochs": 100, "image_size": 256, "selection": "oracle",
        "paper": "A", "source": "B",
    }  # fmt: skip
    values = suite(stated, seeds=[0])
    importing.write(save(tmp_path / "maps", their_maps), values, GROUP, 0)
    (run,) = execute(values)
    record = results.check(results.result_dir(run))
    assert [record.selection, record.paper, record.source] == ["oracle", "A", "B"]
    assert set(rows(GROUP.name).teacher) == {"wide (ImageNet-1k)"}
    other = record.model_copy(update={"variant": "ours", "method": "rd", "hyper_parameters": {"epochs": 10}})
    messages = [finding.message for finding in findings.mixed([record, other])]
    assert [message for message in messages if "epochs differ (ours: 10; theirs: 100)" in message]
    assert not [message for message in messages if "teacher" in message]
    hashed = record.teacher.model_copy(update={"sha256": "ab" * 32})
    assert not [
        f for f in findings.mixed([record, other.model_copy(update={"teacher": hashed})]) if "teach" in f.message
    ]


@pytest.mark.parametrize(
    "stated, message",
    [
        ({"epoch": 3}, "theirs: imported maps state no 'epoch'. Did you mean 'epochs'?"),
        ({"epochs": "many"}, "theirs: imported maps, epochs='many': Input should be a valid integer."),
        ({"selection": "best"}, "theirs: imported maps, selection='best'"),
    ],
)
def test_a_wrong_statement_is_refused(
    suite: Callable[..., params.Params], stated: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as refused:
        list(runs.expand(suite(stated)))
    assert f"params.yaml: {message}" in str(refused.value)


def test_other_maps_or_statements_make_a_run_stale(
    suite: Callable[..., params.Params], their_maps: Maps, tmp_path: Path
) -> None:
    values = suite(seeds=[0])
    importing.write(save(tmp_path / "maps", their_maps), values, GROUP, 0)
    (run,) = execute(values)
    assert status.read_status(run).state is status.State.DONE
    importing.write(
        save(tmp_path / "others", {key: -of for key, of in their_maps.items()}), values, GROUP, 0, replace=True
    )
    assert fingerprint.changed_parts(run) == ["imported maps"]
    (now,) = [entry for entry in runs.expand(suite({"epochs": 3}, seeds=[0])) if entry.variant == "theirs"]
    assert status.read_status(now).reason == "changed: imported maps, stated"


def test_an_import_makes_the_plan_of_last_time_void(
    suite: Callable[..., params.Params], their_maps: Maps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_cache, "TICK_SECONDS", -3600)  # all files count as old
    values = suite()
    cache = PlanCache(values)
    cache.observe()
    cache.write(Planned(plan.make("test", []), []))
    assert PlanCache(values).read()
    importing.write(save(tmp_path / "maps", their_maps), values, GROUP, 0)
    assert not PlanCache(values).read()


def test_the_page_says_imported_and_not_stated(
    suite: Callable[..., params.Params], their_maps: Maps, tmp_path: Path
) -> None:
    values = suite(seeds=[0])
    importing.write(save(tmp_path / "maps", their_maps), values, GROUP, 0)
    plan.write(results.RESULTS, plan.make("test", execute(values)))
    (tmp_path / "specs").mkdir()
    page = build(results.RESULTS, tmp_path / "build", tmp_path / "specs").read_text()
    assert '<th scope="row">theirs <small>imported</small></th>' in page
    assert "<dt>paper</dt><dd>not stated</dd>" in page


def test_a_bundle_of_imported_maps_is_verified(
    suite: Callable[..., params.Params], their_maps: Maps, tmp_path: Path, toy_root: Path
) -> None:
    values = suite()
    importing.write(save(tmp_path / "maps", their_maps), values, GROUP, 0)
    execute(values)
    target = tmp_path / "theirs.tar.gz"
    manifest, _ = bundle.write(target, [GROUP.name], licence="MIT", contact="someone")
    assert [manifest.method, manifest.selection, manifest.budget] == ["imported", "not_stated", {}]
    report = verify.verify(target, toy_root)
    assert report.agrees
    assert len(report.values) > 10


def test_a_changed_import_is_refused_where_it_is_used(
    suite: Callable[..., params.Params], their_maps: Maps, tmp_path: Path, imports_folder: Path
) -> None:
    values = suite(seeds=[0])
    importing.write(save(tmp_path / "maps", their_maps), values, GROUP, 0)
    (run,) = [entry for entry in runs.expand(values) if isinstance(entry, Run) and entry.variant == "theirs"]
    arrays = next((imports_folder / GROUP.name / "seed0").glob("*.maps.npy"))
    np.save(arrays, np.load(arrays) + 1)
    with pytest.raises(
        InputError, match=r"\.maps\.npy was changed after it was written.*proctor import DIR .* --force"
    ):
        worker.execute(run, "cpu", 1, 1.0)
    listed = imports_folder / GROUP.name / "seed0" / "import.json"
    content = json.loads(listed.read_text())
    next(iter(content["categories"].values()))["keys"][0] = "another/test/good/000"
    listed.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"import\.json holds maps of other images than the data set has now"):
        list(runs.expand(values))


def some(maps: Maps) -> str:
    return sorted(maps)[0]


def without_one(folder: Path, maps: Maps) -> None:
    (folder / f"{some(maps)}.tiff").unlink()


def with_one_more(folder: Path, maps: Maps) -> None:
    path = folder / f"{some(maps)}.tiff"
    write_map(path.with_name("999.tiff"), maps[some(maps)])


def with_a_twin(folder: Path, maps: Maps) -> None:
    write_map((folder / some(maps)).with_suffix(".npy"), maps[some(maps)])


def with_a_note(folder: Path, maps: Maps) -> None:
    (folder / some(maps)).with_name("notes.txt").write_text("good maps")


def with_a_wrong_category(folder: Path, maps: Maps) -> None:
    category = folder / some(maps).partition("/")[0]
    category.rename(category.with_name(f"{category.name}s"))


def without_a_category(folder: Path, maps: Maps) -> None:
    category = folder / some(maps).partition("/")[0]
    category.rename(folder.parent / "moved")


def holding(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path, Maps], None]:
    def damage(folder: Path, maps: Maps) -> None:
        write_map(folder / f"{some(maps)}.tiff", change(maps[some(maps)]))

    return damage


def all_holding(value: float) -> Callable[[Path, Maps], None]:
    def damage(folder: Path, maps: Maps) -> None:
        save(folder, {key: np.full_like(content, value) for key, content in maps.items()})

    return damage


def damaged(folder: Path, maps: Maps) -> None:
    path = folder / f"{some(maps)}.tiff"
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    "damage, message",
    [
        (without_one, r"{map} is missing \(1 of {n} maps are\)"),
        (with_one_more, r"999\.tiff: no test image has this name \(1 such\)"),
        (with_a_twin, r"are both maps of {key}\. Keep one"),
        (with_a_note, r"notes\.txt: no anomaly map.*Move it"),
        (with_a_wrong_category, r"{category}s: the data set has no such category\. Did you mean '{category}'"),
        (without_a_category, r"no maps of {category}\. .*take fewer under `categories`"),
        (holding(lambda of: of[:-1]), r": 16x1[12] pixels, but .* has 16x1[12]\. Save all maps"),
        (holding(lambda of: np.stack([of] * 3, -1)), r"{map}: has shape \(12, 16, 3\); a map has one channel"),
        (holding(lambda of: (255 * of).astype(np.uint8)), r"{map}: holds uint8; .*Save it as float32"),
        (holding(lambda of: of.astype(np.complex64)), r"{map}: holds complex64"),
        (holding(lambda of: np.where(of > 0.5, np.nan, of)), r"{map}: \d+ of 192 pixels are NaN or infinite"),
        (holding(lambda of: of.astype(np.float64) * 1e300), r"{map}: holds values beyond the range of float32"),
        (all_holding(0.25), r"all pixels of all \d+ maps are 0\.25"),
        (damaged, r"{map}: cannot be read"),
    ],
)
def test_what_is_no_set_of_maps_is_refused_and_nothing_is_written(
    suite: Callable[..., params.Params], their_maps: Maps, tmp_path: Path, imports_folder: Path,
    damage: Callable[[Path, Maps], None], message: str,
) -> None:  # fmt: skip
    folder = save(tmp_path / "maps", their_maps)
    damage(folder, their_maps)
    key = some(their_maps)
    named = {"key": key, "map": f"{key}.tiff", "category": key.partition("/")[0], "n": str(len(their_maps))}
    for name, value in named.items():
        message = message.replace(f"{{{name}}}", value)
    with pytest.raises(InputError, match=message):
        importing.write(folder, suite(), GROUP, 0)
    assert not list(imports_folder.rglob("*.json"))


def test_a_transposed_map_is_refused(
    suite: Callable[..., params.Params],
    toy_root: Path,
    their_maps: Maps,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importing, "image_size", lambda path: (16, 12))
    with pytest.raises(InputError, match=r"its sides are those of .*, exchanged"):
        importing.write(save(tmp_path / "maps", their_maps), suite(), GROUP, 0)


def test_a_seed_is_not_claimed_twice(suite: Callable[..., params.Params], their_maps: Maps, tmp_path: Path) -> None:
    folder = save(tmp_path / "maps", their_maps)
    importing.write(folder, suite(), GROUP, 0)
    with pytest.raises(InputError, match=r"Seed 0 of theirs-toy-multi_class is imported already.* --force replaces it"):
        importing.write(folder, suite(), GROUP, 0)
    with pytest.raises(InputError, match="holds the maps that are imported as seed 0 of theirs-toy-multi_class"):
        importing.write(folder, suite(), GROUP, 1)
    scores = tmp_path / "scores.csv"
    scores.write_text("image,score\n" + "".join(f"{key},{i}\n" for i, key in enumerate(their_maps)))
    with pytest.raises(InputError, match="holds the maps that are imported as seed 0"):
        importing.write(folder, suite(), GROUP, 1, scores)
    assert imports.seeds(GROUP.name) == [0]
    importing.write(folder, suite(), GROUP, 0, replace=True)
    (imports.folder(GROUP.name, 0) / "import.json").write_text("{}")
    with pytest.raises(InputError, match=r"seed0/import\.json is damaged\. Import its maps again"):
        list(runs.expand(suite()))


@pytest.mark.parametrize(
    "group, seed, message",
    [
        (GROUP._replace(variant="bright"), 0, "has no imported variant 'bright'. Declare it"),
        (GROUP._replace(dataset="visa"), 0, "'visa' is not among `datasets`"),
        (GROUP._replace(protocol="one_clas"), 0, "'one_clas' is not among `protocols`"),
        (GROUP, 7, r"7 is not among `seeds`, \[0, 1\]"),
    ],
)
def test_maps_of_what_is_not_planned_are_refused(
    suite: Callable[..., params.Params], tmp_path: Path, group: importing.Group, seed: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        importing.write(tmp_path, suite(), group, seed)


def test_maps_of_further_categories_are_left_out_and_named(
    suite: Callable[..., params.Params], their_maps: Maps, tmp_path: Path
) -> None:
    first, second = sorted({key.partition("/")[0] for key in their_maps})[:2]
    values = suite(categories={"toy": [first]})
    done = importing.write(save(tmp_path / "maps", their_maps), values, GROUP, 0)
    assert done.maps == len([key for key in their_maps if key.startswith(f"{first}/")])
    assert "left out" in done.notices[0] and second in done.notices[0]


def test_maps_that_were_normalised_one_by_one_are_doubted(
    suite: Callable[..., params.Params], their_maps: Maps, tmp_path: Path
) -> None:
    stretched = {key: (of - of.min()) / np.ptp(of) for key, of in their_maps.items()}
    done = importing.write(save(tmp_path / "maps", stretched), suite(), GROUP, 0)
    assert any("each map reaches from 0 to 1" in notice for notice in done.notices)


KEYS = ["bolt/test/good/000", "bolt/test/hole/001"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("image,value\n", "its columns are .*; it needs `image` and `score`"),
        ("", "its columns are None"),
        ("image,score\nbolt/test/good/000,1\n", "no score of bolt/test/hole/001 \\(1 of 2 are missing\\)"),
        ("image,score\nbolt/test/good/001,1\n", "line 2: the suite has no test image 'bolt/test/good/001'"),
        ("image,score\nbolt/test/good/000,high\n", "line 2: the score is 'high'"),
        ("image,score\nbolt/test/good/000,nan\n", "line 2: the score is 'nan'. Give a finite number"),
        ("image,score\nbolt/test/good/000\n", "line 2: the score is None"),
        ("image,score\nbolt/test/good/000,1e300\n", "line 2: the score is '1e300'"),
        ("score,image\n1\n", "line 2: the suite has no test image ''"),
        (
            "image,score\nbolt/test/good/000,1\nbolt/test/good/000.png,1\n",
            "line 3: a second score of bolt/test/good/000",
        ),
    ],
)
def test_wrong_scores_are_refused_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        map_files.read_scores(path, KEYS)


def test_scores_may_name_images_with_their_suffix(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("score,image\n0.5,bolt/test/good/000.png\n2,bolt/test/hole/001\n")
    assert map_files.read_scores(path, KEYS) == {KEYS[0]: 0.5, KEYS[1]: 2.0}


def test_the_command_imports_and_says_what_the_image_score_is(
    suite: Callable[..., params.Params],
    their_maps: Maps,
    tmp_path: Path,
    toy_root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    entries = {
        "suite": "test", "methods": ["theirs"], "variants": {"theirs": {"method": "imported"}}, "datasets": ["toy"],
        "roots": {"toy": str(toy_root)}, "protocols": ["multi_class"], "seeds": [0],
    }  # fmt: skip
    Path("params.yaml").write_text(yaml.safe_dump(entries))
    save(tmp_path / "maps", their_maps)
    named = ["--variant", "theirs", "--dataset", "toy", "--protocol", "multi_class"]
    done = CliRunner().invoke(cli.app, ["import", "maps", *named])
    assert done.exit_code == 0
    assert f"{len(their_maps)} anomaly maps, image score: maximum of the map" in done.output
    with open("scores.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "score"), *((key, 1) for key in their_maps)])
    done = CliRunner().invoke(cli.app, ["import", "maps", *named, "--scores", "scores.csv", "--force"])
    assert "image scores from scores.csv" in done.output
    written = plan.make("", runs.expand(params.load()))
    assert [run.method for run in written.runs] == ["imported"]
