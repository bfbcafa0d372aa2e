"""The same test images for every variant: image, ground truth, and each variant's map, of its first seed.

Three kinds, named at the left: anomalies with the lowest scores, normal images with the highest, and images chosen
without regard to scores. Under a map is the share of the category's normal test images that the variant
scores lower: high is right for an anomaly, wrong for a normal image.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from reports.figures._images import examples, grid
from reports.figures._style import Drawing, described

SHOWN = {"most missed": 2, "most false": 2, "random, anomalous": 2, "random, normal": 1}


def draw(data: pd.DataFrame) -> Drawing:
    data = data[data.arrays.notna() & data.maps.notna()].sort_values(["variant", "seed"]).drop_duplicates("variant")
    if data.empty:
        raise ValueError("no example images with their maps are stored: `dvc pull`, or run `dvc repro`")
    rows_of = {str(row["variant"]): row for row in data.to_dict("records")}
    random, extreme = examples(data.arrays), examples(data.extremes.dropna())
    images = {name: pd.DataFrame(row["details"]["images"]).set_index("key") for name, row in rows_of.items()}
    below = pd.DataFrame({name: lower(of) for name, of in images.items()}).dropna()  # (images, variants)
    anomalous = next(iter(images.values())).anomalous
    rows = choose(below, anomalous, [*random], [*extreme])
    if not rows:
        raise ValueError(f"the variants {', '.join(images)} share no example image")
    maps, under = {}, {}
    for name, of in images.items():
        at = [of.index.get_loc(key) for key in rows]
        maps[name] = np.load(rows_of[name]["maps"], mmap_mode="r")[at]  # (rows, h, w)
        under[name] = [f"{100 * share:.0f}%" for share in below.loc[[*rows], name]]
    named = [("\n".join([why, *key.split("/")[-2:]]), (random | extreme)[key]) for key, why in rows.items()]
    figure = grid(named, maps, under)
    return described(
        figure,
        f"Seed {', '.join(map(str, sorted(set(data.seed))))}. Percentage: share of the normal test images that",
        "score lower. Most missed, most false: of each variant's such images, those of lowest and highest mean",
        "percentage over variants. Random: by a hash of the image's name. A column of maps has one scale.",
    )


def lower(images: pd.DataFrame) -> pd.Series:
    """For each image the share of the normal ones, without itself, that score lower, in [0, 1]; ties count half."""
    normal = np.sort(images.score[~images.anomalous])
    itself = (~images.anomalous).astype(int)
    counts = np.searchsorted(normal, images.score, "left") + np.searchsorted(normal, images.score, "right") - itself
    return pd.Series(counts / (2 * (len(normal) - itself).clip(lower=1)), images.index)


def choose(below: pd.DataFrame, anomalous: pd.Series, random: list[str], extreme: list[str]) -> dict[str, str]:
    """The keys to show, each with the reason why.

    Args:
        below: what `lower` gives, a row for each image, a column for each variant.
        anomalous: by image.
        random: keys of the images that were chosen without regard to scores.
        extreme: keys of the anomalies that a variant scores lowest and of the normal images that it scores highest.
    """
    mean = below.mean(axis=1).sort_values(kind="stable")
    ranked = [key for key in mean.index if key in extreme]
    unchosen = [key for key in random if key in mean.index]
    candidates = {
        "most missed": [key for key in ranked if anomalous[key]],
        "most false": [key for key in reversed(ranked) if not anomalous[key]],
        "random, anomalous": [key for key in unchosen if anomalous[key]],
        "random, normal": [key for key in unchosen if not anomalous[key]],
    }
    rows: dict[str, str] = {}
    for why, keys in candidates.items():
        rows |= dict.fromkeys([key for key in keys if key not in rows][: SHOWN[why]], why)
    return rows
