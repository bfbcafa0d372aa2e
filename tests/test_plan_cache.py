"""The stored plan: used again when nothing has changed, and never when anything has."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from benchmarks import fingerprint, params, runs, stamps
from benchmarks import plan as plans
from benchmarks.cli import app
from benchmarks.plan_cache import PlanCache, Planned
from methods.base import InputError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def project(
    tmp_path: Path, toy_root: Path, own_methods: Path, results_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A suite of `bright` and of `aand` with a folder of textures, whose files all count as old."""
    monkeypatch.setattr(stamps, "TICK_SECONDS", -3600)
    monkeypatch.setenv("TEXTURES", str(tmp_path / "textures"))
    shutil.copytree(toy_root, tmp_path / "toy")
    for name in ("textures", "others"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "bark.png").write_bytes(b"bark")
    write_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_params(folder: Path, **changes: Any) -> None:
    aand = {"method": "aand", "teacher": "test_resnet.untrained", "texture_folder": "$TEXTURES"}
    values: dict[str, Any] = {
        "suite": "test", "methods": ["bright", "textured"], "variants": {"textured": aand}, "datasets": ["toy"],
        "roots": {"toy": "toy"}, "categories": {"toy": ["cog"]}, "protocols": ["one_class"], "seeds": [0],
        "pretrain": [], "conventions": ["default"], "allow": {}, "compute": {"precision": "float32"},
    }  # fmt: skip
    (folder / "params.yaml").write_text(yaml.safe_dump(values | changes))


def make() -> Planned:
    """Plan and store."""
    cache = PlanCache(params.load())
    cache.observe()
    planned = Planned(plans.make("test", runs.expand(cache.params)), ["a notice"])
    cache.write(planned)
    return planned


def read() -> Planned | None:
    return PlanCache(params.load()).read()


def test_the_plan_of_last_time_is_used_if_nothing_has_changed(project: Path) -> None:
    assert read() is None
    made = make()
    assert read() == made
    assert [run.variant for run in made.plan.runs] == ["bright", "textured"]


def brighter(path: Path) -> None:
    """Another image in a file of the same size and times, as far as these can be set."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def image(project: Path) -> Path:
    return next((project / "toy" / "cog" / "train" / "good").glob("*.png"))


def swap(project: Path) -> None:
    """Replace an image by another that has its size and its times."""
    path, other = image(project), project / "other.png"
    shutil.copy2(path, other)
    brighter(other)
    other.replace(path)


def shadow(project: Path) -> None:
    """A package that Python imports in place of the module of the same name."""
    package = project / "own_methods" / "bright"
    package.mkdir()
    shutil.copy(project / "own_methods" / "dim.py", package / "__init__.py")


CHANGES: dict[str, Callable[[Path], object]] = {
    "a method is edited": lambda project: brighter(project / "own_methods" / "bright.py"),
    "a module shadows a method": shadow,
    "a module is added": lambda project: (project / "own_methods" / "added.py").touch(),
    "a module is removed": lambda project: (project / "own_methods" / "dim.py").unlink(),
    "an image is edited": lambda project: brighter(image(project)),
    "an image is replaced": swap,
    "an image is removed": lambda project: image(project).unlink(),
    "an image is renamed": lambda project: image(project).rename(image(project).with_name("zzz.png")),
    "two images are exchanged": lambda project: exchange(*sorted(image(project).parent.iterdir())[:2]),
    "a category is added": lambda project: (project / "toy" / "empty").mkdir(),
    "options of the data set are added": lambda project: (project / "toy" / "dataset.yaml").write_text("bit_depth: 12"),
    "the data set is gone": lambda project: (project / "toy").rename(project / "moved"),
    "the data set is a link to another": lambda project: relink(project),
    "a file that a hyper-parameter names is edited": lambda project: brighter(project / "textures" / "bark.png"),
    "a seed is added": lambda project: write_params(project, seeds=[0, 1]),
    "a hyper-parameter is changed": lambda project: write_params(project, hyper_parameters={"scale": 2.0}),
    "the precision is changed": lambda project: write_params(project, compute={"precision": "bfloat16"}),
    "a number becomes another kind of number": lambda project: write_params(project, hyper_parameters={"scale": 1}),
}


def exchange(first: Path, second: Path) -> None:
    kept = first.with_name("kept")
    first.rename(kept)
    second.rename(first)
    kept.rename(second)


def relink(project: Path) -> None:
    shutil.copytree(project / "toy", project / "copy")
    shutil.rmtree(project / "toy")
    (project / "toy").symlink_to(project / "copy")


@pytest.mark.parametrize("change", CHANGES)
def test_the_plan_is_made_anew_if_anything_has_changed(change: str, project: Path) -> None:
    write_params(project, hyper_parameters={"scale": 1.0} if "number" in change else {})
    make()
    assert read() is not None
    CHANGES[change](project)
    assert read() is None


def test_an_environment_variable_in_the_parameters_counts_with_its_value(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make()
    monkeypatch.setenv("TEXTURES", str(project / "others"))
    assert read() is None


def test_a_variable_that_names_the_root_of_a_data_set_counts(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_params(project, roots={})
    monkeypatch.setenv("PROCTOR_TOY_ROOT", "toy")
    make()
    assert read() is not None
    shutil.copytree("toy", "other")
    monkeypatch.setenv("PROCTOR_TOY_ROOT", "other")
    assert read() is None


def test_another_version_of_a_package_counts(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = project / "packages"
    (packages / "torch-2.11.0.dist-info").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [*sys.path, str(packages)])
    make()
    assert read() is not None
    (packages / "torch-2.11.0.dist-info").rename(packages / "torch-2.12.0.dist-info")
    assert read() is None


def test_a_file_that_was_written_just_before_is_not_relied_on(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamps, "TICK_SECONDS", 2)
    image(project).touch()
    make()
    assert read() is None, "a second edit within one tick of the clock could not be told from the first"


def test_a_file_that_is_edited_while_the_plan_is_made_is_seen_next_time(project: Path) -> None:
    cache = PlanCache(params.load())
    cache.observe()
    expanded = list(runs.expand(cache.params))
    path = image(project)
    Image.open(path).point(lambda value: 255 - value).save(path)
    cache.write(Planned(plans.make("test", expanded), []))
    assert read() is None


def test_a_damaged_store_is_like_none(project: Path) -> None:
    make()
    path = PlanCache(params.load()).path
    path.write_text(path.read_text()[:-20])
    assert read() is None
    make()
    assert read() is not None


def test_each_folder_has_a_plan_of_its_own(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make()
    shutil.copytree(project / "toy", project / "elsewhere" / "toy")
    write_params(project / "elsewhere", seeds=[3])
    monkeypatch.chdir(project / "elsewhere")
    assert read() is None
    make()
    monkeypatch.chdir(project)
    assert read() is not None


def test_a_link_that_leads_back_ends(project: Path) -> None:
    (project / "toy" / "back").symlink_to(project / "toy")
    make()
    assert read() is not None


def test_the_command_prints_the_same_from_the_store_and_looks_at_no_method_again(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_params(project, methods=["bright"], variants={"unused": {"method": "dim"}})
    first = CliRunner().invoke(app, ["plan", "--json"])
    assert "unused" in first.stderr
    monkeypatch.setattr(fingerprint, "parts", lambda *_: pytest.fail("a fingerprint was computed"))
    second = CliRunner().invoke(app, ["plan", "--json"])
    assert (second.exit_code, second.stdout, second.stderr) == (0, first.stdout, first.stderr)


def test_the_command_sees_a_change(project: Path) -> None:
    write_params(project, methods=["bright"])
    assert CliRunner().invoke(app, ["plan", "--write"]).exit_code == 0
    (before,) = plans.read(Path("results")).runs
    path = image(project)
    Image.open(path).point(lambda value: 255 - value).save(path)
    assert CliRunner().invoke(app, ["plan", "--write"]).exit_code == 0
    (after,) = plans.read(Path("results")).runs
    now, then = after.fingerprint_parts, before.fingerprint_parts
    assert [part for part in now if now[part] != then[part]] == ["data"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["brigth"]}, "there is no method or variant 'brigth'. Did you mean 'bright'?"),
        ({"variants": {"textured": {"method": "aan"}}}, "textured: there is no method 'aan'. Did you mean 'aand'?"),
        ({"datasets": ["toi"]}, "there is no data set 'toi'. Did you mean 'toy'?"),
        ({"protocols": ["one_clas"]}, "there is no protocol 'one_clas'. Did you mean 'one_class'?"),
    ],
)
def test_a_wrong_name_is_answered_before_a_method_is_imported(
    changes: dict[str, Any], message: str, project: Path
) -> None:
    write_params(project, **changes)
    with pytest.raises(InputError) as error:
        CliRunner().invoke(app, ["plan"], catch_exceptions=False)
    assert f"params.yaml: {message}" in str(error.value)


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # to import it raises
from benchmarks import stamps
from benchmarks.cli import main
stamps.TICK_SECONDS = -3600
main()
"""


def test_neither_an_unchanged_plan_nor_a_typo_imports_torch(project: Path) -> None:
    suite: dict[str, Any] = {"methods": ["fd"], "variants": {}, "executor": {"device": "cpu"}}
    suite["hyper_parameters"] = {"teacher": "test_resnet.untrained"}

    def start(program: str, arguments: str, **changes: Any) -> tuple[int, str]:
        write_params(project, **suite | changes)
        command, environment = (
            [sys.executable, "-c", program, *arguments.split()],
            os.environ | {"PYTHONPATH": str(ROOT)},
        )
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        return ended.returncode, ended.stdout + ended.stderr

    assert start(WITHOUT_TORCH.replace('sys.modules["torch"] = None', "pass"), "plan")[0] == 0
    for arguments, changes, code, says in (
        ("plan --json", {}, 0, '"state": "missing"'),
        ("plan --check", {}, 1, "fd-toy-one_class/cog-seed0 is missing"),
        ("plna", {}, 2, "There is no command 'plna'. Did you mean 'plan'?"),
        ("plan --jsno", {}, 2, "No such option: --jsno"),
        ("plan", {"methods": ["fdd"]}, 2, "there is no method or variant 'fdd'"),
        ("plan", {"hyper_parameters": {"epoch": 1}}, 2, "no method of the suite has the hyper-parameter 'epoch'"),
        ("plan", {"sedes": [0]}, 2, "unknown entry `sedes`"),
    ):
        ended, printed = start(WITHOUT_TORCH, arguments, **changes)
        assert ended == code and says in printed, printed
