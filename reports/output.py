"""The files of a report: those that differ are written, those that it no longer has are removed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from methods.components.atomic import replacing


class Output:
    """A report's folder. A file whose content stays is not touched, so that its time says when it changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written: set[Path] = set()

    def write(self, name: str, content: str | bytes) -> Path:
        """The file of this name below the folder, with this content."""
        path, data = self.folder / name, content.encode() if isinstance(content, str) else content
        self.written.add(path)
        with suppress(OSError):  # absent, or something else than a file, which the renaming then says
            if path.read_bytes() == data:
                return path
        with replacing(path) as partial:
            partial.write_bytes(data)
        return path

    def remove_others(self, *folders: str) -> None:
        """Remove what lies in these folders and was not written."""
        for folder in folders:
            for path in (self.folder / folder).glob("*"):
                if path not in self.written:
                    path.unlink()
