"""Hyper-parameters as a method's file declares them are those that the method has."""

from __future__ import annotations

from pathlib import Path

import pytest

import methods
from benchmarks import signatures


@pytest.mark.parametrize("name", methods.names())
def test_what_a_file_declares_is_what_the_method_has(name: str) -> None:
    assert signatures.hyper_parameters(name) == set(methods.hyper_parameters(methods.load(name)))


def test_of_a_method_with_a_foreign_base_nothing_is_said(own_methods: Path) -> None:
    text = (own_methods / "bright.py").read_text()
    (own_methods / "foreign.py").write_text("import numbers\n" + text.replace("(Method)", "(Method, numbers.Number)"))
    assert signatures.hyper_parameters("bright") == {"scale"}
    assert signatures.hyper_parameters("foreign") is None
