"""What papers print, and what others measured with their code: `published/*.csv`, described in its README.md."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pandas as pd

from reports.vocabulary import MEAN, SUBSET_MEAN

FOLDER = Path(__file__).parent / "published"
COLUMNS = [
    "paper", "kind", "table", "method", "variant", "backbone", "dataset", "protocol", "category", "subset", "metric",
    "convention", "selection", "epochs", "image_size", "value", "unit", "status", "source",
]  # fmt: skip
ABSENT = "absent"
PARTS = ("logical", "structural")  # of SUBSET_MEAN
PLACE = ["paper", "table", "method", "variant", "dataset", "protocol", "metric"]  # what a mean shares with its parts


def read(folder: Path = FOLDER) -> pd.DataFrame:
    """All published numbers; every column is text, and `value` as printed, so that its precision shows.

    `value` is empty where the status is `ABSENT`: a table prints it, and nothing that could be read quotes it.

    Raises:
        ValueError: a file misses a column, or a value is not a number; the message names the file.
    """
    parts = []
    for path in sorted(folder.glob("*.csv")):
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
        if missing := [column for column in COLUMNS if column not in rows]:
            raise ValueError(f"{folder.name}/{path.name}: column {', '.join(missing)} is missing; see README.md there")
        is_absent = (rows.value == "") & (rows.status == ABSENT)
        wrong = rows[pd.to_numeric(rows.value, errors="coerce").isna() & ~is_absent]
        if len(wrong):
            raise ValueError(
                f"{folder.name}/{path.name}: value {wrong.value.iloc[0]!r} of {wrong.method.iloc[0]}, "
                f"{wrong.category.iloc[0]}, is not a number; without one, leave it empty, with status '{ABSENT}'"
            )
        parts.append(rows)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)


def resolution(value: str) -> float:
    """Half a unit of the last printed digit: how far a printed number may be from what was computed."""
    exponent = Decimal(value).as_tuple().exponent
    return 0.5 * 10.0 ** int(exponent)


def disagreements(published: pd.DataFrame) -> Iterator[str]:
    """A sentence for each mean that is not the mean of its parts, by more than rounding explains.

    Parts are the categories of a category mean, and logical and structural anomalies of their mean. Where each number
    is the best of its own epoch, as in ADer's logs, a mean has no parts.
    """
    published = published[(published.selection != "oracle per number") & (published.value != "")]
    for axis, mean, other in (("category", MEAN, "subset"), ("subset", SUBSET_MEAN, "category")):
        of_parts = published if axis == "category" else published[published.subset.isin([*PARTS, SUBSET_MEAN])]
        for key, rows in of_parts.groupby([*PLACE, other, "backbone", "selection"]):
            means, parts = rows[rows[axis] == mean], rows[rows[axis] != mean]
            if means.empty or parts.empty or (axis == "subset" and len(parts) < len(PARTS)):
                continue
            printed, computed = means.value.iloc[0], parts.value.astype(float).mean()
            if abs(float(printed) - computed) > resolution(printed) + max(map(resolution, parts.value)) + 1e-9:
                paper, table, _, variant, *_, metric = key[: len(PLACE)]
                yield f"{paper}, {table}, {variant}, {metric}: {mean} printed {printed}, by its parts {computed:.3f}"
