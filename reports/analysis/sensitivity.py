"""Two choices that papers seldom report: which checkpoint is scored, and by which convention a metric is computed."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from benchmarks.schema import IMAGE_CONVENTION
from reports.aggregate import Cell, text_cell
from reports.vocabulary import MEAN, is_image_metric, metric, sign

SELECTIONS = [
    "From the same runs, at the epochs that were evaluated on the test images: the last one; that of the lowest mean "
    "anomaly map on held-out normal images; and the oracle's, of the best sum of image and pixel AUROC on test images. "
    "The oracle's gain over the last epoch is the effect of choosing by the test set: a diagnostic, not a result.",
]
CONVENTIONS = ["In brackets: the rank among the variants under that convention, from the same anomaly maps."]
PLACE = ["dataset", "protocol", "variant"]
COLUMNS = [*PLACE, "selection", "teacher", "metric", "convention", "quantity", "cell"]
ORACLE = ["image_auroc", "pixel_auroc"]
QUANTITIES = ["last", "validation", "oracle (diagnostic)", "oracle's gain"]
MAP_CONVENTION = "mask>0, size of the maps"
NOT_HELD_OUT = text_cell(
    "",
    "no normal image was held out: the data set has no validation split and the variant's selection is not validation",
)


def selections(measured: pd.DataFrame) -> pd.DataFrame:
    """Each metric at the last, the validation's and the oracle's epoch, averaged over splits within each seed.

    Args:
        measured: one row per run, epoch and measurement, as `load.training` gives them.

    Returns:
        One row for each data set, protocol, variant, metric and quantity, with its `Cell`.
    """
    cells = []
    for keys, rows in measured.groupby(PLACE):
        runs = rows.pivot(index=["split", "seed", "epoch"], columns="name", values="value")
        # Where a variant selects by held-out images, it looks at these after every epoch, at the test images seldom.
        runs = runs.dropna(how="all", subset=[name for name in runs.columns if name != "validation"])
        if runs.empty:
            continue
        selected = {"last": runs.groupby(["split", "seed"]).tail(1)}
        if "validation" in runs and runs.validation.notna().all():
            selected["validation"] = runs.loc[runs.validation.groupby(["split", "seed"]).idxmin()]
        quality = runs.reindex(columns=ORACLE).sum(axis=1)
        selected["oracle (diagnostic)"] = runs.loc[quality.groupby(["split", "seed"]).idxmax()]
        by_seed = {name: epochs.groupby("seed").mean() for name, epochs in selected.items()}
        gain = by_seed["oracle (diagnostic)"] - by_seed["last"]
        by_seed["oracle's gain"] = gain * [sign(str(name)) for name in gain.columns]
        dataset, protocol, variant = keys
        folder = f"results/predictions/{variant}-{dataset}-{protocol}"
        names = dict.fromkeys(zip(rows.split, rows.seed, strict=True))
        records = tuple(f"{folder}/{split}-seed{seed}/record.json" for split, seed in names)
        for name in map(str, runs.columns.drop("validation", errors="ignore")):
            place = dict(zip(PLACE, map(str, keys), strict=True)) | {"metric": name, "selection": "", "teacher": ""}
            place["convention"] = IMAGE_CONVENTION if is_image_metric(name) else MAP_CONVENTION
            place["convention"] = f"pooled, FPR<=0.3, {MAP_CONVENTION}" if name == "aupro" else place["convention"]
            for quantity in QUANTITIES:
                cell = _cell(by_seed[quantity][name], records) if quantity in by_seed else NOT_HELD_OUT
                cell = replace(cell, percent=metric(name).is_fraction)
                cells.append({**place, "quantity": quantity, "cell": cell})
    return pd.DataFrame(cells, columns=COLUMNS)


def _cell(by_seed: pd.Series, records: tuple[str, ...]) -> Cell:
    values = {int(str(seed)): float(value) for seed, value in by_seed.dropna().items()}
    return Cell(float(by_seed.mean()), float(by_seed.std(ddof=1)), values, "", records)


def conventions(cells: pd.DataFrame) -> pd.DataFrame:
    """The means of those metrics that were computed under several conventions, each with its rank in `rank`.

    Args:
        cells: rows of `aggregate.aggregate`.
    """
    means = cells[(cells.category == MEAN) & cells.cell.map(lambda cell: bool(cell.values)).astype(bool)]
    block = ["dataset", "protocol", "subset", "metric"]
    means = means[means.groupby(block).convention.transform("nunique") > 1]
    quality = [sign(name) * cell.mean for name, cell in zip(means.metric, means.cell, strict=True)]
    by_convention = means.assign(quality=quality).groupby([*block, "convention"]).quality
    means = means.assign(rank=by_convention.rank(ascending=False, method="min").astype(int))
    named = [replace(cell, word=f"{cell.text} ({rank})") for cell, rank in zip(means.cell, means["rank"], strict=True)]
    return means.assign(cell=named)
