"""Data sets, protocols, execution, metrics and the command line."""

import benchmarks.metrics  # noqa: F401 - before NumPy, whose sort it chooses
