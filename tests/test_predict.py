"""`proctor predict` and `proctor export-model`: what a stored model says of images, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import Result
from PIL import Image
from test_methods import METHODS
from typer.testing import CliRunner

import methods
from benchmarks import params, plan, records, results, runs, status
from benchmarks.cli import app
from benchmarks.datasets import toy
from benchmarks.execution import image_arguments, onnx_export, stored_model, worker
from benchmarks.execution import predict as predicting
from benchmarks.plan import Run
from benchmarks.storage import model_files
from methods.base import InputError

NO_EXPORT = "the extra `export` is not installed"
VALUES: dict[str, Any] = {
    "suite": "test", "methods": ["fd"], "datasets": ["toy"], "protocols": ["one_class"], "seeds": [0],
    "categories": {"toy": ["cog", "tray"]}, "pretrain": [], "conventions": ["default"], "allow": {},
    "hyper_parameters": {"teacher": "test_resnet.untrained", "image_size": 64, "epochs": 2, "batch_size": 4},
}  # fmt: skip
COG, ALL = "fd-toy-one_class/cog-seed0", "fd-toy-multi_class/all-seed0"


def execute(values: dict[str, Any]) -> list[Run]:
    entries = [run for run in runs.expand(params.Params.model_validate(values)) if isinstance(run, Run)]
    for run in entries:
        worker.execute(run, "cpu", 1, 1.0)
        status.collect(run)
    return entries


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("predict") / "toy"
    toy.generate(root, train=8, validation=2, good=4, anomalous=6)
    return root


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with finished runs of FD: one for each of two categories, and one for both."""
    folder = tmp_path_factory.mktemp("project")
    values = VALUES | {"roots": {"toy": str(data)}, "protocols": ["one_class", "multi_class"]}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        Path("params.yaml").write_text(yaml.safe_dump(values))
        plan.write(results.RESULTS, plan.make("test", execute(values)))
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the current folder."""
    shutil.copytree(finished, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "project"


def proctor(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refusal(*arguments: object) -> str:
    """The message with which a command refuses its input."""
    error = proctor(*arguments).exception
    assert isinstance(error, InputError)
    return str(error)


def predicted(run: str, images: list[Path]) -> dict[Path, predicting.Predicted]:
    values = params.load()
    fitted = stored_model.load(run, values.weight_files, "cpu")
    source = predicting.dataset_of(fitted, values.roots)
    return {one.image: one for one in predicting.predict(fitted, images, source)}


@pytest.mark.parametrize("method", METHODS)
def test_the_runs_own_test_images_get_the_stored_bits(
    method: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    known = methods.hyper_parameters(methods.load(method))
    budget = {key: value for key, value in VALUES["hyper_parameters"].items() if key in known}
    values = VALUES | {
        "methods": [method], "protocols": ["multi_class"], "roots": {"toy": str(data)}, "hyper_parameters": budget,
    }  # fmt: skip
    Path("params.yaml").write_text(yaml.safe_dump(values))
    (run,) = execute(values)
    images = [image for category in ("tray", "cog") for image in image_arguments.find([f"{data}/{category}/test"])]
    Image.new("RGB", (70, 80), "grey").save("other.png")  # which may not complete a batch of theirs
    given = predicted(run.name, [Path("other.png"), *images])
    assert len(given) == 21
    for category, stored in results.load(results.result_dir(run))[1].items():
        for key, score, anomaly_map in zip(*stored, strict=True):
            one = given[data / f"{key}.png"]
            assert np.float32(one.score) == score
            np.testing.assert_array_equal(one.anomaly_map, anomaly_map)
        assert category in ("cog", "tray")


def test_scores_maps_and_overlays_are_written_for_every_image(project: Path, data: Path) -> None:
    answer = proctor("predict", COG, data / "cog" / "test", "--out", "out")
    assert answer.exit_code == 0, answer.exception
    rows = pd.read_csv("out/scores.csv").set_index("image")
    assert len(rows) == 10
    stored = results.load(results.RESULTS / "predictions" / COG)[1]["cog"]
    for key, score, anomaly_map in zip(*stored, strict=True):
        row = rows.loc[str(data / f"{key}.png")]
        assert np.float32(row["score"]) == score
        assert row["is_anomalous"] == (row["score"] > row["threshold"])
        with Image.open(Path("out") / row["map"]) as tiff, Image.open(Path("out") / row["overlay"]) as overlay:
            assert tiff.mode == "F"
            np.testing.assert_array_equal(np.asarray(tiff), anomaly_map)
            with Image.open(data / f"{key}.png") as image:
                assert (overlay.mode, overlay.size) == ("RGB", image.size)
    assert sorted(path.name for path in Path("out").iterdir()) == ["maps", "overlays", "scores.csv"]


def test_images_are_given_as_files_folders_and_patterns_and_each_counts_once(project: Path, data: Path) -> None:
    good = data / "cog" / "test" / "good"
    files = sorted(good.iterdir())
    assert image_arguments.find([str(good)]) == files
    assert image_arguments.find([f"{good}/*.png", str(files[0])]) == files
    assert image_arguments.find([f"{data}/cog/test/**/*.png"]) == image_arguments.find([f"{data}/cog/test"])
    assert proctor("predict", COG, files[0], "-o", "one").exit_code == 0
    assert len(pd.read_csv("one/scores.csv")) == 1


def test_two_links_to_one_image_are_two_rows(project: Path, data: Path) -> None:
    for name in ("a.png", "b.png"):
        Path(name).symlink_to(data / "cog" / "test" / "good" / "000.png")
    assert proctor("predict", COG, "a.png", "b.png", "-o", "out").exit_code == 0
    first, second = pd.read_csv("out/scores.csv")["score"]
    assert first == pytest.approx(second, rel=1e-4)


@pytest.mark.parametrize("argument", ["absent.png", "absent/*.png", "empty"])
def test_an_argument_without_an_image_is_named(argument: str, project: Path) -> None:
    Path("empty").mkdir()
    assert refusal("predict", COG, argument, "-o", "out").startswith(f"{argument}: ")
    assert not Path("out").exists()


def test_two_images_of_one_name_are_refused_before_any_work(project: Path, data: Path) -> None:
    image = next((data / "cog" / "test" / "good").iterdir())
    shutil.copy(image, "a.png")
    Image.open(image).save("a.bmp")
    assert "a.bmp and a.png share a stem" in refusal("predict", COG, "a.bmp", "a.png", "-o", "out")
    assert not Path("out").exists()


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_done(project: Path, data: Path) -> None:
    shutil.copytree(data / "cog" / "test" / "good", "images")
    whole = (data / "cog" / "test" / "good" / "000.png").read_bytes()
    Path("images/broken.png").write_bytes(whole[: len(whole) // 2])
    Path("images/empty.png").write_bytes(b"")
    answer = proctor("predict", COG, "images", "-o", "out")
    assert answer.exit_code == 1
    assert "broken.png" in answer.stderr and "file has zero bytes" in answer.stderr
    assert "2 images could not be read" in answer.stderr
    rows = pd.read_csv("out/scores.csv").set_index("image")
    assert rows["score"].notna().sum() == 4
    assert "cannot be decoded" in rows.loc["images/broken.png", "reason"]


def test_an_existing_folder_is_not_overwritten(project: Path, data: Path) -> None:
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    assert "out exists already" in refusal("predict", COG, data / "cog", "-o", "out")
    assert [path.name for path in Path("out").iterdir()] == ["mine.txt"]


def test_the_threshold_is_a_quantile_of_the_scores_of_normal_images(project: Path, data: Path) -> None:
    image = next((data / "cog" / "test" / "good").iterdir())

    def threshold(name: str, *options: object) -> float:
        assert proctor("predict", ALL, image, "-o", name, *options).exit_code == 0
        return pd.read_csv(f"{name}/scores.csv")["threshold"].item()

    normal = model_files.read(results.RESULTS / "predictions" / ALL / model_files.NAME).normal
    scores = {category: images[:, 0].numpy() for category, images in normal.items()}
    assert threshold("all") == np.quantile(np.concatenate(list(scores.values())), 0.95)
    assert threshold("highest", "--quantile", "1") == max(of.max() for of in scores.values())
    assert threshold("tray", "--category", "tray") == np.quantile(scores["tray"], 0.95)
    train = image_arguments.find([f"{data}/cog/train/good"])
    given = [np.float32(one.score) for one in predicted(ALL, train).values()]
    assert threshold("normal", "--normal", f"{data}/cog/train/good") == np.quantile(given, 0.95)
    assert "Did you mean 'tray'" in refusal("predict", ALL, image, "-o", "x", "--category", "trai")
    assert "give one of them" in refusal("predict", ALL, image, "-o", "x", "--category", "tray", "--normal", image)


def test_an_overlay_leaves_what_is_normal_as_it_is_and_draws_a_line_around_what_is_not() -> None:
    image = np.full((40, 40, 3), 100, np.uint8)
    anomaly_map = np.full((40, 40), 1.0, np.float32)
    anomaly_map[10:20, 10:20] = 5.0
    drawn = predicting.overlay(image, anomaly_map, predicting.Threshold(3.0, 1.0, ""))
    inside = np.zeros((40, 40), bool)
    inside[10:20, 10:20] = True
    assert (drawn[~inside] == 100).all()
    assert (drawn[10, 10:20] == 255).all() and (drawn[19, 10:20] == 255).all()
    assert not (drawn[12:18, 12:18] == 255).all(-1).any()
    assert (drawn[12:18, 12:18] != 100).any(-1).all()


def test_a_deep_image_is_read_by_the_bit_depth_of_the_runs_data_set(project: Path, data: Path, tmp_path: Path) -> None:
    root = tmp_path / "deep"
    shutil.copytree(data, root)
    (root / "dataset.yaml").write_text("bit_depth: 12\n")
    values = yaml.safe_load(Path("params.yaml").read_text()) | {"roots": {"toy": str(root)}}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    grey = np.asarray(Image.open(data / "cog" / "test" / "good" / "000.png").convert("L"))
    Image.fromarray(grey).save("eight.png")
    Image.fromarray(np.rint(grey * (4095 / 255)).astype(np.uint16)).save("twelve.png")
    eight, twelve = predicted(COG, [Path("eight.png"), Path("twelve.png")]).values()
    np.testing.assert_array_equal(eight.anomaly_map, twelve.anomaly_map)


def test_a_run_that_is_not_there_is_named_with_the_nearest(project: Path) -> None:
    message = refusal("predict", "fd-toy-one_class/cog-seed1", "x.png", "-o", "out")
    assert message.startswith("x.png")
    for command in (["predict", "fd-toy-one_class/cog-seed1", "params.yaml"], ["export-model", "fd-toy-one_class/c"]):
        message = refusal(*command, "-o", "out.onnx")
        assert "There is no finished run" in message and "Did you mean 'fd-toy-one_class/cog-seed0'" in message
    assert "There is no finished run 'fd-toy-one_class'" in refusal("export-model", "fd-toy-one_class", "-o", "x.onnx")


def edit(change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Change the description and tensors of COG's model, and its digest in the record as if a run had written it."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    folder = results.RESULTS / "predictions" / COG
    path = folder / model_files.NAME
    with safe_open(path, "pt") as file:
        about, names = json.loads(file.metadata()[model_files.ENTRY]), file.keys()
        tensors = {name: file.get_tensor(name) for name in names}
    change(about, tensors)
    save_file(tensors, path, {model_files.ENTRY: json.dumps(about)})
    content = json.loads((folder / "record.json").read_text())
    content["model"]["digest"] = results.file_digest(path, full=True)
    (folder / "record.json").write_text(json.dumps(records.sealed(content)))


EDITS: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any]], Any], str]] = {
    "another teacher": (
        lambda about, _: about["teacher"].update(sha256="ab" * 32),
        r"made with another teacher 'test_resnet.untrained': abab.*`weights: \{test_resnet.untrained: PATH\}`",
    ),
    "another schema": (lambda about, _: about.update(schema=2), r"not a model of schema 1 \(schema: .*Run .* again"),
    "another image size": (
        lambda about, _: about.update(image_size=128),
        "images of 128 px, and its hyper-parameters say 64",
    ),
    "other weights": (
        lambda _, tensors: tensors.pop(next(name for name in tensors if name.startswith("state/"))),
        "does not fit the method 'fd' as it is now .*Missing key.*If its code has changed since commit",
    ),
    "an unknown hyper-parameter": (
        lambda about, _: about["hyper_parameters"].update(width=3),
        "Method 'fd' has no hyper-parameter 'width'",
    ),
}


@pytest.mark.parametrize(("change", "message"), EDITS.values(), ids=EDITS)
def test_a_model_that_does_not_fit_is_one_clear_error_and_nothing_is_written(
    change: Callable[..., Any], message: str, project: Path, data: Path
) -> None:
    edit(change)
    with pytest.raises(InputError, match=message):
        raise proctor("predict", COG, data / "cog" / "test", "-o", "out").exception or AssertionError
    assert not Path("out").exists()


def test_a_changed_model_is_refused_and_one_that_was_not_kept_is_explained(project: Path) -> None:
    path = results.RESULTS / "predictions" / COG / model_files.NAME
    path.write_bytes(path.read_bytes()[:-1])
    message = refusal("export-model", COG, "-o", "x.onnx")
    assert "was changed after it was written" in message and "`dvc checkout` restores it" in message
    record = path.with_name("record.json")
    content = json.loads(record.read_text())
    content.pop("model")
    record.write_text(json.dumps(records.sealed(content)))
    assert "kept no model: `keep_models` was false" in refusal("export-model", COG, "-o", "x.onnx")


def test_the_model_of_a_stale_run_is_used_and_the_user_is_told(project: Path, data: Path) -> None:
    suite = plan.read(results.RESULTS)
    edited = [run.model_copy(update={"fingerprint_parts": {"method code": "edited"}}) for run in suite.runs]
    plan.write(results.RESULTS, plan.make("test", edited))
    answer = proctor("predict", COG, data / "cog" / "test" / "good", "-o", "out")
    assert answer.exit_code == 0 and f"notice: {COG} is stale" in answer.stderr


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_exported_or_says_why_not(
    method: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript", reason=NO_EXPORT)
    onnxruntime = pytest.importorskip("onnxruntime", reason=NO_EXPORT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    known = methods.hyper_parameters(methods.load(method))
    budget = {key: value for key, value in VALUES["hyper_parameters"].items() if key in known}
    values = VALUES | {
        "methods": [method], "categories": {"toy": ["cog"]}, "roots": {"toy": str(data)}, "hyper_parameters": budget,
    }  # fmt: skip
    Path("params.yaml").write_text(yaml.safe_dump(values))
    (run,) = execute(values)
    # DSKD's divergences are differences of nearly equal numbers: float32 itself leaves them uncertain by as much.
    tolerance = 2e-3 if method == "dskd" else 1e-4
    answer = proctor("export-model", run.name, "-o", "model.onnx", "--tolerance", tolerance)
    assert answer.exit_code == 0, answer.exception
    assert "images (B, 3, 64, 64)" in answer.stderr.replace("`", "")
    session = onnxruntime.InferenceSession("model.onnx")
    about = json.loads(session.get_modelmeta().custom_metadata_map[model_files.ENTRY])
    assert (about["method"], about["fingerprint"]) == (method, run.fingerprint)
    stored = results.load(results.result_dir(run))[1]["cog"]
    with Image.open(data / f"{stored.keys[0]}.png") as image:
        pixels = np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.BILINEAR), np.float32)
    scores, maps = session.run(None, {"images": pixels.transpose(2, 0, 1)[None] / 255})
    np.testing.assert_allclose(maps[0], stored.maps[0], rtol=0, atol=10 * tolerance * np.abs(stored.maps[0]).max())
    assert scores[0] == maps.max()


def test_an_export_that_differs_too_much_is_not_written(project: Path) -> None:
    pytest.importorskip("onnxscript", reason=NO_EXPORT)
    message = refusal("export-model", COG, "-o", "x.onnx", "--tolerance", 0)
    assert "differs from the model by" in message and "`--tolerance` accepts more" in message
    assert not list(Path().glob("*.onnx"))


def test_without_its_extra_the_export_says_how_to_install_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    assert "pip install -e '.[export]'" in refusal("export-model", COG, "-o", "x.onnx")
    assert onnx_export.TOLERANCE == 1e-4


@pytest.mark.parametrize("name", ["x.pt", "there.onnx"])
def test_an_export_replaces_no_file_and_ends_in_onnx(name: str, project: Path) -> None:
    Path("there.onnx").write_text("mine")
    assert "name a new file, x.onnx" in refusal("export-model", COG, "-o", name)
    assert Path("there.onnx").read_text() == "mine"
