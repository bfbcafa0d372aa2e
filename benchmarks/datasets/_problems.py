"""What can be wrong with a data set on disk, and how many alike become one line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from methods.base import InputError

Severity = Literal["error", "warning", "notice"]
SHOWN = 8  # lines in a refusal; `proctor doctor` prints all


class FileError(InputError):
    """A file that cannot be used. Errors of one kind are reported together."""

    kind = ""

    @classmethod
    def of(cls, kind: str, path: Path, message: str) -> FileError:
        """The error about a file; the message goes on with the value and the cure."""
        error = cls(f"{path}: {message}")
        error.kind = kind
        return error


@dataclass(frozen=True)
class Problem:
    """Something wrong on disk. An error keeps the data from being used; a warning makes a wrong result likely."""

    severity: Severity
    message: str  # names the file or folder, the value and the cure
    kind: str = ""  # problems of one kind are one line; empty: a line of its own
    count: int = 1

    @property
    def text(self) -> str:
        """The message, and how many more there are like it."""
        return self.message + (f" (and {self.count - 1} more)" if self.count > 1 else "")


def grouped(problems: Iterable[Problem]) -> list[Problem]:
    """One problem for each severity and kind: the first, with the count of all; errors first.

    >>> [p.text for p in grouped([Problem("error", "a: empty.", "empty"), Problem("error", "b: empty.", "empty")])]
    ['a: empty. (and 1 more)']
    """
    groups: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        key = problem.severity, problem.kind or problem.message
        before = groups.get(key)
        groups[key] = replace(before, count=before.count + problem.count) if before else problem
    order = ("error", "warning", "notice")
    return sorted(groups.values(), key=lambda problem: order.index(problem.severity))


def refusal(start: str, problems: Iterable[Problem]) -> InputError:
    """The error that lists problems, one line for each kind."""
    lines = [problem.text for problem in grouped(problems)]
    rest = f"\n… and {len(lines) - SHOWN} more; `proctor doctor` lists all." if len(lines) > SHOWN else ""
    return InputError(f"{start}\n- " + "\n- ".join(lines[:SHOWN]) + rest)
