"""The command line, a module for each group of commands. No logic of the domain is here."""

# `--help` shows the groups in this order.
# isort: off
from benchmarks.cli import suite, runs, scores, reports, models, submissions  # noqa: F401 - each adds its commands to `app`

# isort: on
from benchmarks.cli.app import app, main

__all__ = ["app", "main"]
