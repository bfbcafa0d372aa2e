"""Images that a command is given, as files, folders and patterns."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from benchmarks.datasets._files import is_image
from methods.base import InputError


def find(arguments: Sequence[str]) -> list[Path]:
    """The image files that are meant, each once: files as given; of folders and patterns every image, by name.

    Raises:
        InputError: an argument is neither a file, nor a folder or pattern with images.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_file():
            images = [path]
        elif path.is_dir():
            images = sorted(file for file in path.rglob("*") if file.is_file() and is_image(file))
        else:
            images = sorted(
                file for file in map(Path, glob.glob(argument, recursive=True)) if file.is_file() and is_image(file)
            )
        if not images:
            reason = "the folder holds no image" if path.is_dir() else "there is no such file, folder or image"
            raise InputError(f"{argument}: {reason}. Give an image, a folder, or a pattern in quotes, such as '*.png'.")
        found |= dict.fromkeys(images)
    return list(found)


def names(images: Sequence[Path]) -> list[Path]:
    """A name for what is written of each image: its place below the folder that holds all of them, without suffix.

    Raises:
        InputError: two images would have the same name.
    """
    parents = [image.absolute().parent for image in images]
    base = os.path.commonpath(parents)
    chosen = [parent.relative_to(base) / image.stem for parent, image in zip(parents, images, strict=True)]
    first: dict[Path, Path] = {}
    for name, image in zip(chosen, images, strict=True):
        if (other := first.setdefault(name, image)) is not image:
            raise InputError(f"{other} and {image.name} share a stem. Rename one, or predict them one by one.")
    return chosen
