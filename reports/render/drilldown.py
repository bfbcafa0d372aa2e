"""The details behind the cells of the tables, small enough that a full suite fits on one page.

A *payload* is JSON, deflated, in base64; the page decodes it when a cell is opened. A group (variant x data set x
protocol) has one with its runs, scores, curves and anomaly maps; a data set has one with its example images, which
all variants and seeds share.
"""

from __future__ import annotations

import base64
import io
import json
import shlex
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from benchmarks.records import Epoch, Record
from reports.vocabulary import GROUP, as_printed, metric, run_name

EPOCHS = 60  # of a loss curve, at most
POINTS = 48  # of a ROC or PRO curve, at most
LOG = 4000  # characters of a log's end, at most
TILE = 96  # pixels, the side of an example image
MAP_TILE = 72  # of a map, which is smooth, and of which there are many
MEASURE = ["metric", "convention", "subset", "selection"]  # identifies a value in the scores of a cell
SKIPPED = {"schema", "categories", "interference", "private", "history"}  # shown elsewhere, or lists of keys


def payloads(
    records: Sequence[Record],
    scores: pd.DataFrame,
    details: pd.DataFrame,
    logs: Mapping[str, str],
    problems: list[str],
) -> dict[str, str]:
    """Every payload by its name: `VARIANT-DATASET-PROTOCOL` of a group, `examples-DATASET` of a data set.

    Args:
        records: the finished runs.
        scores: tidy rows as in `results/README.md`.
        details: rows as `load.read_details` gives them.
        logs: the log of each run, by the run's name.
        problems: a sentence for each file of arrays that cannot be read is added.
    """
    groups: dict[str, dict[str, Any]] = {}
    examples: dict[str, dict[str, Any]] = {}
    for record in records:
        group = _group(groups, *record.group_key)
        group["runs"].append(_run(record, logs.get(run_name(record), "")))
        for category in record.categories:
            _cell(group, category)
    for names, rows in scores.groupby(GROUP, sort=False):
        group = _group(groups, *map(str, names))
        measures = list(rows[MEASURE].drop_duplicates().itertuples(index=False, name=None))
        group["metrics"] = [[metric(name).title, *how, metric(name).is_fraction] for name, *how in measures]
        value = rows.value.round(5).astype(object).where(rows.value.notna(), rows.reason)
        known = dict(zip(rows[["category", "seed", *MEASURE]].itertuples(index=False, name=None), value, strict=True))
        for category, seed in rows[["category", "seed"]].drop_duplicates().itertuples(index=False, name=None):
            _cell(group, category)["scores"][int(seed)] = [known.get((category, seed, *of)) for of in measures]
    for row in details.to_dict("records"):
        cell = _cell(_group(groups, row["variant"], row["dataset"], row["protocol"]), row["category"])
        cell["curves"][row["seed"]] = {
            name: _thinned(curve) for name, curve in row["details"].get("curves", {}).items()
        }
        if row["arrays"]:
            try:
                of_dataset = examples.setdefault(f"examples-{row['dataset']}", {})
                cell["maps"][row["seed"]] = _maps(row["arrays"], row["details"]["images"], of_dataset)
            except Exception as error:  # a damaged file can raise anything, and costs its maps alone
                problems.append(f"{row['arrays']}: its maps are not shown: {error}. `dvc repro` scores it again.")
    return {name: packed(content) for name, content in (groups | examples).items()}


def _group(groups: dict[str, dict[str, Any]], variant: str, dataset: str, protocol: str) -> dict[str, Any]:
    names = {"variant": variant, "dataset": dataset, "protocol": protocol}
    empty = {**names, "printed": {name: as_printed(of) for name, of in names.items()}}
    return groups.setdefault("-".join(names.values()), {**empty, "runs": [], "metrics": [], "categories": {}})


def _cell(group: dict[str, Any], category: str) -> dict[str, Any]:
    empty: dict[str, Any] = {"scores": {}, "curves": {}, "maps": {}}  # each by seed
    cell: dict[str, Any] = group["categories"].setdefault(category, empty)
    return cell


def _run(record: Record, log: str) -> dict[str, Any]:
    facts = record.model_dump(by_alias=True, exclude_unset=True)
    return {
        "seed": record.seed,
        "split": record.split,
        "categories": list(record.categories),
        # Fingerprints come last: few readers need them.
        "facts": {
            name: _without_history(facts[name])
            for name in sorted(facts, key=lambda name: name.startswith("fingerprint"))
            if name not in SKIPPED
        },
        "losses": _losses(record),
        "log": log[-LOG:],
        "path": f"results/predictions/{run_name(record)}",
        "commands": commands(record),
    }


def _without_history(value: Any) -> Any:
    return {name: v for name, v in value.items() if name != "history"} if isinstance(value, Mapping) else value


def _losses(record: Record) -> dict[str, list[list[float]]]:
    """Epochs and values of each loss term, of every phase of the training."""
    losses: dict[str, list[list[float]]] = {}
    for phase, history in record.histories.items():
        kept = [history[i] for i in _spread(len(history), EPOCHS)]
        for term in dict.fromkeys(name for epoch in kept for name in epoch.terms):
            of_term = [epoch for epoch in kept if term in epoch.terms]
            losses[f"{phase}: {term}" if phase else term] = [[e.epoch for e in of_term], _rounded(of_term, term)]
    return losses


def _rounded(epochs: Sequence[Epoch], term: str) -> list[float]:
    return [float(f"{epoch.terms[term]:.4g}") for epoch in epochs]


def _spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, evenly, with the first and the last."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))


def commands(record: Record) -> list[str]:
    """The commands that make a run again and print its scores."""
    last = ["--split", record.split, "--seed", str(record.seed)]
    options = [word for name, value in zip(GROUP, record.group_key, strict=True) for word in (f"--{name}", value)]
    imported = ["proctor", "import", "DIR", *options, "--seed", str(record.seed)]
    return [
        *([shlex.join(imported)] if record.is_imported else []),
        shlex.join(["proctor", "run", *options, *last, "--force"]),
        shlex.join(["proctor", "score", *record.group_key, *last]),
    ]


def _thinned(curve: Mapping[str, Sequence[float]]) -> list[list[int]]:
    """A curve in thousandths, x then y: its points are spread evenly along it."""
    x, y = (np.asarray(axis, float) for axis in curve.values())
    along = np.cumsum(np.abs(np.diff(x, prepend=x[:1])) + np.abs(np.diff(y, prepend=y[:1])))
    at = np.unique(np.searchsorted(along, np.linspace(0, along[-1], POINTS)).clip(max=len(x) - 1))
    return [(1000 * axis[at]).round().astype(int).tolist() for axis in (x, y)]


def _maps(path: Path, images: Sequence[Mapping[str, Any]], examples: dict[str, Any]) -> dict[str, Any]:
    """The maps of one cell as a strip of grey tiles on one scale; their images go into `examples`, once."""
    with np.load(path, allow_pickle=False) as stored:
        keys = [str(key) for key in stored["keys"]]
        name = " ".join(keys)
        if name not in examples:
            overlaid = [stored["images"], 255 * stored["truth"][..., None].repeat(3, -1).astype(np.uint8)]
            defects = {image["key"]: image.get("defect", "") for image in images}
            examples[name] = {
                "labels": [f"{defects.get(key, '')} {key.rpartition('/')[2]}".strip() for key in keys],
                "sheet": _sheet([list(row) for row in overlaid], TILE, 70),
            }
        maps = stored["maps"].astype(np.float32)  # (K, h, w)
    grey = (255 * (maps - maps.min()) / (np.ptp(maps) or 1)).round().astype(np.uint8)
    score = {image["key"]: float(f"{image['score']:.4g}") for image in images}
    return {"examples": name, "scores": [score.get(key) for key in keys], "sheet": _sheet([list(grey)], MAP_TILE, 60)}


def _sheet(rows: Sequence[Sequence[NDArray[np.uint8]]], side: int, quality: int) -> str:
    """Tiles in rows as one WebP image in base64."""
    sheet = Image.new("RGB", (side * len(rows[0]), side * len(rows)))
    for down, row in enumerate(rows):
        for across, tile in enumerate(row):
            sheet.paste(Image.fromarray(tile).resize((side, side), Image.Resampling.BOX), (side * across, side * down))
    stream = io.BytesIO()
    sheet.save(stream, "WEBP", quality=quality, method=4)
    return base64.b64encode(stream.getvalue()).decode()


def packed(content: Mapping[str, Any]) -> str:
    """What the page's script unpacks: JSON, deflated, in base64."""
    # NaN and infinity, which JSON does not have, become text.
    text = json.dumps(json.loads(json.dumps(content), parse_constant=str), separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()
