"""`params.yaml`: what is accepted, and the one line that answers a wrong entry."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import methods
from benchmarks import checks, params, runs, suite_files, yaml_files
from benchmarks.params import Compute, Executor, Interference
from methods.base import InputError

ROOT = Path(__file__).parent.parent
SUITES = sorted((ROOT / "benchmarks" / "suites").glob("*.yaml"))
VALID: dict[str, Any] = {
    "suite": "mine",
    "methods": ["rd", "rd_pixel"],
    "variants": {"rd_pixel": {"method": "rd", "loss": "pixel"}},
    "datasets": ["toy"],
    "protocols": ["one_class"],
    "seeds": [0],
    "pretrain": [],
    "conventions": ["default"],
    "allow": {},
}
TEXT = "suite: mine\nmethods: [rd]\ndatasets: [toy]\nprotocols: [one_class]\nseeds: [0]\n"


def load(tmp_path: Path, **changes: object) -> params.Params:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(VALID | changes))
    return params.load(path)


def checked(**changes: object) -> list[str]:
    return checks.check(params.check(VALID | changes, "params.yaml"))


@pytest.mark.parametrize("suite", SUITES, ids=lambda path: path.stem)
def test_every_suite_is_valid_and_bears_its_file_name(suite: Path) -> None:
    loaded = params.load(suite)
    assert loaded.suite == suite.stem
    assert [variant.name for variant in runs.variants(loaded)] == loaded.methods
    assert checks.check(loaded) == []


def test_a_variant_is_a_method_with_some_hyper_parameters_overridden(tmp_path: Path) -> None:
    variant = load(tmp_path).variants["rd_pixel"]
    assert (variant.method, variant.overrides) == ("rd", {"loss": "pixel"})


# Files that are wrong as a whole.

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
WRONG_FILES = {
    "empty": (b"", "params.yaml is empty; it must have entries"),
    "comments alone": (b"# suite: toy\n", "params.yaml is empty; it must have entries"),
    "a conflict": (
        b"suite: toy\n<<<<<<< HEAD\nseeds: [0]\n=======\nseeds: [1]\n>>>>>>> other\n",
        "line 2: an unresolved merge conflict",
    ),
    "a conflict without names": (b"suite: toy\n<<<<<<<\n=======\n>>>>>>>\n", "line 2: an unresolved merge conflict"),
    "Latin-1": ("suite: toy\n# größe\n".encode("latin-1"), "line 2: not UTF-8 text"),
    "UTF-16": (TEXT.encode("utf-16"), "line 1: not UTF-8 text"),
    "a list": (b"[suite, toy]", "params.yaml is a list; it must have entries"),
    "a scalar": (b"toy", "params.yaml is a single value; it must have entries"),
    "a repeated entry": (TEXT.encode() + b"seeds: [1]\n", 'line 6: found duplicate key "seeds".'),
    "a repeated nested entry": (b"compute: {compile: true, compile: false}", 'line 1: found duplicate key "compile".'),
    "a tab": (b"suite: toy\nhyper_parameters:\n\tepochs: 1\n", "line 3: found character '\\t'"),
    "an open bracket": (b"methods: [rd", "line 1: expected ',' or ']'"),
    "an unknown alias": (b"seeds: *none", "line 1: found undefined alias 'none'"),
    "two documents": (b"suite: a\n---\nsuite: b\n", "found another document"),
    "a Python object": (b"suite: !!python/object/apply:os.system [id]", "could not determine a constructor"),
    "a bomb of aliases": (BOMB.encode(), "more than 10000 values, its aliases written out"),
    "a list in itself": (b"seeds: &a [*a]", "more than 10000 values"),
    "a bomb of merges": (BOMB.replace("[x, x, x, x, x, x, x, x, x, x]", "{x: 1}").encode(), "more than 10000 values"),
    "deep nesting": (b"seeds: " + b"[" * 5000, "params.yaml is not valid YAML: maximum recursion depth"),
    "an impossible date": (b"suite: 2024-13-45", "params.yaml is not valid YAML: month must be in 1..12"),
    "a null byte": (b"suite: \0", "params.yaml is not valid YAML: unacceptable character"),
    "an endless number": (b"seeds: [" + b"9" * 5000 + b"]", "params.yaml is not valid YAML: Exceeds the limit"),
    "other keys": (b"1: 2\n[a]: 3\n", "each name of an entry must be text, not 1, ('a',)."),
}


@pytest.mark.parametrize(("content", "message"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_bytes(content)
    with pytest.raises(InputError) as error:
        params.load()
    lines = [line for line in str(error.value).splitlines() if "missing" not in line]
    assert message in lines[-1]
    assert len(lines) == 1
    assert len(lines[0]) < 400


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"There is no params\.yaml in .*: run proctor in a project's folder\."):
        params.load()
    Path("params.yaml").mkdir()
    with pytest.raises(InputError, match=r"^params\.yaml cannot be read: Is a directory\.$"):
        params.load()

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(InputError, match=r"^params\.yaml cannot be read: Permission denied\.$"):
        params.load()


@given(st.binary(max_size=40) | st.text("ab:-[]{}&*!|>'\"#?,\n\t %@<=.0", max_size=40).map(str.encode))
def test_no_content_ends_in_anything_but_an_input_error(content: bytes) -> None:
    try:
        params.check(yaml_files.parse(content.decode("utf-8", "replace"), "params.yaml"), "params.yaml")
    except InputError as error:
        assert str(error).startswith("params.yaml")
    else:
        raise AssertionError("only a complete file is valid")


def test_what_dvc_reads_is_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(
        TEXT + "hyper_parameters: &shared {learning_rate: 5e-3}\nvariants:\n  on: {<<: *shared, method: rd}\n",
        encoding="utf-8-sig",  # a byte order mark, as some editors write
        newline="\r\n",
    )
    loaded = params.load(path)
    assert loaded.hyper_parameters == {"learning_rate": 0.005}
    assert loaded.variants["on"].overrides == {"learning_rate": 0.005}  # YAML 1.1 would read `on` as true


# Entries that are wrong.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": ["one_class"]}, "unknown entry `protocol`. Did you mean 'protocols'?"),
        ({"executor": {"job": 2}}, "unknown entry `executor.job`. Did you mean 'jobs'?"),
        ({"executor": {"resources": {"*": {"gpu": 2}}}}, "`executor.resources.*.gpu`. Did you mean 'gpus'?"),
        ({"executor": "slurm"}, "`executor` must be a mapping, `{name: value}`, not 'slurm'."),
        ({"executor": {"device": "gpu"}}, "`executor.device` must be 'auto', 'cpu', 'cuda' or 'mps', not 'gpu'."),
        ({"executor": {"jobs": "many"}}, "`executor.jobs` must be a whole number, not 'many'."),
        ({"executor": {"memory_gib": float("inf")}}, "`executor.memory_gib` must be a finite number, not inf."),
        ({"executor": {"slurm_additional": {"qos": ["a"]}}}, "must be text, a number, true or false, not ['a']."),
        ({"compute": {"precision": "float8"}}, "`compute.precision` must be 'float32', 'bfloat16' or 'float16', not"),
        ({"compute": {"deterministic": "maybe"}}, "`compute.deterministic` must be true or false, not 'maybe'."),
        ({"interference": {"ratio": [0.5]}}, "Did you mean 'ratios'?"),
        ({"interference": {"ratios": [1.5]}}, "each of `interference.ratios` must be less than 1, not 1.5."),
        ({"interference": {"ratios": [0.5, 0.5]}}, "`interference.ratios` repeats 0.5; remove the repetition."),
        ({"interference": {"patch": 0.6}}, "`interference.patch` must be less than or equal to 0.5, not 0.6."),
        ({"seeds": []}, "`seeds` is empty."),
        ({"seeds": [1, 1]}, "`seeds` repeats 1; remove the repetition."),
        ({"seeds": [-1, -2, 3]}, "each of `seeds` must be greater than or equal to 0, not -1, -2."),
        ({"seeds": ["0", True, 1.5]}, "each of `seeds` must be a whole number, not '0', True, 1.5."),
        ({"methods": "rd"}, "`methods` must be a list, not 'rd'."),
        ({"methods": ["My-Method", "B"]}, "each of `methods` must consist of a-z, 0-9 and _, not 'My-Method', 'B'."),
        ({"methods": ["rd", "rd"]}, "`methods` repeats 'rd'; remove the repetition."),
        ({"pretrain": ["procedural"] * 2}, "`pretrain` repeats 'procedural'; remove the repetition."),
        ({"conventions": ["loco", "loco"]}, "`conventions` repeats 'loco'; remove the repetition."),
        ({"categories": {"toy": ["cog", "cog"]}}, "`categories.toy` repeats 'cog'; remove the repetition."),
        ({"categories": {"toy": []}}, "`categories.toy` is empty."),
        ({"categories": {"toy": [1]}}, "each of `categories.toy` must be text, not 1."),
        ({"variants": {"rd_pixel": {"loss": "pixel"}}}, "`variants.rd_pixel.method` is missing"),
        ({"variants": {"RD": {"method": "rd"}}}, "each name in `variants` must consist of a-z, 0-9 and _, not 'RD'."),
        ({"variants": None}, "`variants` has no value: give it one, or remove it."),
        ({"evaluate_every": True}, "`evaluate_every` must be a whole number, not True."),
        ({"allow": {"mixed": 1}}, "`allow.mixed` must be text, not 1."),
        ({"suite": ""}, "`suite` is empty."),
        ({"roots": {"toy": "$NO_SUCH_VARIABLE/toy"}}, "the environment variable NO_SUCH_VARIABLE is not set."),
        ({"weights": {"resnet18.tv_in1k": 3}}, "`weights.resnet18.tv_in1k` must be a path, not 3."),
    ],
)
def test_a_wrong_entry_is_answered_with_its_name_and_value(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(InputError) as error:
        load(tmp_path, **changes)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{tmp_path / 'params.yaml'}: ")
    assert message in line


def test_mistakes_of_one_kind_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("suite: mine\nfoo: 1\nbar: 2\n")
    with pytest.raises(InputError) as error:
        params.load(tmp_path / "params.yaml")
    missing, unknown = str(error.value).splitlines()
    assert "`methods`, `datasets`, `protocols`, `seeds` are missing" in missing
    assert "unknown entries `foo`, `bar`. Known: suite," in unknown


def test_what_is_left_out_has_a_default(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    assert (loaded.pretrain, loaded.conventions, loaded.allow, loaded.categories) == ([], ["default"], {}, {})


def test_home_and_variables_are_replaced_in_roots_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/data")
    loaded = load(tmp_path, roots={"toy": "~/toy", "visa": "$DATA/visa"}, weights={"a": "${DATA}/a.pt", "b": "b.pt"})
    assert loaded.roots == {"toy": Path("/home/me/toy"), "visa": Path("/data/visa")}
    assert loaded.weights == {"a": Path("/data/a.pt"), "b": Path("b.pt")}
    folder = methods.create("aand", texture_folder="~/dtd").texture_folder  # type: ignore[attr-defined]
    assert folder == Path("/home/me/dtd")


@pytest.mark.parametrize("model", [Compute, Executor, Interference])
def test_every_option_is_explained_to_users(model: type) -> None:
    texts = [*SUITES, ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
    words = "\n".join(path.read_text() for path in texts)
    assert [name for name in model.model_fields if name not in words] == []  # type: ignore[attr-defined]


# Names, which need the code.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["rdd"]}, "there is no method or variant 'rdd'. Did you mean 'rd'?"),
        ({"methods": ["rd_pixl"]}, "Did you mean 'rd_pixel'?"),
        ({"variants": {"rd_pixel": {"method": "dr"}}}, "rd_pixel: there is no method 'dr'."),
        ({"variants": {"rd_pixel": {"method": "rd", "los": "pixel"}}}, "rd_pixel: Method 'rd' has no hyper-parameter"),
        (
            {"variants": {"rd": {"method": "fd"}}, "methods": ["rd"]},
            "rd: a method has this name; give the variant of fd",
        ),
        (
            {"hyper_parameters": {"epoch": 3}},
            "no method of the suite has the hyper-parameter 'epoch'. Did you mean 'ep",
        ),
        ({"conventions": ["defualt"]}, "there is no convention 'defualt'. Did you mean 'default'?"),
        ({"pretrain": ["resnet18"]}, "`pretrain`: there is no recipe for a teacher 'resnet18'. Known: procedural."),
        (
            {"categories": {"toi": ["cog"]}},
            "`categories` names 'toi', which is not among `datasets`. Did you mean 'toy'?",
        ),
        (
            {"executor": {"resources": {"rd-toy-one_clas": {"gpus": 2}}}},
            "`executor.resources`: no group matches 'rd-toy-one_clas'. Did you mean 'rd-toy-one_class'?",
        ),
        ({"executor": {"resources": {"*-multi_class": {"gpus": 2}}}}, "no group matches '*-multi_class'."),
        (
            {"allow": {"mixed:fd-toy-one_class": "x"}},
            "`allow.mixed:fd-toy-one_class`: there is no group 'fd-toy-one_class'",
        ),
    ],
)
def test_a_wrong_name_is_refused_before_anything_is_fetched(changes: dict, message: str) -> None:
    with pytest.raises(InputError) as error:
        checked(**changes)
    (line,) = str(error.value).splitlines()
    assert line.startswith("params.yaml: ")
    assert message in line


def test_one_mistake_of_several_variants_is_one_line() -> None:
    with pytest.raises(InputError) as error:
        checked(hyper_parameters={"epochs": "many"})
    (line,) = str(error.value).splitlines()
    assert line.startswith("params.yaml: rd, rd_pixel: Method 'rd', epochs='many': ")


def test_a_device_that_is_not_here_is_refused_unless_a_cluster_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match=r"`executor\.device` is 'cuda', but torch finds no such device here"):
        checked(executor={"device": "cuda"})
    assert checked(executor={"device": "cuda", "name": "slurm"}) == []


def test_findings_of_a_data_set_and_protocol_may_be_allowed() -> None:
    assert checked(allow={"mixed:toy-one_class": "so it is", "collapsed:rd-toy-one_class": "small"}) == []


@pytest.mark.parametrize(
    ("changes", "notice"),
    [
        ({"methods": ["rd"]}, "variant 'rd_pixel' is declared, but not listed under `methods`: it is not run."),
        ({"roots": {"mvtec": "/data"}}, "`roots` names an unknown data set 'mvtec'. Did you mean 'mvtec_ad'?"),
        (
            {"weights": {"wide_resnet50_2": "/w.pt"}},
            "`weights`: no variant of the suite uses the teacher 'wide_resnet50_2'; used: wide_resnet50_2.tv_in1k.",
        ),
    ],
)
def test_what_has_no_effect_is_noticed(changes: dict, notice: str) -> None:
    assert checked(**changes) == [notice]


# `proctor use`.

YOURS = """# Where this lab computes.
executor:
  name: slurm   # the cluster
  # partition: old
  partition: gpu
# not theirs
roots: {toy: ~/toy}  # on the fast disk
"""


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(TEXT + YOURS + "\nweights:\n  a: b.pt\n")
    return path


@pytest.mark.parametrize("suite", SUITES, ids=lambda path: path.stem)
def test_a_suite_is_written_as_it_is_and_your_entries_stay_with_their_comments(suite: Path, target: Path) -> None:
    selected = suite_files.select(suite.stem, target)
    assert selected == (["executor", "roots", "weights"], [])
    text = target.read_text()
    assert suite.read_text().split("\n", 2)[2].rstrip() in text  # without the line that names its schema
    assert YOURS in text
    loaded = params.load(target)
    assert (loaded.suite, loaded.executor.partition, loaded.weights) == (suite.stem, "gpu", {"a": Path("b.pt")})
    suite_files.select("toy", target)
    suite_files.select(suite.stem, target)
    assert target.read_text() == text


@pytest.mark.parametrize(
    "text", [TEXT, "{suite: mine, methods: [rd], datasets: [toy], protocols: [one_class], seeds: [0]}"]
)
def test_a_suite_of_your_own_may_leave_out_what_has_a_default(text: str, target: Path) -> None:
    (target.parent / "mine.yaml").write_text(text)
    suite_files.select(str(target.parent / "mine.yaml"), target)
    entries = yaml_files.parse(target.read_text(), target)
    assert (entries["pretrain"], entries["conventions"], entries["allow"]) == (
        [],
        ["default"],
        {},
    )  # dvc.yaml reads them
    assert params.load(target).roots["toy"].name == "toy"


def test_a_byte_order_mark_is_not_carried_into_the_new_file(target: Path) -> None:
    target.write_text("executor: {jobs: 2}  # both cores\n" + TEXT, encoding="utf-8-sig")
    suite_files.select("toy", target)
    assert target.read_text().endswith("\nexecutor: {jobs: 2}  # both cores\n")
    assert params.load(target).executor.jobs == 2


def test_an_entry_of_the_suite_replaces_yours_which_stays_as_a_comment(target: Path) -> None:
    (target.parent / "mine.yaml").write_text(TEXT + "roots: {toy: /theirs}\n")
    assert suite_files.select(str(target.parent / "mine.yaml"), target).replaced == ["roots"]
    assert params.load(target).roots == {"toy": Path("/theirs")}
    assert "# roots: {toy: ~/toy}  # on the fast disk\n" in target.read_text()


@pytest.mark.parametrize(
    "content", [c for c, _ in WRONG_FILES.values()] + [b"suite: mine\n"], ids=[*WRONG_FILES, "short"]
)
def test_a_wrong_suite_overwrites_nothing(content: bytes, target: Path) -> None:
    before = target.read_bytes()
    suite = target.with_name("theirs.yaml")
    suite.write_bytes(content)
    with pytest.raises(InputError, match=r"theirs\.yaml"):
        suite_files.select(str(suite), target)
    assert target.read_bytes() == before
    assert sorted(path.name for path in target.parent.iterdir()) == ["params.yaml", "theirs.yaml"]


@pytest.mark.parametrize(
    "content",
    [c for name, (c, _) in WRONG_FILES.items() if name not in ("empty", "other keys")]
    + [b"executor: {job: 3}", b"roots: []", b"weights:\n"],
)
def test_a_parameter_file_that_cannot_be_read_is_not_overwritten(content: bytes, target: Path) -> None:
    target.write_bytes(content)
    with pytest.raises(InputError, match=r"params\.yaml"):
        suite_files.select("toy", target)
    assert target.read_bytes() == content


def test_an_empty_or_absent_parameter_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("\n")
    for path in (tmp_path / "absent.yaml", tmp_path / "empty.yaml"):
        suite_files.select("toy", path)
        assert params.load(path).suite == "toy"


def test_a_suite_goes_where_a_link_points(target: Path) -> None:
    link = target.with_name("link.yaml")
    link.symlink_to(target)
    suite_files.select("toy", link)
    assert link.is_symlink()
    assert params.load(target).suite == "toy"


def test_an_unknown_suite_is_answered_with_the_nearest(target: Path) -> None:
    with pytest.raises(InputError, match=r"There is no suite or file 'paper-dsk'\. Did you mean 'paper-dskd'\?"):
        suite_files.select("paper-dsk", target)


def test_params_are_read_without_torch() -> None:
    code = "import sys, benchmarks.params, benchmarks.suite_files; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
