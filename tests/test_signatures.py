"""Hyper-parameters as a method's file declares them are those that the method has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import methods
from benchmarks import signatures

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", methods.names())
def test_what_a_file_declares_is_what_the_method_has(name: str) -> None:
    assert signatures.hyper_parameters(name) == set(methods.hyper_parameters(methods.load(name)))


def test_of_a_method_with_a_foreign_base_nothing_is_said(own_methods: Path) -> None:
    text = (own_methods / "bright.py").read_text()
    (own_methods / "foreign.py").write_text("import numbers\n" + text.replace("(Method)", "(Method, numbers.Number)"))
    assert signatures.hyper_parameters("bright") == {"scale"}
    assert signatures.hyper_parameters("foreign") is None


def test_a_wrong_name_of_a_hyper_parameter_is_answered_before_torch_is_imported(tmp_path: Path) -> None:
    suite = yaml.safe_load((ROOT / "benchmarks" / "suites" / "toy.yaml").read_text())
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(suite | {"variants": {"rd": {"method": "rd", "los": "flat"}}}))
    code = """
import sys
from benchmarks import checks, params
from methods.base import InputError
try:
    checks.check(params.load())
except InputError as error:
    print(error, "torch" in sys.modules)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert "Method 'rd' has no hyper-parameter 'los'. Did you mean 'loss'?" in done.stdout
    assert done.stdout.endswith("False\n")
