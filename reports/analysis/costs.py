"""What each variant's training and prediction took, beside how good it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from benchmarks.records import Record
from reports.vocabulary import GROUP, MEAN


def costs(cells: pd.DataFrame, records: Sequence[Record]) -> pd.DataFrame:
    """The rows of the categories' means, with the time that their runs took: mean and range over seeds.

    A seed's training time is the sum over its splits, so that the costs of one-class and multi-class compare.

    Args:
        cells: rows of `aggregate.aggregate`.
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


def _times(records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    for record in records:
        # Phases such as AAND's first stage count too; epochs survive a run's interruptions, unlike its own clock.
        seconds = [epoch.seconds for epochs in record.histories.values() for epoch in epochs]
        provenance = record.provenance
        if seconds and provenance.test_images_per_second:
            threads = f", threads per run: {provenance.threads}" if provenance.threads else ""
            yield dict(zip(GROUP, record.group_key, strict=True)) | {
                "seed": record.seed,
                "training_minutes": sum(seconds) / 60,
                "image_milliseconds": 1000 / provenance.test_images_per_second,
                "device": f"{provenance.device or 'unknown'}{threads}",
            }
