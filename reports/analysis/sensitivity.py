"""Two choices that papers seldom show, laid open: which checkpoint is scored, and how the metric is computed."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from reports.tables import IMAGE_CONVENTION, MEAN, Cell, spoken

SELECTIONS = [
    "From the same runs, at the epochs that were evaluated on the test images: the last one; that of the lowest mean "
    "anomaly map on held-out normal images; and the oracle's, of the best sum of image and pixel AUROC on test images. "
    "The oracle's gain over the last epoch is what choosing by the test set is worth: a diagnostic, no result.",
]
CONVENTIONS = ["In brackets: the rank among the variants under that convention, from the same anomaly maps."]
PLACE = ["dataset", "protocol", "variant"]
COLUMNS = [*PLACE, "selection", "teacher", "metric", "convention", "quantity", "cell"]
ORACLE = ["image_auroc", "pixel_auroc"]
QUANTITIES = ["last", "validation", "oracle (diagnostic)", "oracle's gain"]
MAP_CONVENTION = "mask>0, size of the maps"
NOT_HELD_OUT = spoken(
    "",
    "no normal image was held out: the data set has no validation split and the variant's selection is not validation",
)


def selections(course: pd.DataFrame) -> pd.DataFrame:
    """Each metric at the last, the validation's and the oracle's epoch, averaged over splits within each seed.

    Args:
        course: one row per run, epoch and measurement, as `build.training` gives them.

    Returns:
        One row for each data set, protocol, variant, metric and quantity, with its `Cell`.
    """
    found = []
    for keys, rows in course.groupby(PLACE):
        runs = rows.pivot(index=["split", "seed", "epoch"], columns="name", values="value")
        # Where a variant selects by held-out images, it looks at these after every epoch, at the test images seldom.
        runs = runs.dropna(how="all", subset=[name for name in runs.columns if name != "validation"])
        if runs.empty:
            continue
        chosen = {"last": runs.groupby(["split", "seed"]).tail(1)}
        if "validation" in runs and runs.validation.notna().all():
            chosen["validation"] = runs.loc[runs.validation.groupby(["split", "seed"]).idxmin()]
        quality = runs.reindex(columns=ORACLE).sum(axis=1)
        chosen["oracle (diagnostic)"] = runs.loc[quality.groupby(["split", "seed"]).idxmax()]
        by_seed = {name: epochs.groupby("seed").mean() for name, epochs in chosen.items()}
        by_seed["oracle's gain"] = by_seed["oracle (diagnostic)"] - by_seed["last"]
        dataset, protocol, variant = keys
        folder = f"results/predictions/{variant}-{dataset}-{protocol}"
        names = dict.fromkeys(zip(rows.split, rows.seed, strict=True))
        records = tuple(f"{folder}/{split}-seed{seed}/record.json" for split, seed in names)
        for metric in map(str, runs.columns.drop("validation", errors="ignore")):
            place = dict(zip(PLACE, map(str, keys), strict=True)) | {"metric": metric, "selection": "", "teacher": ""}
            place["convention"] = IMAGE_CONVENTION if metric.startswith("image_") else MAP_CONVENTION
            place["convention"] = f"pooled, FPR<=0.3, {MAP_CONVENTION}" if metric == "aupro" else place["convention"]
            for name in QUANTITIES:
                cell = _cell(by_seed[name][metric], records) if name in by_seed else NOT_HELD_OUT
                found.append({**place, "quantity": name, "cell": cell})
    return pd.DataFrame(found, columns=COLUMNS)


def _cell(by_seed: pd.Series, records: tuple[str, ...]) -> Cell:
    values = {int(str(seed)): float(value) for seed, value in by_seed.dropna().items()}
    return Cell(float(by_seed.mean()), float(by_seed.std(ddof=1)), values, "", records)


def conventions(cells: pd.DataFrame) -> pd.DataFrame:
    """The means of those metrics that were computed under several conventions, each with its rank in `rank`.

    Args:
        cells: rows of `tables.aggregate`.
    """
    means = cells[(cells.category == MEAN) & cells.cell.map(lambda cell: bool(cell.values)).astype(bool)]
    block = ["dataset", "protocol", "subset", "metric"]
    means = means[means.groupby(block).convention.transform("nunique") > 1]
    by_convention = means.assign(mean=[cell.mean for cell in means.cell]).groupby([*block, "convention"])["mean"]
    means = means.assign(rank=by_convention.rank(ascending=False, method="min").astype(int))
    named = [replace(cell, word=f"{cell.text} ({rank})") for cell, rank in zip(means.cell, means["rank"], strict=True)]
    return means.assign(cell=named)
