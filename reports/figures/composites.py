"""The first images with a patch of another category, for every variant, of its first seed: image, patch and maps."""

from __future__ import annotations

import numpy as np
import pandas as pd

from reports.figures._images import examples, grid
from reports.figures._style import Drawing, described


def draw(data: pd.DataFrame) -> Drawing:
    data = data.sort_values(["variant", "seed"]).drop_duplicates("variant")
    stored = {row["variant"]: examples([row["composites"]]) for row in data.to_dict("records")}
    keys = [key for key in next(iter(stored.values())) if all(key in of for of in stored.values())]
    if not keys:
        raise ValueError(f"the variants {', '.join(stored)} share no image with a patch")
    rows = [(f"patch of\n{key.split('/')[1]}\n{key.split('/')[2]}", next(iter(stored.values()))[key]) for key in keys]
    figure = grid(rows, {name: np.stack([of[key].anomaly_map for key in keys]) for name, of in stored.items()})
    return described(figure, f"Seed {', '.join(map(str, sorted(set(data.seed))))}. A column of maps has one scale.")
