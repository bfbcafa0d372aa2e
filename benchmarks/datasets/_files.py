"""Image files of a data set: which files are read, and how their pixels become 8-bit RGB."""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile
from torch import Tensor

from benchmarks.datasets._depth import PixelRange, full_scale, stated_bits
from benchmarks.datasets._problems import FileError
from methods.base import InputError

# Pillow knows the suffixes of these formats, but has no decoder of its own: drawings, films, scientific containers.
NOT_IMAGES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error)
EXIF_ENTRIES = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
ORIENTATIONS = range(2, 9)  # 1 is "as stored"; other values mean nothing

# Pillow warns of images above its limit and refuses those above twice the limit. The warning guards programs that
# decode files of strangers; here the refusal is enough.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


class Header(NamedTuple):
    """What an image file states before its pixels."""

    height: int
    width: int
    mode: str  # as Pillow names it; "RGB:16" where several channels have 16 bits
    orientation: int  # EXIF; 1: the pixels are stored as viewers show them


@cache
def image_suffixes() -> frozenset[str]:
    """The suffixes of all formats that Pillow decodes here, in lower case."""
    known = Image.registered_extensions().items()
    return frozenset(s for s, name in known if name == "MPO" or (name in Image.OPEN and name not in NOT_IMAGES))


def is_image(path: Path) -> bool:
    """Whether the name of a file is that of an image; hidden files (".DS_Store", "._000.png") are not."""
    return path.suffix.lower() in image_suffixes() and not path.name.startswith(".")


def list_folders(folder: Path) -> list[Path]:
    """The folders in a folder by name, without hidden ones. Empty if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def list_images(folder: Path) -> list[Path]:
    """The image files in a folder by name, not those in its sub-folders. Empty if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if is_image(path))


def read_image(path: Path, bit_depth: int | None = None) -> Tensor:
    """Decode an image file to (3, H, W) uint8 RGB at native resolution.

    Greyscale is repeated, palette and CMYK are converted, alpha is dropped; of several frames the first is read.
    16 bits become 8 by value * 255 / full scale, where the full scale is that of `bit_depth`, else of the bits that
    the file states, else 65535. In colour Pillow keeps the high byte of 16 bits, which is at most 1 less.

    Args:
        path: of the image.
        bit_depth: significant bits of the values in 16-bit files; None: as each file states.

    Raises:
        FileError: the file is empty, truncated, no image or too large, has an EXIF orientation, or holds values that
            8 bits cannot represent.
    """
    image, values = decode(path)
    full = full_scale(path, values, bit_depth)
    if image.mode.startswith("I"):
        image = Image.fromarray(np.rint(np.asarray(image) / (full / 255)).astype(np.uint8))
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()  # (3, H, W)


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) from the file's header.

    Raises:
        FileError: as `read_header`, or the image has an EXIF orientation.
    """
    header = read_header(path)
    _refuse_orientation(path, header)
    return header.height, header.width


def read_header(path: Path) -> Header:
    """What the file states before its pixels.

    Raises:
        FileError: the file is missing, empty, no image or too large.
    """
    with _opened(path) as image:
        return _header(image)


def count_frames(path: Path) -> int:
    """How many images the file holds; the first is what is read."""
    with _opened(path) as image, suppress(*UNREADABLE):  # damage behind the first frame does not matter
        return getattr(image, "n_frames", 1)
    return 1


def decode(path: Path) -> tuple[Image.Image, PixelRange]:
    """The first image of a file, as Pillow decodes it.

    Raises:
        FileError: as `read_image`, but for the bit depth.
    """
    with _opened(path) as image:
        header = _header(image)
        image.load()
    _refuse_orientation(path, header)
    if image.mode in ("F", "LAB"):
        kind = "floating-point pixels have no fixed range" if image.mode == "F" else "L*a*b* pixels are not read"
        raise FileError.of("mode", path, f"{kind}. Save it with 8 or 16 bits a channel, in grey or RGB.")
    return image, _pixel_range(path, image, header)


def _refuse_orientation(path: Path, header: Header) -> None:
    if header.orientation != 1:
        raise FileError.of(
            "orientation",
            path,
            f"EXIF orientation {header.orientation}, so viewers show it turned or mirrored and its stored pixels are "
            "another picture. Store image and mask the same way: as shown (`magick mogrify -auto-orient FILE`), or, if "
            "the masks were drawn on the stored pixels, without the tag (`exiftool -n -Orientation=1 FILE`).",
        )


def _pixel_range(path: Path, image: Image.Image, header: Header) -> PixelRange:
    if header.mode.endswith(":16"):
        return PixelRange(int(np.asarray(image).max()) * 257, stated_bits(path, image), True)
    if not image.mode.startswith("I"):
        return PixelRange(0, 0, False)
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        message = f"32-bit values from {low} to {high}. Save it with 8 or 16 bits a channel."
        raise FileError.of("mode", path, message)
    return PixelRange(high, stated_bits(path, image), False)


def _header(image: ImageFile.ImageFile) -> Header:
    # Pillow names the layout of 16-bit channels "RGB;16B"; the 16 bits of a whole pixel in BMP are "BGR;16".
    deep = not image.mode.startswith("I") and any(re.search(";16[BLN]", str(tile[3])) for tile in image.tile)
    orientation = 1
    if image.format == "TIFF" or image.info.keys() & EXIF_ENTRIES:
        with suppress(*UNREADABLE):  # damaged metadata does not spoil the pixels
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return Header(
        image.height, image.width, image.mode + ":16" * deep, orientation if orientation in ORIENTATIONS else 1
    )


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    try:
        with Image.open(path) as image:
            yield image
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise FileError.of(
            "too large",
            path,
            f"{int(pixels[0]) if pixels else 0:,} pixels, more than the {limit:,} that are read. "
            "Cut it into tiles, or scale it down, together with its mask.",
        ) from None
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> FileError:
    if not path.is_file():
        return FileError.of("missing", path, "file is missing. Extract the archive again.")
    if path.stat().st_size == 0:
        return FileError.of("empty", path, "file has zero bytes. Extract the archive again, or delete the file.")
    reason = " ".join(str(error).split())
    return FileError.of("unreadable", path, f"cannot be decoded ({reason}). Extract the archive again, or delete it.")
