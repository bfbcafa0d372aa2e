"""Images, decoded and resized once, and the teacher's features of them, computed once.

Both are stored in files that all runs on this revision of a data set share, one per category and split. A file is
written whole under another name, then renamed, and ends in a CRC-32 of its array: a damaged one is detected and
computed again.

Features take at most `context.cache_gib` of memory, and on disk at most half of what is free there. On a CPU they
are always kept on disk too when there is a folder for them; on a GPU they are kept in its memory or computed anew at
each step, since reading them from disk is slower than the teacher. Where the folder cannot be written, images are kept
in memory, and features too as far as `context.cache_gib` allows.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from methods.base import Context, Sample
from methods.components.atomic import replacing

logger = logging.getLogger(__name__)
FEATURE_BATCH = 16


class Network(Protocol):
    """A frozen network that computes features: a teacher, or what a method builds from one."""

    @property
    def digest(self) -> str | None:
        """Identifies the network on disk; None if its features belong to one fit and are not stored."""

    def normalise(self, images: Tensor) -> Tensor: ...

    def __call__(self, images: Tensor) -> list[Tensor]: ...


class CacheError(OSError):
    """The folder of the cache cannot be written."""


class Rows:
    """Equally shaped rows, one per sample, stored in the arrays of several categories and splits.

    >>> digits = Rows([torch.tensor([0, 1]), torch.tensor([2, 3, 4])], [(0, 1), (1, 0), (1, 2)])
    >>> digits[[0, 2]]
    tensor([1, 4])
    >>> digits.select([2, 1])[[0, 1]]
    tensor([4, 2])
    """

    def __init__(self, arrays: list[Tensor], locations: list[tuple[int, int]]) -> None:
        self.arrays, self.locations = arrays, locations  # a location is the number of an array, and a row of it

    def __len__(self) -> int:
        return len(self.locations)

    def __getitem__(self, indices: Sequence[int]) -> Tensor:
        locations = [self.locations[index] for index in indices]
        return torch.stack([self.arrays[array][row] for array, row in locations])

    def select(self, indices: Sequence[int]) -> Rows:
        """A view of some rows."""
        return Rows(self.arrays, [self.locations[index] for index in indices])

    def to(self, device: torch.device) -> Rows:
        """A copy in the memory of a device."""
        return Rows([array.clone().to(device) for array in self.arrays], self.locations)


def load_images(samples: Sequence[Sample], size: int, cache: Path | None) -> Rows:
    """All samples as RGB images of size x size pixels, uint8, (3, size, size) each.

    Bit-identical to torchvision's `Resize((size, size))` of the PIL image: bilinear with antialiasing.

    Args:
        cache: the folder to store them in; None: they stay in memory.
    """

    def compute(group: list[Sample]) -> Iterator[np.ndarray]:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # PIL decodes and resizes without holding the GIL
            for image in pool.map(lambda sample: _resize(sample, size), group):
                yield image[None]

    folder = cache / "images" if cache else None
    return _load_or_compute(samples, folder, f"{size}-bilinear", np.dtype(np.uint8), (3, size, size), compute)


def _resize(sample: Sample, size: int) -> np.ndarray:
    image = Image.fromarray(sample.image.permute(1, 2, 0).contiguous().numpy())
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


class Features:
    """A frozen network's features of some samples, cached or computed at each access.

    Call it with the indices of a batch: one (B, C_l, h_l, w_l) float32 tensor per level, on the context's device.
    """

    def __init__(self, network: Network, samples: Sequence[Sample], images: Rows, context: Context) -> None:
        self.network, self.images = network, images
        self.device = torch.device(context.device)
        self.shapes = [level.shape[1:] for level in self._compute([0])]
        self.cached = self._cache(samples, context)

    def __call__(self, indices: Sequence[int]) -> list[Tensor]:
        if self.cached is None:
            return self._compute(indices)
        flat = self.cached[indices].to(self.device, non_blocking=True)  # (B, sum of C_l h_l w_l)
        levels = flat.split([math.prod(shape) for shape in self.shapes], dim=1)
        return [level.unflatten(1, shape) for level, shape in zip(levels, self.shapes, strict=True)]

    def _compute(self, indices: Sequence[int]) -> list[Tensor]:
        return self.network(self.network.normalise(self.images[indices].to(self.device)))

    def _cache(self, samples: Sequence[Sample], context: Context) -> Rows | None:
        length = sum(math.prod(shape) for shape in self.shapes)
        needed = 4 * length * len(samples)  # bytes
        in_memory = needed <= context.cache_gib * 2**30
        folder = context.cache / "features" if context.cache and self.network.digest else None
        if self.device.type == "cuda":
            in_memory = in_memory and needed < torch.cuda.mem_get_info(self.device)[0] / 2
            folder = None
        elif folder and (free := _free_bytes(folder)) is not None and needed > free / 2:
            logger.warning(
                "Features of %d images are not cached in %s: they would fill half of it.", len(samples), folder
            )
            folder = None
        if not (in_memory or folder):
            return None
        index = {sample.key: number for number, sample in enumerate(samples)}

        def compute(group: list[Sample]) -> Iterator[np.ndarray]:
            for start in range(0, len(group), FEATURE_BATCH):
                levels = self._compute([index[sample.key] for sample in group[start : start + FEATURE_BATCH]])
                yield torch.cat([level.flatten(1) for level in levels], 1).cpu().numpy()

        size = self.images.arrays[0].shape[-1]
        name = f"{size}-{hashlib.sha256(str(self.network.digest).encode()).hexdigest()[:16]}"
        try:
            rows = _load_or_compute(samples, folder, name, np.dtype(np.float32), (length,), compute, in_memory)
        except CacheError:
            return None
        return rows.to(self.device) if in_memory and (folder or self.device.type == "cuda") else rows


def _free_bytes(folder: Path) -> int | None:
    """Free bytes; None if the folder cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _load_or_compute(
    samples: Sequence[Sample],
    folder: Path | None,
    name: str,
    dtype: np.dtype,
    shape: tuple[int, ...],
    compute: Callable[[list[Sample]], Iterable[np.ndarray]],
    in_memory: bool = True,
) -> Rows:
    """Rows of this shape for all samples, from a file for each category and split where there is a folder.

    Raises:
        CacheError: the folder cannot be written, and the rows may not be kept in memory.
    """

    def split_of(key: str) -> str:
        return key.rpartition("/")[0].replace("/", "-")  # "bottle-train"

    arrays: list[Tensor] = []
    locations: dict[str, tuple[int, int]] = {}
    unique = {sample.key: sample for sample in samples}
    ordered = sorted(unique, key=lambda key: (split_of(key), key))
    for split, keys in groupby(ordered, split_of):
        group = [unique[key] for key in keys]
        locations |= {sample.key: (len(arrays), row) for row, sample in enumerate(group)}
        if folder:
            keys_digest = hashlib.sha256("\n".join(sample.key for sample in group).encode()).hexdigest()[:16]
            path = folder / split / f"{name}-{keys_digest}.npy"
            array = _read(path, dtype, (len(group), *shape))
            if array is None:
                try:
                    _write(path, dtype, (len(group), *shape), compute(group))
                    array = np.load(path, mmap_mode="c")
                except CacheError as error:
                    _warn(str(error))
                    if not in_memory:
                        raise
                    folder = None
        if not folder:
            array = np.concatenate(list(compute(group)))
        arrays.append(torch.from_numpy(array))
    return Rows(arrays, [locations[sample.key] for sample in samples])


def _read(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray | None:
    """The array in a file, memory-mapped; None if the file is absent, damaged or may not be read."""
    if not os.path.exists(path):  # which raises nothing where a folder may not be read, unlike Path.exists
        return None
    try:
        array = np.load(path, mmap_mode="c")  # copy on write: torch requires writable memory
        with path.open("rb") as stream:
            stream.seek(-4, os.SEEK_END)
            checksum = int.from_bytes(stream.read(4), "little")
        if (array.dtype, array.shape) == (dtype, shape) and zlib.crc32(array) == checksum:
            return array
    except (OSError, ValueError, EOFError):
        pass
    logger.warning("%s is damaged and is computed again.", path)
    return None


def _write(path: Path, dtype: np.dtype, shape: tuple[int, ...], blocks: Iterable[np.ndarray]) -> None:
    """Write an array block by block.

    Raises:
        CacheError: the disk is full or the folder may not be written.
    """
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    try:
        with replacing(path) as partial, partial.open("wb") as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            checksum = 0
            for block in blocks:
                data = np.ascontiguousarray(block, dtype).data
                checksum = zlib.crc32(data, checksum)
                stream.write(data)
            stream.write(checksum.to_bytes(4, "little"))  # after the array, where numpy does not read
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise CacheError(f"The cache {path.parents[2]} cannot be written: {error.strerror or error}.") from error


@cache
def _warn(message: str) -> None:
    """Warn once of the same thing."""
    logger.warning("%s Nothing is cached there; free some space or make it writable for speed.", message)
