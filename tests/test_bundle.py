"""Bundles: the same runs give the same bytes, values are recomputed from the maps, and changes are refused."""

import gzip
import hashlib
import io
import json
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_files import npy, size_and_digest
from conftest import add_methods
from PIL import Image
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score

from benchmarks import cli, params, records, results, runs, status
from benchmarks.execution import worker
from benchmarks.metrics.registry import METRICS, Metric
from benchmarks.plan import Run
from benchmarks.scoring import score
from benchmarks.submissions import bundle, verify
from benchmarks.submissions.schema import MAX_MAP_BYTES, Record, Value
from methods.base import InputError
from tests.speed import bench_verify

pytestmark = pytest.mark.usefixtures("results_folder")

FIELDS = {"licence": "CC-BY-4.0", "contact": "someone@example.org"}
DOCUMENT = Path(__file__).parent.parent / "leaderboard" / "bundle-format.md"
Members = list[tuple[str, bytes]]


@pytest.fixture(scope="module")
def finished(toy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Run]]:
    """Two seeds of a method on toy, predicted and scored: the results, and the runs."""
    folder = tmp_path_factory.mktemp("finished")
    values = params.Params(
        suite="test", methods=["bright"], datasets=["toy"], roots={"toy": toy_root}, protocols=["multi_class"],
        seeds=[0, 1], pretrain=[], conventions=["default", "loco"], allow={},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(results, "RESULTS", folder / "results")
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        add_methods(folder / "own_methods", monkeypatch)
        entries = [run for run in runs.expand(values) if isinstance(run, Run)]
        for run in entries:
            worker.execute(run, "cpu", 1, 1.0)
            status.collect(run)
        score.score_group("bright-toy-multi_class", entries, ["default", "loco"])
    return folder / "results", entries


@pytest.fixture
def stored(finished: tuple[Path, list[Run]], results_folder: Path) -> list[Run]:
    shutil.copytree(finished[0], results_folder)
    return finished[1]


def unpack(path: Path) -> tuple[dict[str, Any], Members]:
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
    return json.loads(members[0][1]), members[1:]


def pack(path: Path, manifest: dict[str, Any] | str, members: Members) -> Path:
    content = (manifest if isinstance(manifest, str) else json.dumps(manifest)).encode()
    with tarfile.open(path, "w:gz", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in [("manifest.json", content), *members]:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def rehash(manifest: dict[str, Any], members: Members) -> None:
    """Update sizes and digests after a change, as an attacker does."""
    for entry, (_, content) in zip(manifest["maps"], members, strict=True):
        entry |= size_and_digest(content)


@pytest.fixture
def made(tmp_path: Path, stored: list[Run]) -> Path:
    bundle.write(tmp_path / "x.tar.gz", ["bright-toy-multi_class"], **FIELDS)
    return tmp_path / "x.tar.gz"


def test_every_value_of_own_runs_is_recomputed_exactly(made: Path, toy_root: Path) -> None:
    report = verify.verify(made, toy_root)
    assert report.agrees
    assert {value.claim.metric for value in report.values} == set(METRICS)
    assert {value.claim.subset for value in report.values} == {"all", "logical", "structural"}
    assert {value.claim.seed for value in report.values} == {0, 1}
    assert max(abs(value.difference) for value in report.values) < 1e-12


def test_a_part_of_the_values_may_be_claimed(made: Path, toy_root: Path, tmp_path: Path) -> None:
    manifest, members = unpack(made)
    manifest["claims"] = [claim for claim in manifest["claims"] if claim["metric"] in ("pixel_ap", "spro")]
    report = verify.verify(pack(tmp_path / "part.tar.gz", manifest, members), toy_root)
    assert report.agrees and {value.claim.metric for value in report.values} == {"pixel_ap", "spro"}


def test_equal_records_give_equal_bytes(made: Path, tmp_path: Path) -> None:
    again, reordered = (
        tmp_path / "again.tar.gz",
        ["bright-toy-multi_class/all-seed1", "bright-toy-multi_class/all-seed0"],
    )
    bundle.write(again, reordered, **FIELDS)
    assert again.read_bytes() == made.read_bytes()


def test_a_bundle_states_how_it_was_made_but_not_where_and_by_whom(made: Path) -> None:
    manifest, members = unpack(made)
    assert manifest["hyper_parameters"] == {"scale": 1.0}
    assert [entry["seed"] for entry in manifest["runs"]] == [0, 1]
    assert all(entry["fingerprint"] and entry["data"]["revision"] for entry in manifest["runs"])
    assert "torch" in manifest["runs"][0]["environment"]["versions"]
    assert "host" not in manifest["runs"][0]["environment"]
    with tarfile.open(made) as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in tar} == {(0, 0, 0, "", 0o644)}
    assert made.read_bytes()[3:8] == b"\0" * 5  # no file name, no time
    for entry, (name, content) in zip(manifest["maps"], members, strict=True):
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert name == f"maps/seed{entry['seed']}/{entry['image']}.npy"
        assert np.load(io.BytesIO(content), allow_pickle=False).dtype == np.float32


def test_weights_are_included_on_request_and_checked(tmp_path: Path, made: Path, toy_root: Path) -> None:
    weights = tmp_path / "student.safetensors"
    weights.write_bytes(bytes(range(256)) * 5000)
    target = tmp_path / "with_weights.tar.gz"
    bundle.write(target, ["bright-toy-multi_class"], **FIELDS, weights=[weights])
    assert verify.verify(target, toy_root).agrees
    manifest, members = unpack(target)
    assert members[-1] == ("weights/student.safetensors", weights.read_bytes())
    pack(target, manifest, [*members[:-1], (members[-1][0], b"x" * len(members[-1][1]))])
    with pytest.raises(InputError, match=r"weights/student.safetensors: its SHA-256"):
        verify.verify(target, toy_root)
    with pytest.raises(InputError, match=r"student.pt.*safetensors"):
        bundle.write(target, ["bright-toy-multi_class"], **FIELDS, weights=[weights.rename(tmp_path / "student.pt")])


def test_a_run_that_was_not_scored_in_its_present_state_is_refused(stored: list[Run], tmp_path: Path) -> None:
    path = results.result_dir(stored[1]) / "record.json"
    path.write_text(json.dumps(records.sealed(json.loads(path.read_text()) | {"epoch": 7})))  # as if it were run again
    with pytest.raises(InputError, match=r"has no values of the stored run all-seed1"):
        bundle.write(tmp_path / "x.tar.gz", ["bright-toy-multi_class"], **FIELDS)
    assert not list(tmp_path.glob("*.tar.gz"))
    with pytest.raises(InputError, match=r"no finished run 'bright'"):
        bundle.write(tmp_path / "x.tar.gz", ["bright"], **FIELDS)


def test_runs_of_different_experiments_cannot_be_in_one_bundle(stored: list[Run], tmp_path: Path) -> None:
    path = results.result_dir(stored[1]) / "record.json"
    path.write_text(json.dumps(records.sealed(json.loads(path.read_text()) | {"hyper_parameters": {"scale": 2.0}})))
    with pytest.raises(InputError, match=r"all-seed1 has another hyper_parameters than .*all-seed0"):
        bundle.write(tmp_path / "x.tar.gz", ["bright-toy-multi_class"], **FIELDS)


def test_a_changed_map_is_detected_by_its_digest(made: Path, toy_root: Path) -> None:
    manifest, members = unpack(made)
    name, content = members[7]
    members[7] = (name, content[:-4] + bytes(4))
    pack(made, manifest, members)
    with pytest.raises(InputError, match=f"{name}: its SHA-256 is not the one in the manifest"):
        verify.verify(made, toy_root)


def test_a_changed_map_with_a_correct_digest_changes_the_values_of_its_category_and_seed(
    made: Path, toy_root: Path
) -> None:
    manifest, members = unpack(made)
    at = next(i for i, (name, _) in enumerate(members) if name.startswith("maps/seed1/fabric/test/structural"))
    members[at] = (members[at][0], npy(np.zeros((32, 32), np.float32)))
    rehash(manifest, members)
    report = verify.verify(pack(made, manifest, members), toy_root)
    differing = {(v.claim.category, v.claim.seed, v.claim.metric) for v in report.values if not v.agrees}
    assert not report.agrees
    assert ("fabric", 1, "pixel_auroc") in differing
    assert {(category, seed) for category, seed, _ in differing} == {("fabric", 1)}
    assert not any(metric.startswith("image") for _, _, metric in differing)  # the image scores were not changed
    assert any("seed 1, fabric: pixel_auroc" in line for line in verify.summary(report))


def test_a_claim_that_is_too_high_is_detected(made: Path, toy_root: Path) -> None:
    manifest, members = unpack(made)
    claim = next(c for c in manifest["claims"] if c["metric"] == "aupro" and c["value"] < 0.9)
    claim["value"] += 1e-4
    (differing,) = [v for v in verify.verify(pack(made, manifest, members), toy_root).values if not v.agrees]
    assert (differing.claim.category, differing.claim.metric) == (claim["category"], "aupro")
    assert differing.difference == pytest.approx(-1e-4, abs=1e-9)


def test_images_that_are_missing_unknown_of_another_size_or_not_finite_are_named(made: Path, toy_root: Path) -> None:
    manifest, members = unpack(made)
    images = [entry["image"] for entry in manifest["maps"]]
    fabric = next(i for i, image in enumerate(images) if image.startswith("fabric"))
    members[fabric] = (members[fabric][0], npy(np.full((32, 32), np.nan, np.float32)))
    members[fabric + 1] = (members[fabric + 1][0], npy(np.zeros((16, 32), np.float32)))
    manifest["maps"][1]["image"] = images[0] + "_more"
    members[1] = (f"maps/seed0/{images[0]}_more.npy", members[1][1])
    rehash(manifest, members)
    report = verify.verify(pack(made, manifest, members), toy_root)
    assert not report.agrees
    assert [(problem.image, problem.problem) for problem in report.images] == [
        (images[1], "missing from the bundle"),
        (images[0] + "_more", "not in the data set"),
        (images[fabric], "its map has values that are not finite, or of a magnitude of 1e+30 or more"),
        (images[fabric + 1], "its map has another size: 16x32, the first map of the category 32x32"),
    ]
    unscored = {(images[0].partition("/")[0], 0), ("fabric", 0)}
    assert all((v.recomputed is None) == ((v.claim.category, v.claim.seed) in unscored) for v in report.values)
    assert all(v.agrees == (v.recomputed is not None) for v in report.values)


def test_a_value_must_be_possible_for_its_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        METRICS, "distance", Metric("distance", "pixel", lambda pixels: 0.0, "lower", (0, float("inf")))
    )
    fields = {"category": "cog", "convention": "folder label", "seed": 0}
    for metric, value in (("aupro", 0.0), ("aupro", 1.0), ("distance", 350.0), ("unknown", -2.0)):
        assert Value.model_validate(fields | {"metric": metric, "value": value}).value == value
    for metric, value in (("aupro", 1.1), ("aupro", -0.1), ("distance", -1.0)):
        with pytest.raises(ValidationError, match=r"it must be in \[0, (1|inf)\] for this metric"):
            Value.model_validate(fields | {"metric": metric, "value": value})
    for metric in ("aupro", "distance", "unknown"):
        with pytest.raises(ValidationError, match="finite number"):
            Value.model_validate(fields | {"metric": metric, "value": float("nan")})


def test_a_score_that_is_not_finite_is_refused(made: Path, toy_root: Path) -> None:
    manifest, members = unpack(made)
    for score_text, message in (("NaN", "NaN is not a JSON number"), ("1e400", "beyond the range of a double")):
        manifest["maps"][3]["score"] = "SCORE"
        text = json.dumps(manifest).replace('"SCORE"', score_text)
        with pytest.raises(InputError, match=f"manifest.json: .*{message}"):
            verify.verify(pack(made, text, members), toy_root)
    with pytest.raises(InputError, match=r"can/0: not allowed in a bundle: score: Input should be a finite number"):
        bundle.map_entry(0, "can/0", float("nan"), np.zeros((2, 2), np.float32))


def test_a_claim_that_cannot_be_recomputed_is_not_verified(made: Path, toy_root: Path) -> None:
    manifest, members = unpack(made)
    for claim, change in zip(
        manifest["claims"], ({"metric": "my_metric"}, {"category": "spoon"}, {"seed": 9}), strict=False
    ):
        claim |= change
    report = verify.verify(pack(made, manifest, members), toy_root)
    assert [v.claim.metric for v in report.values if not v.agrees] == [
        "my_metric",
        *[v.claim.metric for v in report.values[1:3]],
    ]
    assert all("unknown metric" in v.reason for v in report.values if not v.agrees)


def test_half_precision_maps_are_scored_as_stored(made: Path, toy_root: Path) -> None:
    manifest, members = unpack(made)
    stored = [np.load(io.BytesIO(content)) for _, content in members]
    members = [(name, npy(array.astype(np.float16))) for (name, _), array in zip(members, stored, strict=True)]
    rehash(manifest, members)
    report = verify.verify(pack(made, manifest, members), toy_root)
    differences = [abs(v.difference) for v in report.values if not v.claim.metric.startswith("image")]
    assert 0 < max(differences) < 0.01


def small(root: Path, category: str) -> Path:
    """A category in MVTec AD's layout: 3 normal test images and 4 with a defect in the corner."""
    mask = np.zeros((20, 20), np.uint8)
    mask[:5, :5] = 255
    for defect, count in (("good", 3), ("scratch", 4)):
        for index in range(count):
            files = {root / category / "test" / defect / f"{index:03}.png": np.full((20, 20), 100, np.uint8)}
            if defect != "good":
                files[root / category / "ground_truth" / defect / f"{index:03}_mask.png"] = mask
            for path, pixels in files.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return root


def test_the_example_in_the_format_s_document_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = small(tmp_path / "data" / "mvtec_ad", "screw")
    (code,) = [block.partition("```")[0] for block in DOCUMENT.read_text().split("```python\n")[1:]]
    imported = {line.split()[1].partition(".")[0] for line in code.splitlines() if line.startswith(("import", "from"))}
    assert imported - sys.stdlib_module_names == {"numpy"}
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(DOCUMENT), "exec"), {})
    report = verify.verify(tmp_path / "bundle.tar.gz", root)
    assert report.agrees
    maps = report.manifest.maps
    labels = ["scratch" in entry.image for entry in maps]
    assert report.values[0].recomputed == pytest.approx(roc_auc_score(labels, [entry.score for entry in maps]))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["proctor", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_the_command_line_verifies_refuses_and_writes_the_record(
    made: Path, toy_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    record, again = tmp_path / "record.json", tmp_path / "again.tar.gz"
    arguments = ("verify", made, "--data", toy_root, "--record", record, "--date", "2026-01-02")
    assert run(monkeypatch, *arguments) == 0
    assert "verified: all" in capsys.readouterr().err
    entry = Record.model_validate_json(record.read_bytes())
    assert (entry.verified, entry.date, entry.seeds) == (True, "2026-01-02", [0, 1])
    assert entry.sha256 == hashlib.sha256(made.read_bytes()).hexdigest()

    options = ("--licence", "MIT", "--contact", "me", "--record", record)
    assert run(monkeypatch, "bundle", "bright-toy-multi_class", "-o", again, *options) == 0
    assert not Record.model_validate_json(record.read_bytes()).verified
    record.unlink()

    manifest, members = unpack(made)
    manifest["claims"][0]["value"] = 0.123456
    pack(made, manifest, members)
    capsys.readouterr()
    assert run(monkeypatch, *arguments, "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["agrees"]
    assert report["values"][0]["claimed"] == 0.123456
    assert not record.exists()

    members[3] = ("[/]../../" + members[3][0], members[3][1])
    assert run(monkeypatch, "verify", pack(made, manifest, members), "--data", toy_root) == 2
    assert "expected here, found '[/]../../maps" in capsys.readouterr().err.replace("\n", " ")


def test_text_with_control_characters_or_markup_in_names_is_refused(made: Path, toy_root: Path) -> None:
    manifest, members = unpack(made)
    for field, text in (
        ("contact", "\x1b[2J"), ("name", "a\u202eb"), ("variant", "<b>"), ("url", "javascript:alert(1)"),
        ("licence", "../x"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"manifest.json: {field}: "):
            verify.verify(pack(made, manifest | {field: text}, members), toy_root)


def test_a_bundle_that_decompresses_to_too_much_is_refused_before_it_is_decompressed(
    made: Path, toy_root: Path
) -> None:
    manifest, members = unpack(made)
    for entry in manifest["maps"]:
        entry["bytes"] = MAX_MAP_BYTES
    with pytest.raises(InputError, match=r"manifest.json: lists \d+ bytes in an archive of \d+"):
        verify.verify(pack(made, manifest, members), toy_root)
    with pytest.raises(InputError, match=r"manifest.json: more than 400000 values"):
        verify.verify(pack(made, manifest | {"hyper_parameters": {"a": [[]] * 400_000}}, members), toy_root)
    header = tarfile.TarInfo("manifest.json")
    header.size = 7 << 30
    made.write_bytes(gzip.compress(header.tobuf(tarfile.USTAR_FORMAT) + bytes(1 << 20)))
    with pytest.raises(InputError, match=rf"manifest.json: it has {7 << 30} bytes, the limit here is {16 << 20}"):
        verify.verify(made, toy_root)


def test_a_missing_data_set_is_named(made: Path, toy_root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Toy is not at .*nowhere"):
        verify.verify(made, tmp_path / "nowhere")
    partial = tmp_path / "partial"
    shutil.copytree(toy_root / "cog", partial / "cog")
    with pytest.raises(InputError, match=r"no category 'fabric'"):
        verify.verify(made, partial)


def test_the_speed_benchmark_compares_equal_values(tmp_path: Path) -> None:
    result = bench_verify.measure(tmp_path, 32, ["bottle", "grid"], ["grid"], rounds=1)
    assert (result["maps"], result["part_maps"]) == (161, 78)
    assert result["difference"] < 0.01  # the loop has a few thresholds, ours are exact


def test_a_result_that_was_changed_is_not_bundled(stored: list[Run], tmp_path: Path) -> None:
    path = next(results.result_dir(stored[0]).glob("*.scores.npy"))
    np.save(path, np.load(path)[::-1])
    with pytest.raises(InputError, match=rf"{path.name} was changed after it was written.*Run `dvc repro` to restore"):
        bundle.write(tmp_path / "x.tar.gz", ["bright-toy-multi_class"], **FIELDS)
    assert not list(tmp_path.glob("*.tar.gz"))


def test_a_run_in_the_place_of_another_is_not_bundled(stored: list[Run], tmp_path: Path) -> None:
    one, other = map(results.result_dir, stored)
    one.rename(tmp_path / "kept")
    other.rename(one)
    (tmp_path / "kept").rename(other)
    with pytest.raises(InputError, match=r"all-seed0 holds the run bright-toy-multi_class/all-seed1, not .*dvc repro"):
        bundle.write(tmp_path / "x.tar.gz", ["bright-toy-multi_class"], **FIELDS)
    assert not list(tmp_path.glob("*.tar.gz"))


def test_a_group_of_which_a_run_is_gone_is_not_bundled_without_it(stored: list[Run], tmp_path: Path) -> None:
    shutil.rmtree(results.result_dir(stored[1]))
    with pytest.raises(InputError, match=r"all-seed1/record.json cannot be read .* Run `dvc repro` to restore it"):
        bundle.write(tmp_path / "x.tar.gz", ["bright-toy-multi_class"], **FIELDS)
    manifest, _ = bundle.write(tmp_path / "x.tar.gz", ["bright-toy-multi_class/all-seed0"], **FIELDS)
    assert {entry.seed for entry in manifest.maps} == {0}
