"""Bundles: written the same from the same records, scored again from their maps, refused where they were changed."""

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
from conftest import add_methods
from PIL import Image
from sklearn.metrics import roc_auc_score

from benchmarks import bench_verify, bundle, cli, params, runner, runs, score, store, verify
from benchmarks.metrics.registry import METRICS
from benchmarks.runs import Run
from benchmarks.submission import MAX_MAP_BYTES, Record
from methods.base import InputError

pytestmark = pytest.mark.usefixtures("results")

ABOUT = {"licence": "CC-BY-4.0", "contact": "someone@example.org"}
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
        monkeypatch.setattr(store, "RESULTS", folder / "results")
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        add_methods(folder / "own_methods", monkeypatch)
        entries = [run for run in runs.expand(values) if isinstance(run, Run)]
        for run in entries:
            runner.execute(run, "cpu", 1, 1.0)
            store.collect(run)
        score.score_group("bright-toy-multi_class", entries, ["default", "loco"])
    return folder / "results", entries


@pytest.fixture
def stored(finished: tuple[Path, list[Run]], results: Path) -> list[Run]:
    shutil.copytree(finished[0], results)
    return finished[1]


def unpack(path: Path) -> tuple[dict[str, Any], Members]:
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
    return json.loads(members[0][1]), members[1:]


def pack(path: Path, manifest: dict[str, Any], members: Members) -> Path:
    content = json.dumps(manifest).encode()
    with tarfile.open(path, "w:gz", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in [("manifest.json", content), *members]:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def rehash(manifest: dict[str, Any], members: Members) -> None:
    """What a forger does after an edit."""
    for entry, (_, content) in zip(manifest["maps"], members, strict=True):
        entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.fixture
def made(tmp_path: Path, stored: list[Run]) -> Path:
    bundle.write(tmp_path / "x.tar.gz", ["bright-toy-multi_class"], ABOUT)
    return tmp_path / "x.tar.gz"


def test_every_value_of_own_runs_is_recomputed_exactly(made: Path, toy_root: Path) -> None:
    report = verify.verify(made, toy_root)
    assert report.agrees
    assert {value.claim.metric for value in report.values} == {
        *METRICS,
    }
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
    bundle.write(again, reordered, ABOUT)
    assert again.read_bytes() == made.read_bytes()


def test_a_bundle_says_how_it_was_made_but_not_where_and_by_whom(made: Path) -> None:
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


def test_weights_come_in_only_if_asked_for_and_are_checked(tmp_path: Path, made: Path, toy_root: Path) -> None:
    weights = tmp_path / "student.safetensors"
    weights.write_bytes(bytes(range(256)) * 5000)
    target = tmp_path / "weighty.tar.gz"
    bundle.write(target, ["bright-toy-multi_class"], ABOUT, [weights])
    assert verify.verify(target, toy_root).agrees
    manifest, members = unpack(target)
    assert members[-1] == ("weights/student.safetensors", weights.read_bytes())
    pack(target, manifest, [*members[:-1], (members[-1][0], b"x" * len(members[-1][1]))])
    with pytest.raises(InputError, match=r"weights/student.safetensors: its SHA-256"):
        verify.verify(target, toy_root)
    with pytest.raises(InputError, match=r"student.pt.*safetensors"):
        bundle.write(target, ["bright-toy-multi_class"], ABOUT, [weights.rename(tmp_path / "student.pt")])


def test_a_run_that_was_not_scored_as_it_is_is_refused(stored: list[Run], results: Path, tmp_path: Path) -> None:
    path = results / "scores" / "bright-toy-multi_class.csv"
    path.write_text(path.read_text().replace(stored[1].fingerprint, "0" * 16))
    with pytest.raises(InputError, match=r"does not hold the stored run all-seed1"):
        bundle.write(tmp_path / "x.tar.gz", ["bright-toy-multi_class"], ABOUT)
    assert not list(tmp_path.glob("*.tar.gz"))
    with pytest.raises(InputError, match=r"no finished run 'bright'"):
        bundle.write(tmp_path / "x.tar.gz", ["bright"], ABOUT)


def test_runs_of_different_experiments_do_not_share_a_bundle(stored: list[Run], results: Path, tmp_path: Path) -> None:
    path = store.result_dir(stored[1]) / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hyper_parameters": {"scale": 2.0}}))
    with pytest.raises(InputError, match=r"all-seed1 has another hyper_parameters than .*all-seed0"):
        bundle.write(tmp_path / "x.tar.gz", ["bright-toy-multi_class"], ABOUT)


def test_a_changed_map_is_named_by_its_hash(made: Path, toy_root: Path) -> None:
    manifest, members = unpack(made)
    name, content = members[7]
    members[7] = (name, content[:-4] + bytes(4))
    pack(made, manifest, members)
    with pytest.raises(InputError, match=f"{name}: its SHA-256 is not the one in the manifest"):
        verify.verify(made, toy_root)


def test_a_changed_map_with_a_forged_hash_differs_in_category_and_metric(made: Path, toy_root: Path) -> None:
    manifest, members = unpack(made)
    at = next(i for i, (name, _) in enumerate(members) if name.startswith("maps/seed1/fabric/test/structural"))
    members[at] = (members[at][0], npy(np.zeros((32, 32), np.float32)))
    rehash(manifest, members)
    report = verify.verify(pack(made, manifest, members), toy_root)
    wrong = {(v.claim.category, v.claim.seed, v.claim.metric) for v in report.values if not v.agrees}
    assert not report.agrees
    assert ("fabric", 1, "pixel_auroc") in wrong
    assert {(category, seed) for category, seed, _ in wrong} == {("fabric", 1)}
    assert not any(metric.startswith("image") for _, _, metric in wrong)  # the image scores are as they were
    assert any("seed 1, fabric: pixel_auroc" in line for line in verify.verdict(report))


def test_a_claim_that_is_too_good_differs(made: Path, toy_root: Path) -> None:
    manifest, members = unpack(made)
    claim = next(c for c in manifest["claims"] if c["metric"] == "aupro" and c["value"] < 0.9)
    claim["value"] += 1e-4
    (wrong,) = [v for v in verify.verify(pack(made, manifest, members), toy_root).values if not v.agrees]
    assert (wrong.claim.category, wrong.claim.metric) == (claim["category"], "aupro")
    assert wrong.difference == pytest.approx(-1e-4, abs=1e-9)


def test_images_that_are_missing_unknown_of_another_size_or_not_finite_are_named(made: Path, toy_root: Path) -> None:
    manifest, members = unpack(made)
    images = [entry["image"] for entry in manifest["maps"]]
    maps = manifest["maps"]
    fabric, tray = (next(i for i, e in enumerate(maps) if e["image"].startswith(c)) for c in ("fabric", "tray"))
    members[fabric] = (members[fabric][0], npy(np.full((32, 32), np.nan, np.float32)))
    members[fabric + 1] = (members[fabric + 1][0], npy(np.zeros((16, 32), np.float32)))
    maps[tray]["score"] = float("nan")
    maps[1]["image"] = maps[0]["image"] + "_more"
    members[1] = (f"maps/seed0/{maps[1]['image']}.npy", members[1][1])
    rehash(manifest, members)
    report = verify.verify(pack(made, manifest, members), toy_root)
    assert not report.agrees
    assert [fault[:3:2] for fault in report.faults] == [
        (images[1], "missing from the bundle"),
        (images[0] + "_more", "not in the data set"),
        (images[fabric], "its map is not finite, or beyond 1e+30"),
        (images[fabric + 1], "its map is of another size: 16x32, the category's first map has 32x32"),
        (images[tray], "its score is not finite"),
    ]
    assert all(v.recomputed is None for v in report.values if v.claim.seed == 0)
    assert all(v.agrees for v in report.values if v.claim.seed == 1)


def test_a_value_that_no_map_can_give_is_not_verified(made: Path, toy_root: Path) -> None:
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
    assert all("no such metric" in v.reason for v in report.values if not v.agrees)


def test_half_precision_is_scored_as_it_is_stored(made: Path, toy_root: Path) -> None:
    manifest, members = unpack(made)
    stored = [np.load(io.BytesIO(content)) for _, content in members]
    members = [(name, npy(one.astype(np.float16))) for (name, _), one in zip(members, stored, strict=True)]
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


def test_the_documented_bundle_by_other_software_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def run(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["proctor", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_the_command_line_verifies_refuses_and_writes_the_record(
    made: Path, toy_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    record, again = tmp_path / "record.json", tmp_path / "again.tar.gz"
    words = ("verify", made, "--data", toy_root, "--record", record, "--date", "2026-01-02")
    assert run(monkeypatch, *words) == 0
    assert "verified: all" in capsys.readouterr().err
    entry = Record.model_validate_json(record.read_bytes())
    assert (entry.verified, entry.date, entry.seeds) == (True, "2026-01-02", [0, 1])
    assert entry.sha256 == hashlib.sha256(made.read_bytes()).hexdigest()

    about = ("--licence", "MIT", "--contact", "me", "--record", record)
    assert run(monkeypatch, "bundle", "bright-toy-multi_class", "-o", again, *about) == 0
    assert not Record.model_validate_json(record.read_bytes()).verified
    record.unlink()

    manifest, members = unpack(made)
    manifest["claims"][0]["value"] = 0.123456
    pack(made, manifest, members)
    capsys.readouterr()
    assert run(monkeypatch, *words, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["agrees"]
    assert found["values"][0]["claimed"] == 0.123456
    assert not record.exists()

    members[3] = ("[/]../../" + members[3][0], members[3][1])
    assert run(monkeypatch, "verify", pack(made, manifest, members), "--data", toy_root) == 2
    assert "in its place stands '[/]../../maps" in capsys.readouterr().err.replace("\n", " ")


def test_text_with_control_characters_or_markup_in_names_is_refused(made: Path, toy_root: Path) -> None:
    manifest, members = unpack(made)
    for field, text in (
        ("contact", "\x1b[2J"), ("name", "a\u202eb"), ("variant", "<b>"), ("url", "javascript:alert(1)"),
        ("licence", "../x"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"manifest.json: {field}: "):
            verify.verify(pack(made, manifest | {field: text}, members), toy_root)


def test_a_bundle_of_zeros_that_unpacks_too_far_is_refused_before_it_is_unpacked(made: Path, toy_root: Path) -> None:
    manifest, members = unpack(made)
    for entry in manifest["maps"]:
        entry["bytes"] = MAX_MAP_BYTES
    with pytest.raises(InputError, match=r"manifest.json: declares \d+ bytes in an archive of \d+"):
        verify.verify(pack(made, manifest, members), toy_root)
    with pytest.raises(InputError, match=r"manifest.json: holds more than 400000 values"):
        verify.verify(pack(made, manifest | {"hyper_parameters": {"a": [[]] * 400_000}}, members), toy_root)
    header = tarfile.TarInfo("manifest.json")
    header.size = 7 << 30
    made.write_bytes(gzip.compress(header.tobuf(tarfile.USTAR_FORMAT) + bytes(1 << 20)))
    with pytest.raises(InputError, match=rf"manifest.json: {7 << 30} bytes, where {16 << 20} are"):
        verify.verify(made, toy_root)


def test_a_data_set_that_is_not_there_is_an_answer_and_no_traceback(made: Path, toy_root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Toy is not at .*nowhere"):
        verify.verify(made, tmp_path / "nowhere")
    partial = tmp_path / "partial"
    shutil.copytree(toy_root / "cog", partial / "cog")
    with pytest.raises(InputError, match=r"no category 'fabric'"):
        verify.verify(made, partial)


def test_the_benchmark_compares_equal_things(tmp_path: Path) -> None:
    result = bench_verify.measure(tmp_path, 32, ["bottle", "grid"], ["grid"], rounds=1)
    assert (result["maps"], result["part_maps"]) == (161, 78)
    assert result["difference"] < 0.01  # the loop's thresholds are few, ours all
