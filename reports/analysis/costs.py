"""What each variant's training and prediction took, beside how good it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from reports.tables import GROUP, MEAN


def costs(cells: pd.DataFrame, records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows of the categories' means, with the time that their runs took: mean and range over seeds.

    A seed's training time is the sum over its splits, so that one-class and multi-class cost what they cost to a user.

    Args:
        cells: rows of `tables.aggregate`.
        records: the finished runs; one without times is left out.

    Returns:
        The rows with `training_minutes` and `image_milliseconds`, each also with `_low` and `_high`, and `device`.
    """
    runs = pd.DataFrame(_times(records), columns=[*GROUP, "seed", "training_minutes", "image_milliseconds", "device"])
    of_seed = runs.groupby([*GROUP, "seed"])
    seeds = pd.concat(
        [of_seed.training_minutes.sum(), of_seed.image_milliseconds.mean(), of_seed.device.agg(_names)], axis=1
    )
    grouped = seeds.groupby(GROUP)
    spent = grouped.device.agg(_names).to_frame()
    for name in ("training_minutes", "image_milliseconds"):
        spent[name], spent[f"{name}_low"], spent[f"{name}_high"] = (
            getattr(grouped[name], by)() for by in ("mean", "min", "max")
        )
    return cells[cells.category == MEAN].merge(spent.reset_index(), on=GROUP)


def _names(devices: pd.Series) -> str:
    return " and ".join(sorted(set(devices)))


def _times(records: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for record in records:
        # Each phase of training has a history, such as AAND's first stage; epochs survive a run's interruptions.
        phases = [record, *(part for part in record.values() if isinstance(part, Mapping))]
        seconds = [epoch.get("seconds", 0.0) for phase in phases for epoch in phase.get("history", ())]
        provenance = record.get("provenance", {})
        if seconds and provenance.get("test_images_per_second"):
            threads = provenance.get("threads")
            device = f"{provenance.get('device', 'unknown')}" + (f", threads per run: {threads}" if threads else "")
            yield {name: record[name] for name in [*GROUP, "seed"]} | {
                "training_minutes": sum(seconds) / 60,
                "image_milliseconds": 1000 / provenance["test_images_per_second"],
                "device": device,
            }
