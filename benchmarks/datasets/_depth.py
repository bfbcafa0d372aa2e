"""Bit depth: cameras put 10, 12 or 14 bits into 16-bit files, which read as 16 bits are nearly black.

What counts, in this order: `bit_depth` in the data set's `dataset.yaml`; what the file states (BitsPerSample of TIFF,
maxval of PGM, the precision of JPEG 2000, sBIT of PNG); else 16 bits, which is refused where no file of a category
reaches a quarter of that range.

PNG asks that values be scaled to the whole of 16 bits, whatever sBIT states; many cameras do not do so. So sBIT gives
the scale of a file whose values fit into its bits, and a category where some files fit and others do not is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from benchmarks.datasets._problems import FileError

USUAL = (8, 10, 12, 14)  # bits, beside 16
OPTIONS = "dataset.yaml"  # in the root of a data set
BITS_PER_SAMPLE = 258  # tag of TIFF


class PixelRange(NamedTuple):
    """Values of an image with more than 8 bits a channel; for other images all are 0."""

    peak: int  # the largest value
    bits: int  # significant bits that the file states; 0: it states none
    colour: bool  # several channels, of which Pillow keeps the high byte


def stated_bits(path: Path, image: Image.Image) -> int:
    """How many significant bits a file with more than 8 bits a channel states; 0 if it states none."""
    if image.format in ("PPM", "JPEG2000"):
        return 16  # Pillow scales by maxval or precision
    if image.format == "TIFF":
        bits = max(image.tag_v2.get(BITS_PER_SAMPLE, (0,)))  # type: ignore[attr-defined]  # only TIFF has tags
        return bits if 8 < bits < 16 else 0
    return _sbit(path) if image.format == "PNG" else 0


def full_scale(path: Path, values: PixelRange, bit_depth: int | None) -> int:
    """The value that becomes 255, of a file with 16 bits a channel.

    Args:
        path: of the image, for messages.
        values: of its pixels.
        bit_depth: as the data set states; None: it states none.

    Raises:
        FileError: a value is beyond `bit_depth`, or the image has 16-bit colours that do not use the whole range.
    """
    full = 2 ** (bit_depth or values.bits or 16) - 1
    if bit_depth and values.peak > full:
        message = f"value {values.peak}, but `bit_depth: {bit_depth}` in {OPTIONS} ends at {full}. Correct one of them."
        raise FileError.of("bit depth", path, message)
    if values.peak > full:
        return 65535  # scaled to the whole range, as PNG asks
    if values.colour and values.peak > 0 and full < 65535:
        raise _dark_colours(path, values.peak)
    return full


def check_depths(ranges: Mapping[Path, PixelRange], bit_depth: int | None, root: Path) -> None:
    """Make sure that the 16-bit files of a category have one known scale.

    Args:
        ranges: of all images of the category.
        bit_depth: as the data set states; None: it states none.
        root: of the data set, for messages.

    Raises:
        FileError: they have not; the message names the range found, a file and the cure.
    """
    deep = {path: values for path, values in ranges.items() if values.peak}
    for path, values in deep.items():
        full_scale(path, values, bit_depth)
    if bit_depth or not deep:
        return
    unstated = {path: values for path, values in deep.items() if not values.bits}
    brightest = max(unstated, key=lambda path: unstated[path].peak, default=None)
    if brightest and (peak := unstated[brightest].peak) < 2**14:
        if unstated[brightest].colour:
            raise _dark_colours(brightest, peak)
        bits = next(bits for bits in USUAL if peak < 2**bits)
        raise FileError.of(
            "bit depth",
            brightest,
            f"the values of {len(unstated)} 16-bit files end at {peak}, and none states its bit depth; read as 16 bits "
            f"they would keep {peak // 257 + 1} of 256 grey levels. State it in {root / OPTIONS}: `bit_depth: {bits}`, "
            "or `bit_depth: 16` if the images are meant to be that dark.",
        )
    stated = {path: values for path, values in deep.items() if 0 < values.bits < 16}
    low = next((path for path, values in stated.items() if values.peak < 2**values.bits), None)
    high = next((path for path, values in stated.items() if values.peak >= 2**values.bits), None)
    if low and high:
        raise FileError.of(
            "bit depth",
            low,
            f"its values end at {stated[low].peak}, those of {high} at {stated[high].peak}, and both state "
            f"{stated[low].bits} bits (sBIT): they have no common scale. State it in {root / OPTIONS}: `bit_depth: 16` "
            "if values are scaled to 16 bits, or save all files the same way.",
        )


def _dark_colours(path: Path, peak: int) -> FileError:
    return FileError.of(
        "bit depth",
        path,
        f"16-bit colours with values up to about {peak} of 65535, of which only the high byte is read: "
        f"{peak // 257 + 1} of 256 levels. Save it with 8 bits a channel, or scaled to the whole range of 16 bits.",
    )


def _sbit(path: Path) -> int:
    """The largest entry of a PNG's chunk sBIT, which Pillow does not tell; 0 without one."""
    with path.open("rb") as file:
        file.seek(8)
        while len(start := file.read(8)) == 8:
            length, name = struct.unpack(">I4s", start)
            if name == b"sBIT":
                bits = max(file.read(length), default=0)
                return bits if 8 <= bits <= 16 else 0
            if name == b"IDAT":
                break
            file.seek(length + 4, 1)
    return 0
