"""Masks: which pixels of an image are annotated as defective.

A mask is read as a viewer shows it on black: palette indices become their colours, alpha is applied, and the grey value
is that of the brightest channel. Where that leaves nothing, alpha itself is the mask: black paint on a transparent
canvas. Then one rule says which grey values are defective:

- **Labels.** A lossless file with at most 3 values above 0, or with at most 16 of which none is above half of the full
  scale: any value above 0 is defective. So are 0/255, VisA's 0, 1, 2, … and LOCO's 249 to 255. A file with several
  labels and no 0 is refused, since any of them may be the background.
- **Grey levels.** Any other file is anti-aliased or lossy (JPEG): what is above half of the full scale is defective.
  A file that has grey levels, but none above half, is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.datasets._depth import PixelRange
from benchmarks.datasets._files import decode
from benchmarks.datasets._problems import FileError

LABELS = 3  # values above 0 in any part of the range
DARK_LABELS = 16  # values above 0, none above half of the full scale
LOSSY = {"JPEG", "MPO", "JPEG2000", "WEBP", "AVIF"}  # the last three may be lossless, which Pillow does not tell


class Mask(NamedTuple):
    """A mask file as it was read."""

    values: NDArray[np.integer]  # (H, W) grey values as shown, 0 is black
    defect: NDArray[np.bool_]  # (H, W)
    levels: int  # distinct grey values, with 0
    rule: Literal["labels", "half"]
    carrier: Literal["grey", "palette", "alpha"]  # what its shape lies in


def read_mask(path: Path) -> Mask:
    """Decode a mask file and cut it by the rule of this module.

    Raises:
        FileError: as `read_image`; or the file has 16-bit colours, no visible pixel, several labels and no background,
            or grey levels of which none is above half of the full scale.
    """
    image, deep = decode(path)
    if deep.colour:
        raise FileError.of("mask", path, "mask with 16-bit colours. Save it as 8-bit grey: 0, and 255 for defect.")
    lossy = image.format in LOSSY or image.info.get("compression") == "jpeg"
    values, carrier = _shown(path, image)
    full = _full_scale(image, deep)
    present = np.flatnonzero(np.bincount(values.ravel()))  # sorted; much faster than np.unique
    above = present[present > 0]
    dark = not len(above) or above[-1] <= full / 2
    if not len(above) or (not lossy and len(above) <= (DARK_LABELS if dark else LABELS)):
        if 1 < len(present) == len(above):
            raise _no_background(path, len(present))
        return Mask(values, values > 0, len(present), "labels", carrier)
    if dark:
        raise FileError.of(
            "mask",
            path,
            f"{len(present)} grey levels up to {above[-1]}, none above half of {full}, so they are neither labels nor "
            "soft edges. Save it as lossless PNG: 0, and 255 for defect.",
        )
    return Mask(values, values > full / 2, len(present), "half", carrier)


def _full_scale(image: Image.Image, deep: PixelRange) -> int:
    if not image.mode.startswith("I"):
        return 255
    return 2**deep.bits - 1 if deep.bits and deep.peak < 2**deep.bits else 65535


def _shown(path: Path, image: Image.Image) -> tuple[NDArray[np.integer], Literal["grey", "palette", "alpha"]]:
    """Grey values (H, W) as a viewer shows them on black, and where the shape lies."""
    if image.has_transparency_data:
        shown = np.asarray(image.convert("RGBA")).astype(np.uint16)  # (H, W, 4)
        colour, alpha = shown[..., :3].max(axis=2), shown[..., 3]
        if not alpha.any():
            raise FileError.of("mask", path, "mask that is fully transparent. Save it without alpha.")
        if alpha.min() < alpha.max():
            on_black = (colour * alpha + 127) // 255
            visible = colour[alpha > 0]
            if not on_black.any():
                return alpha, "alpha"
            return on_black, "alpha" if visible.min() == visible.max() else "grey"
        return colour, "grey"
    if image.mode.startswith("I"):
        return np.asarray(image), "grey"
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L")), "grey"
    colours = np.asarray(image.convert("RGB"))  # (H, W, 3)
    grey = colours.max(axis=2)
    if grey.min() == grey.max():  # equally bright, so that brightness does not tell the shape
        if (colours != colours[0, 0]).any():
            raise _no_background(path, len(np.unique(colours.reshape(-1, 3), axis=0)))
        if image.mode == "P":  # labels that no viewer shows
            return np.asarray(image), "palette"
    return grey, "palette" if image.mode == "P" else "grey"


def _no_background(path: Path, count: int) -> FileError:
    message = f"mask with {count} values or colours, none of which is black, so its background is unknown. "
    return FileError.of("mask", path, message + "Save it with 0 for the background, and 255 for defect.")
