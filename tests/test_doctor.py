"""`proctor doctor`: everything that would stop or spoil a suite is found before any training."""

import json
import os
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from benchmarks import cli, doctor, params, results, runs, status
from benchmarks.doctor import Finding
from benchmarks.execution import worker
from benchmarks.scoring import score, summary
from methods.base import InputError
from methods.components import teachers

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two categories in the layout of MVTec AD, with different pixels in every image."""
    random = np.random.default_rng(0)
    defect = np.zeros((16, 16), np.uint8)
    defect[2:6, 2:6] = 255
    for category in ("nut", "bolt"):
        folder = tmp_path / "own" / category
        for name in ("train/good/0", "train/good/1", "test/good/0", "test/good/1", "test/dent/0", "test/dent/1"):
            save(folder / f"{name}.png", random.integers(0, 255, (16, 16, 3), dtype=np.uint8))
        for index in range(2):
            save(folder / "ground_truth" / "dent" / f"{index}_mask.png", defect)
    return tmp_path / "own"


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def suite(root: Path | str, **changes: Any) -> params.Params:
    values = {
        "suite": "test", "methods": ["bright"], "datasets": ["folder"], "roots": {"folder": root},
        "protocols": ["one_class"], "seeds": [0], "pretrain": [], "conventions": ["default"], "allow": {},
    }  # fmt: skip
    return params.Params.model_validate(values | changes)


def found(values: params.Params, severity: str | None = None) -> list[Finding]:
    return [finding for finding in doctor.check(values) if severity in (None, finding.severity)]


def test_a_sound_suite_has_no_finding_and_a_row_for_each_category(tree: Path, own_methods: Path) -> None:
    report = doctor.examine(suite(tree))
    assert report.findings == []
    nut = next(row for row in report.contents if row.category == "nut")
    assert nut == doctor.Contents(
        "folder",
        "nut",
        {"train": 2, "good": 2, "anomalous": 2},
        {"16x16": 6},
        {"RGB": 6},
        None,
        {"2 levels": 2},
        1 / 16,
    )


def test_problems_of_a_kind_are_one_finding_with_a_count(tree: Path, own_methods: Path) -> None:
    for category in ("nut", "bolt"):
        for path in (tree / category / "ground_truth" / "dent").iterdir():
            save(path, np.zeros((8, 16), np.uint8))
    (finding,) = found(suite(tree), "error")
    assert (finding.what, finding.count) == ("folder", 4)
    assert finding.line.startswith(f"error folder: {tree}/bolt/ground_truth/dent/0_mask.png: mask of 16x8 pixels")
    assert finding.line.endswith("(and 3 more)")


def test_how_masks_were_cut_is_counted_by_rule(tree: Path, own_methods: Path) -> None:
    soft = np.asarray(Image.radial_gradient("L").resize((16, 16)))
    labels = np.zeros((16, 16), np.uint8)
    labels[:2], labels[2:4] = 1, 2
    for category, pixels in (("nut", soft), ("bolt", labels)):
        for path in (tree / category / "ground_truth" / "dent").iterdir():
            save(path, pixels)
    report = doctor.examine(suite(tree))
    notices = {f.message.partition(": ")[2][:12]: f for f in report.findings if f.severity == "notice"}
    assert all(notice.count == 2 for notice in notices.values()) and len(notices) == 2
    text = "\n".join(notice.message for notice in notices.values())
    assert "grey levels; what is above half of the full scale is defect" in text
    assert "mask with 3 levels, read as labels: any value above 0 is defect" in text
    assert [row.masks for row in report.contents] == [{"labels": 2}, {"above half": 2}]


def test_masks_that_cover_most_of_the_image_are_a_warning(tree: Path, own_methods: Path) -> None:
    for path in (tree / "nut" / "ground_truth" / "dent").iterdir():
        save(path, 255 - np.asarray(Image.open(path)))
    (warning,) = found(suite(tree))
    assert (warning.severity, warning.count) == ("warning", 2)
    assert "94% of the image is marked as defect. If its black part is the defect, invert the mask" in warning.message


def test_the_shape_in_a_palette_or_alpha_is_told(tree: Path, own_methods: Path) -> None:
    for path in (tree / "nut" / "ground_truth" / "dent").iterdir():
        Image.open(path).convert("P").save(path)
    for path in (tree / "bolt" / "ground_truth" / "dent").iterdir():
        grey = Image.open(path)
        Image.merge("LA", (Image.new("L", grey.size, 255), grey)).save(path)
    text = "\n".join(finding.line for finding in found(suite(tree), "notice"))
    assert "lies in its alpha channel, and is read from there. (and 1 more)" in text
    assert "mask with a palette, read as the colours that a viewer shows: black is no defect. (and 1 more)" in text


def test_the_range_of_16_bit_images_is_told(tree: Path, own_methods: Path) -> None:
    for name in ("train/good/0", "test/good/1"):
        save(tree / "nut" / f"{name}.png", np.arange(256, dtype=np.uint16).reshape(16, 16) * 200)
    report = doctor.examine(suite(tree))
    nut = next(row for row in report.contents if row.category == "nut")
    assert (nut.brightest, nut.modes) == (51000, {"RGB": 4, "I;16": 2})


def test_16_bit_files_of_unlike_scale_are_a_warning_until_the_depth_is_stated(tree: Path, own_methods: Path) -> None:
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16)
    for name, factor in (("train/good/0", 16), ("train/good/1", 15), ("test/good/1", 200)):
        save(tree / "nut" / f"{name}.png", ramp * factor)
    (warning,) = found(suite(tree))
    assert warning.severity == "warning"
    assert "2 of 3 16-bit files end below 16384, this one at 3825, but" in warning.message
    assert "test/good/1.png at 51000. All are read as 16 bits." in warning.message
    (tree / "dataset.yaml").write_text("bit_depth: 16\n")
    assert found(suite(tree)) == []


def test_transparent_pixels_of_an_image_are_a_warning_and_opaque_alpha_is_none(tree: Path, own_methods: Path) -> None:
    for name, alpha in (("0", 255), ("1", 254)):
        path = tree / "nut" / "train" / "good" / f"{name}.png"
        image = Image.open(path)
        image.putalpha(alpha)
        image.save(path)
    (warning,) = found(suite(tree))
    assert warning.severity == "warning" and warning.count == 1
    assert f"{path}: transparent pixels, of which the colours are read that no viewer shows" in warning.message


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff"])
def test_an_image_saved_again_is_a_copy_wherever_it_lies(suffix: str, tree: Path, own_methods: Path) -> None:
    for source, copy in (
        ("train/good/0", "train/good/8"), ("train/good/0", "test/good/8"), ("test/dent/0", "test/good/9")
    ):  # fmt: skip
        image = Image.open(tree / "nut" / f"{source}.png")
        image.save((tree / "nut" / copy).with_suffix(suffix), **{"compress_level": 0} if suffix == ".png" else {})
    lines = [finding.line for finding in found(suite(tree))]
    train, test = tree / "nut" / "train" / "good", tree / "nut" / "test"
    assert lines == [
        f"warning folder: {test}/good/8{suffix}: test image that is a copy of the train image {train}/0.png. "
        "Remove one of them.",
        f"warning folder: {test}/good/9{suffix}: the same image as {test}/dent/0.png, but one is normal and the other "
        "is not. Correct the labels.",
        f"notice folder: {train}/8{suffix}: copy of the train image {train}/0.png. Remove one.",
    ]
    assert [finding.line for finding in found(suite(tree))] == lines, "remembered"


def test_names_that_differ_in_how_an_accent_is_written_are_told(tree: Path, own_methods: Path) -> None:
    image, mask = (unicodedata.normalize(form, "ä") for form in ("NFD", "NFC"))
    folder = tree / "nut"
    shutil.copy(folder / "test" / "dent" / "0.png", folder / "test" / "dent" / f"{image}.png")
    shutil.copy(folder / "ground_truth" / "dent" / "0_mask.png", folder / "ground_truth" / "dent" / f"{mask}_mask.png")
    lines = [finding.line for finding in found(suite(tree), "error")]
    assert len(lines) == 3  # a mask without an image, an image without a mask, and why
    assert "but Unicode has two ways to write an accent, and the names use both. Rename one of them." in lines[-1]


@pytest.mark.parametrize("name", [b"gr\xfc\xdf", b"a\nb", b"\x1b[31m"])
def test_names_that_are_no_plain_text_are_refused_and_written_out(
    name: bytes, tree: Path, own_methods: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = os.fsencode(tree / "nut" / "train" / "good" / "0.png")
    try:
        os.rename(image, os.path.join(os.path.dirname(image), name + b".png"))
    except OSError:
        pytest.skip("this file system has no such names")
    result = command(suite(tree), tmp_path, monkeypatch)
    assert result.exit_code == 1
    assert "name with a control character, or with bytes that are no UTF-8. Rename it." in result.output
    assert "\x1b" not in result.output
    with pytest.raises(InputError, match="Rename it"):
        list(runs.expand(suite(tree)))


def test_names_with_markup_are_printed_as_they_are(
    tree: Path, own_methods: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "[raw]" / "scans[/old]"
    shutil.copytree(tree, root)
    (root / "nut").rename(root / "[bold]nut")
    (root / "[bold]nut" / "train" / "good" / "[b]x.svg").write_text("x")
    result = command(suite(root), tmp_path, monkeypatch)
    assert result.exit_code == 0, result.output
    assert f"{root}/[bold]nut/train/good/[b]x.svg: file that is not read" in result.output.replace("\n", "")
    assert "[bold]nut" in result.stdout


def test_json_holds_findings_and_categories(
    tree: Path, own_methods: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(tree / "nut" / "train")
    result = command(suite(tree), tmp_path, monkeypatch, "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert [(f["severity"], f["what"], f["count"]) for f in report["findings"]] == [("error", "folder", 1)]
    assert [row["category"] for row in report["categories"]] == ["bolt", "nut"]


def command(values: params.Params, folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> Any:
    monkeypatch.chdir(folder)
    Path("params.yaml").write_text(yaml.safe_dump(values.model_dump(mode="json", exclude_unset=True)))
    return CliRunner().invoke(cli.app, ["doctor", *options])


# What the plan needs beside the data.


def test_a_data_set_that_the_pipeline_generates_is_a_notice_and_a_stated_root_an_error(
    tmp_path: Path, own_methods: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROCTOR_TOY_ROOT", raising=False)
    (notice,) = found(suite("", datasets=["toy"], roots={}))
    assert notice.severity == "notice" and "`dvc repro` or `proctor fetch toy`" in notice.message
    (error,) = found(suite("", datasets=["toy"], roots={"toy": "~/typo"}))
    assert error.severity == "error" and f"{Path.home()}/typo (no such folder)" in error.message


def test_a_stated_root_that_is_missing_starts_no_generation(
    tmp_path: Path, own_methods: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values = suite("", datasets=["toy"], roots={"toy": str(tmp_path / "typo")})
    Path("params.yaml").write_text(yaml.safe_dump(values.model_dump(mode="json", exclude_unset=True)))
    for variable in ({}, {"PROCTOR_TOY_ROOT": "typo"}):
        if variable:
            Path("params.yaml").write_text(
                yaml.safe_dump(values.model_copy(update={"roots": {}}).model_dump(mode="json", exclude_unset=True))
            )
        result = CliRunner().invoke(cli.app, ["plan"], env=variable)
        assert isinstance(result.exception, InputError) and "There is no folder" in str(result.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own_methods", "params.yaml"]


def test_unknown_names_are_found_at_once(tree: Path, own_methods: Path) -> None:
    values = suite(tree, datasets=["folder", "vsa"], methods=["brigth", "dim"], conventions=["dfault"])
    assert {(finding.what, finding.message.partition("Did")[0].partition("did")[0]) for finding in found(values)} == {
        ("vsa", "There is no data set 'vsa'. "),
        ("brigth", "There is no method 'brigth'. "),
        ("conventions", "there is no convention 'dfault'. "),
    }


def test_what_the_plan_would_refuse_is_found(tree: Path, own_methods: Path) -> None:
    (error,) = found(suite(tree, hyper_parameters={"scael": 2.0}))
    assert (error.severity, error.what) == ("error", "plan") and "'scale'" in error.message
    (error,) = found(suite(tree, methods=["rd"], hyper_parameters={"teacher": "resnet18.untrained", "epochs": "many"}))
    assert error.what == "rd" and "epochs='many'" in error.message


def test_a_teacher_that_the_pipeline_trains_is_a_notice_until_it_is_there(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (notice,) = found(suite(tree, methods=["rd"], hyper_parameters={"teacher": "procedural"}, pretrain=["procedural"]))
    assert notice.severity == "notice" and "`proctor pretrain procedural`" in notice.message


HUB = "resnet18.tv_in1k"


def test_a_hub_that_cannot_be_reached_is_told_with_the_cure(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("name or service\nnot known")

    monkeypatch.setattr(teachers, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(teachers, "get_hf_file_metadata", unreachable)
    (error,) = found(suite(tree, methods=["rd"], hyper_parameters={"teacher": HUB}))
    assert error.what == HUB and "cannot be downloaded (OSError: name or service not known)" in error.message
    assert f"`weights: {{{HUB}: PATH}}`" in error.message and "\n" not in error.message


def test_with_local_weights_or_a_cached_file_the_hub_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teachers, "get_hf_file_metadata", lambda *_, **__: pytest.fail("the hub was asked"))
    monkeypatch.setattr(teachers, "try_to_load_from_cache", lambda *_, **__: pytest.fail("the hub was asked"))
    (tmp_path / "resnet18.pth").write_bytes(b"")
    teachers.check_hub(HUB, {HUB: tmp_path / "resnet18.pth"})
    teachers.check_hub("resnet18.untrained", {})
    monkeypatch.setattr(teachers, "try_to_load_from_cache", lambda *_, **__: "file")
    teachers.check_hub(HUB, {})


def test_the_path_of_weights_may_start_at_home_or_at_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "resnet18.pth").write_bytes(b"abc")
    digests = {teachers.digest(HUB, {HUB: Path(f"{start}/resnet18.pth")}) for start in (tmp_path, "~", "$HOME")}
    assert len(digests) == 1


# Labels without masks, from the plan to the report's numbers.


def test_without_masks_images_are_scored_and_pixels_are_empty_with_the_reason(
    tree: Path, own_methods: Path, results_folder: Path
) -> None:
    shutil.rmtree(tree / "nut" / "ground_truth")
    values = suite(tree, protocols=["multi_class"], conventions=["default", "loco"], evaluate_every=1)
    (run,) = (entry for entry in runs.expand(values) if isinstance(entry, runs.Run))
    worker.execute(run, "cpu", 1, 1.0)
    status.collect(run)
    score.score_group(run.group, [run], ["default", "loco"])
    rows = summary.read_scores([run.group]).set_index("category")
    of_images = rows["metric"].str.startswith("image")
    assert rows[of_images]["value"].notna().all() and set(rows[of_images].index) == {"nut", "bolt"}
    of_pixels = rows[~of_images]
    assert of_pixels.loc["bolt", "value"].notna().all()
    assert of_pixels.loc["nut", "value"].isna().all()
    assert set(of_pixels.loc["nut", "reason"]) == {"the data set has no masks for nut"}
    assert set(of_pixels.loc["nut", "metric"]) == set(of_pixels.loc["bolt", "metric"])
    assert set(of_pixels.loc["nut", "convention"]) == set(of_pixels.loc["bolt", "convention"])
    curves = {
        c: json.loads((results.details_dir(run.group) / f"{c}-seed0.json").read_text())["curves"] for c in rows.index
    }
    assert {category: set(of_category) for category, of_category in curves.items()} == {
        "nut": {"roc"}, "bolt": {"roc", "pro"}
    }  # fmt: skip


@pytest.mark.realdata
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there")
def test_real_data_sets_have_no_error(tmp_path: Path, own_methods: Path) -> None:
    (tmp_path / "loco").mkdir()
    (tmp_path / "loco" / "juice_bottle").symlink_to(SHARED / "mvtec_loco_juice_bottle")
    roots = {"mvtec_ad": SHARED / "mvtec_ad", "folder": tmp_path / "loco"}
    report = doctor.examine(suite("", datasets=["mvtec_ad", "folder"], roots=roots))
    assert report.errors == 0, [finding.line for finding in report.findings]
    assert {row.category for row in report.contents} == {"bottle", "screw", "toothbrush", "juice_bottle"}
    assert all(row.masks.keys() == {"2 levels"} for row in report.contents)
