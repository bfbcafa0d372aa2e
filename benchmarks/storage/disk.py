"""What keeps a command from writing results: another command at work there, a full disk, no permission. A leaf."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from methods.base import InputError

CURES = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some space",
    errno.EACCES: "Change its owner or permissions",
    errno.EPERM: "Change its owner or permissions",
    errno.EROFS: "Mount it writable",
}


class Busy(RuntimeError):
    """Another driver is launching runs in this folder."""


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Raise a full disk or a refused access as an `InputError` that names the place, the free space and the cure.

    Args:
        folder: what is being written, for errors that do not name a file.

    Raises:
        InputError: the disk is full, or the access is refused.
        OSError: any other one, unchanged.
    """
    try:
        yield
    except OSError as error:
        # NumPy reports a full disk as "N requested and M written", without a number.
        number = errno.ENOSPC if error.errno is None and str(error).endswith(" written") else error.errno
        if number not in CURES:
            raise
        path = Path(os.fsdecode(error.filename or folder)).absolute()
        existing = next(parent for parent in (path, *path.parents) if parent.exists())
        raise InputError(
            f"{path}: {os.strerror(number)} ({shutil.disk_usage(existing).free >> 20} MiB are free there). "
            f"{CURES[number]} and run the same command again: finished runs are kept, and interrupted ones "
            "continue from their last checkpoint."
        ) from error
