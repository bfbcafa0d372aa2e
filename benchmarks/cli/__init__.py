"""The command line, a module for each group of commands. No logic of the domain is here."""

from benchmarks.cli import reports, runs, scores, submissions, suite  # noqa: F401 - each adds its commands to `app`
from benchmarks.cli.app import app, main

__all__ = ["app", "main"]
