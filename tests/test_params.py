"""`params.yaml`: what is accepted, and what a wrong entry is answered."""

from pathlib import Path

import pytest
import yaml

import methods
from benchmarks import params
from methods.base import InputError

SUITES = sorted((Path(__file__).parent.parent / "benchmarks" / "suites").glob("*.yaml"))
VALID = {
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


def load(tmp_path: Path, **changes: object) -> params.Params:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(VALID | changes))
    return params.load(path)


@pytest.mark.parametrize("suite", SUITES, ids=lambda path: path.stem)
def test_every_suite_is_valid_and_bears_its_file_name(suite: Path) -> None:
    loaded = params.load(suite)
    assert loaded.suite == suite.stem
    for name in loaded.methods:
        variant = loaded.variants.get(name)
        methods.create(variant.method if variant else name, **(variant.overrides if variant else {}))


def test_a_variant_is_a_method_with_some_hyper_parameters_overridden(tmp_path: Path) -> None:
    variant = load(tmp_path).variants["rd_pixel"]
    assert (variant.method, variant.overrides) == ("rd", {"loss": "pixel"})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"protocol": ["one_class"]}, "did you mean `protocols`?"),
        ({"executor": {"job": 2}}, "did you mean `jobs`?"),
        ({"executor": {"name": "cloud"}}, "executor.name"),
        ({"compute": {"precision": "float8"}}, "it is 'float8'"),
        ({"interference": {"ratio": [0.5]}}, "did you mean `ratios`?"),
        ({"interference": {"ratios": [1.5]}}, "it is 1.5"),
        ({"interference": {"ratios": [0.5, 0.5]}}, "`interference.ratios` lists something twice"),
        ({"interference": {"patch": 0.6}}, "it is 0.6"),
        ({"seeds": []}, "`seeds`"),
        ({"seeds": [1, 1]}, "`seeds` lists something twice: [1, 1]"),
        ({"methods": ["My-Method"]}, "it is 'My-Method'"),
        ({"variants": {"rd_pixel": {"loss": "pixel"}}}, "`variants.rd_pixel.method` is missing"),
    ],
)
def test_a_wrong_entry_is_answered_with_its_name_and_value(tmp_path: Path, changes: dict, says: str) -> None:
    with pytest.raises(InputError) as error:
        load(tmp_path, **changes)
    assert "params.yaml" in str(error.value)
    assert says in str(error.value)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no .*absent\.yaml"):
        params.load(tmp_path / "absent.yaml")
    (tmp_path / "broken.yaml").write_text("methods: [rd")
    with pytest.raises(InputError, match=r"broken\.yaml is not valid YAML"):
        params.load(tmp_path / "broken.yaml")
