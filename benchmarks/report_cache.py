"""Whether the report that lies in a folder is that of now, so that it need not be built again.

It is if the stored results, the code with specs and published numbers, the reasons for what is allowed, the
environment, and the report's own files are as they were when it was built (`benchmarks/stamps.py`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import platformdirs
from pydantic import BaseModel

from benchmarks import stamps
from benchmarks.plan import digest
from methods.components.atomic import replacing

READ = ("plan", "scores", "interference", "details", "predictions")  # what a report reads of a results folder


class _Stored(BaseModel):
    conditions: str  # digest of everything that decides the report
    built: str  # digest of its files
    problems: list[str]


class ReportCache:
    """What is remembered of the report in `out`; made before the report is built, written when it is."""

    def __init__(self, results: Path, out: Path, allow: Mapping[str, str]) -> None:
        self.started, self.out = time.time(), out
        code, inputs = stamps.of_code(), stamps.of_files(results / name for name in READ)
        self.newest = max(code.newest, inputs.newest)
        self.conditions = digest([code.digest, inputs.digest, stamps.environment(), dict(allow)])
        name = digest(str(out.absolute()))
        self.path = Path(platformdirs.user_cache_dir("proctor")) / "reports" / f"{name}.json"

    def read(self) -> list[str] | None:
        """The problems that the report in `out` lists, if it is that of now, else None."""
        try:
            stored = _Stored.model_validate_json(self.path.read_bytes())
        except (OSError, ValueError):  # absent or damaged: that costs time, not results
            return None
        is_same = (stored.conditions, stored.built) == (self.conditions, self._built())
        return stored.problems if is_same else None

    def write(self, problems: Sequence[str]) -> None:
        """Remember the report that was just built, unless what it was built from was written only just before."""
        if self.newest > self.started - stamps.TICK_SECONDS:
            return
        stored = _Stored(conditions=self.conditions, built=self._built(), problems=list(problems))
        with suppress(OSError), replacing(self.path) as partial:
            partial.write_text(stored.model_dump_json())

    def _built(self) -> str:
        return stamps.of_files([self.out]).digest
