"""Copies anomaly maps of other software into the project, once they are known to be maps of its data set.

The maps keep their size: conventions resize them, as those of any run. They become float32, as all stored maps are.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from benchmarks import datasets, imports, protocols
from benchmarks.datasets._files import image_size
from benchmarks.datasets.base import Item
from benchmarks.imports import Import
from benchmarks.params import Params
from benchmarks.schema import IMPORTED, group_name
from benchmarks.submissions import map_files
from benchmarks.wording import counted
from methods.base import InputError, did_you_mean
from methods.components.atomic import replacing


class Group(NamedTuple):
    """What imported maps are of."""

    variant: str
    dataset: str
    protocol: str

    @property
    def name(self) -> str:
        return group_name(*self)


class Imported(NamedTuple):
    """What was written, and what its user should know."""

    folder: Path
    maps: int
    notices: list[str]


def write(
    source: Path, params: Params, group: Group, seed: int, scores: Path | None = None, replace: bool = False
) -> Imported:
    """Import the maps of a group with a seed.

    Args:
        source: the folder that holds the categories.
        scores: a CSV file of image scores; None: the maximum of each map.
        replace: whether an import of this seed may be there already.

    Raises:
        InputError: the suite plans no such runs; the maps or scores are not those of its test images; or the seed is
            imported already. Nothing is written then.
    """
    _require_planned(params, group, seed)
    target = imports.folder(group.name, seed)
    if target.exists() and not replace:
        raise InputError(
            f"Seed {seed} of {group.name} is imported already, in {target}. --force replaces it; maps of another seed "
            "need its own --seed."
        )
    dataset = datasets.load(group.dataset, params.roots.get(group.dataset), params.categories.get(group.dataset))
    splits = protocols.splits(group.protocol, dataset, seed)
    items = {category: of for split in splits for category, of in split.test.items()}
    keys = {category: [item.key for item in of] for category, of in items.items()}
    paths = map_files.find(source, keys, dataset.on_disk)
    every = [key for of_category in keys.values() for key in of_category]
    given = map_files.read_scores(scores, every) if scores else None
    notices = [note] if (note := _left_out(source, keys)) else []
    with replacing(target) as partial:
        partial.mkdir(parents=True)
        for category, of_category in items.items():
            maps = _copy(partial / f"{category}.maps.npy", of_category, paths)
            notices += _doubts(category, maps)
            values = [given[key] for key in keys[category]] if given else maps.max((1, 2))
            np.save(partial / f"{category}.scores.npy", np.asarray(values, np.float32))
        imported = imports.write(partial, imports.GIVEN if given else imports.MAXIMUM, keys)
        _require_another_seed(imported, group, seed, source)
        shutil.rmtree(target, ignore_errors=True)
    return Imported(target, len(every), notices)


def _require_planned(params: Params, group: Group, seed: int) -> None:
    declared = params.variants.get(group.variant)
    if not declared or declared.method != IMPORTED or group.variant not in params.methods:
        raise InputError(
            f"params.yaml has no imported variant {group.variant!r}. Declare it, "
            f"`variants: {{{group.variant}: {{method: {IMPORTED}}}}}`, and add its name to `methods`."
        )
    for kind, value, known in (
        ("datasets", group.dataset, params.datasets),
        ("protocols", group.protocol, params.protocols),
    ):
        if value not in known:
            raise InputError(f"params.yaml: {value!r} is not among `{kind}`. {did_you_mean(value, known)} Or add it.")
    if seed not in params.seeds:
        raise InputError(f"params.yaml: {seed} is not among `seeds`, {params.seeds}. Add it, or give one of these.")


def _left_out(source: Path, keys: Mapping[str, Sequence[str]]) -> str:
    further = [folder.name for folder in map_files.list_folders(source) if folder.name not in keys]
    number = counted(len(further), "further category", "further categories")
    return f"{number} in {source} left out, which the suite does not take: {', '.join(further)}." if further else ""


def _copy(target: Path, items: Sequence[Item], paths: Mapping[str, Path]) -> NDArray[np.float32]:
    """The maps (N, h, w) of a category, written to a file one by one: at native size they may take gigabytes.

    Raises:
        InputError: a map cannot be used, or differs from the others in size.
    """
    first = paths[items[0].key]
    size = map_files.read(first).shape
    maps = open_memmap(target, "w+", np.float32, (len(items), *size))
    for i, item in enumerate(items):
        path = paths[item.key]
        content = map_files.read(path)
        if content.shape != size:
            height, width = content.shape
            raise InputError(
                f"{path}: {width}x{height} pixels, but {first} has {size[1]}x{size[0]}. Save all maps of a category at "
                "one size, such as that at which the method works; conventions resize them to the images."
            )
        native = image_size(item.image)
        if size == native[::-1] != native:
            raise InputError(f"{path}: its sides are those of {item.image}, exchanged. Save the map transposed.")
        with np.errstate(over="ignore"):
            maps[i] = content
        if not np.isfinite(maps[i]).all():
            raise InputError(f"{path}: holds values beyond the range of float32. Scale all maps by the same factor.")
    maps.flush()
    if maps.min() == maps.max():
        raise InputError(
            f"{first.parent.parent}: all pixels of all {len(items)} maps are {maps.min():g}. Save other maps."
        )
    return maps


def _doubts(category: str, maps: NDArray[np.float32]) -> list[str]:
    """What is allowed, but mostly a mistake."""
    ends = {(float(one.min()), float(one.max())) for one in maps}
    if len(maps) > 2 and len(ends) == 1:
        low, high = ends.pop()
        return [
            f"{category}: each map reaches from {low:g} to {high:g}. If each was normalised by itself, its pixels do "
            "not compare with those of other maps, as pixel metrics do."
        ]
    return []


def _require_another_seed(imported: Import, group: Group, seed: int, source: Path) -> None:
    """The same maps are no second seed: their standard deviation would be a false 0."""
    maps = {category: images.maps for category, images in imported.categories.items()}
    for other in imports.seeds(group.name):
        categories = imports.read(group.name, other).categories if other != seed else {}
        if {category: images.maps for category, images in categories.items()} == maps:
            raise InputError(
                f"{source} holds the maps that are imported as seed {other} of {group.name}. Give those of another "
                "seed; a method without randomness has one seed."
            )
