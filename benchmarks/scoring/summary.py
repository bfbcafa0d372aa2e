"""The scores of a suite in one table, and what `dvc metrics` and `dvc plots` read."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import numpy as np
import pandas as pd

from benchmarks import results
from benchmarks.schema import GROUP
from benchmarks.storage import score_files
from methods.base import InputError


def read_scores(groups: Sequence[str]) -> pd.DataFrame:
    """The tidy rows of these groups, one after another.

    Raises:
        InputError: a group has not been scored, or its files were changed since.
    """
    tables = []
    for group in groups:
        if reasons := score_files.problems(results.RESULTS, group, records=None):
            raise InputError("\n".join(reasons))
        path = results.RESULTS / "scores" / f"{group}.csv"
        tables.append(pd.read_csv(path, keep_default_na=False, na_values={"value": ""}))
    return pd.concat(tables, ignore_index=True)


def write(groups: Sequence[str]) -> None:
    """Write `results/metrics/GROUP.json` and `results/plots/`."""
    means = _means(groups)
    metrics, plots = results.RESULTS / "metrics", results.RESULTS / "plots"
    for folder in (metrics, plots):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    for group in groups:
        results.write_json(metrics / f"{group}.json", _metrics(means, group))
    for metric, table in means.groupby("metric"):
        table[["group", "value"]].to_csv(plots / f"{metric}.csv", index=False)
    for curve, axis in (("roc", "tpr"), ("pro", "pro")):
        (plots / curve).mkdir()
        for group in groups:
            mean = _mean_curve(group, curve, axis)
            if mean is not None:
                mean.to_csv(plots / curve / f"{group}.csv", index=False)


def problems(groups: Sequence[str]) -> list[str]:
    """A sentence for each file of `results/metrics/` that is there and does not hold the means of its group's scores.

    Raises:
        InputError: as `read_scores`.
    """
    means, folder = _means(groups), results.RESULTS / "metrics"
    return [
        f"{folder / group}.json does not hold the means of the scores: `proctor summary` writes it again."
        for group in groups
        if (folder / f"{group}.json").exists() and results.read_json(folder / f"{group}.json") != _metrics(means, group)
    ]


def _means(groups: Sequence[str]) -> pd.DataFrame:
    """Of each group and metric, the mean over categories within a seed, then over seeds.

    Of all test images, by the first convention.
    """
    rows = read_scores(groups)
    first = rows.groupby(["dataset", "metric"])["convention"].transform("first")
    rows = rows[(rows["subset"] == "all") & (rows["convention"] == first)]
    within_seeds = rows.groupby([*GROUP, "metric", "seed"], sort=False, as_index=False)["value"].mean()
    means = within_seeds.groupby([*GROUP, "metric"], sort=False, as_index=False)["value"].mean().dropna()
    means["group"] = means[list(GROUP)].agg("-".join, axis=1)
    return means


def _metrics(means: pd.DataFrame, group: str) -> dict[str, float]:
    of_group = means[means["group"] == group].set_index("metric")["value"]
    return {str(name): round(value, 6) for name, value in of_group.items()}


def _mean_curve(group: str, curve: str, axis: str) -> pd.DataFrame | None:
    """The mean over categories and seeds, on a grid that their curves can share; None where no cell has the curve."""
    grid = np.linspace(0, 1, 101)
    cells = [results.read_json(path) or {} for path in sorted(results.details_dir(group).glob("*.json"))]
    drawn = [cell["curves"][curve] for cell in cells if curve in cell.get("curves", {})]
    if not drawn:
        return None
    mean = np.mean([np.interp(grid, points["fpr"], points[axis]) for points in drawn], axis=0)
    return pd.DataFrame({"fpr": grid, axis: mean.round(4)})
