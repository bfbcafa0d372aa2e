"""Reads what the pipeline stored. Files that cannot be read are left out, each with a sentence in `problems`."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmarks import plan as plans
from benchmarks import records as stored
from benchmarks.plan import Plan
from benchmarks.records import Epoch, Record
from benchmarks.schema import PROBE_COLUMNS, SCORE_COLUMNS
from benchmarks.storage.digests import content_digest
from benchmarks.wording import counted
from methods.base import InputError
from reports import published
from reports.vocabulary import BLOCK, IDENTITY, run_name, run_of

DETAILS = ["variant", "dataset", "protocol", "category", "seed"]
FILES = ["arrays", "extremes", "composites", "maps"]
log = logging.getLogger(__name__)


def error_text(error: Exception) -> str:
    """The message of an error, without a full stop; with the name of its type unless it is a plain `ValueError`."""
    message = f"{error}".strip().rstrip(".") or "no message"
    return message if type(error) in (ValueError, InputError) else f"{type(error).__name__}: {message}"


def read_plan(results: Path, problems: list[str]) -> Plan:
    """The plan of the suite; one without groups if the folder has no plan, or a damaged one."""
    if (results / plans.FOLDER).exists():
        try:
            return plans.read(results)
        except InputError as error:
            problems.append(f"{error_text(error)}. All results that are stored enter the report.")
    return Plan(suite="")


def planned_rows(rows: pd.DataFrame, plan: Plan, current: bool = False) -> pd.DataFrame:
    """The tidy rows of planned runs; all of them if the plan is empty.

    Args:
        rows: with the columns `record` and, for `current`, `fingerprint`.
        plan: the planned runs.
        current: also require the fingerprint of the plan, so that no number of an outdated run is left.
    """
    if not plan.groups or rows.empty:
        return rows
    fingerprints = {run.name: run.fingerprint if run.fingerprint_parts else None for run in plan.runs}
    names = rows.record.map(run_of)
    kept = names.isin(fingerprints.keys())
    if current:
        wanted = names.map(fingerprints)
        kept &= wanted.isna() | (rows.fingerprint == wanted)
    if dropped := int((~kept).sum()):
        log.info("%s of runs that are not planned, or outdated, left out", counted(dropped, "row"))
    return rows[kept].reset_index(drop=True)


def planned_records(records: Sequence[Record], plan: Plan, current: bool = False) -> list[Record]:
    """The records of planned runs, as `planned_rows` selects them."""
    if not plan.groups:
        return list(records)
    runs = {run.name: run for run in plan.runs}
    kept = [record for record in records if run_name(record) in runs]
    if not current:
        return kept
    return [r for r in kept if not (run := runs[run_name(r)]).fingerprint_parts or r.fingerprint == run.fingerprint]


def read_scores(results: Path, problems: list[str]) -> pd.DataFrame:
    """All tidy rows of `scores/*.csv`; without those that no table could use."""
    scores = _read_rows(results / "scores", SCORE_COLUMNS, problems)
    if scores.empty:
        problems.append(f"There are no scores in {results.name}/scores, so there are no tables. Run `dvc repro` first.")
    return scores


def read_probes(results: Path, problems: list[str]) -> pd.DataFrame:
    """All tidy rows of `interference/*.csv`, in the form of scores; empty where the suite makes no probes.

    The subset of test images that a row is about is named by the probe and its ratio, such as "mixup 0.3".
    """
    probes = _read_rows(results / "interference", PROBE_COLUMNS, problems)
    return probes.assign(subset=probes.probe + " " + probes.ratio)[[*SCORE_COLUMNS]]


def _read_rows(folder: Path, columns: Sequence[str], problems: list[str]) -> pd.DataFrame:
    parts = []
    for path in sorted(folder.glob("*.csv")):
        try:
            rows = pd.read_csv(path, dtype=str, keep_default_na=False)  # a category may be called "nan"
            if missing := [column for column in columns if column not in rows]:
                raise ValueError(f"column {', '.join(missing)} is missing")
            rows["seed"] = rows.seed.astype(int)
            rows["value"] = rows.value.replace("", "nan").astype(float)
        except (ValueError, OSError) as error:
            problems.append(
                f"{folder.name}/{path.name} was left out: {error_text(error)}. `dvc repro` scores it again."
            )
            continue
        parts.append(rows)
    if not parts:
        return pd.DataFrame(columns=[*columns])
    scores = pd.concat(parts, ignore_index=True)
    key = [*(c for c in BLOCK if c in scores), *IDENTITY["variant"], "category", "seed"]
    key += [column for column in ("probe", "ratio") if column in scores]
    if (repeated := scores.duplicated(key, keep="last")).any():
        row = scores[repeated].iloc[0]
        problems.append(
            f"{counted(int(repeated.sum()), 'score')} in {folder.name} stored more than once, e.g. {row.metric} of "
            f"{row.variant}, {row.category}, seed {row.seed}; the last one counts."
        )
    return scores[~repeated].reset_index(drop=True)


def read_records(results: Path, problems: list[str]) -> list[Record]:
    """Every `record.json` that can be read."""
    records = []
    for path in sorted((results / "predictions").glob("*/*/record.json")):
        name = path.relative_to(results)
        try:
            record = stored.read(path)
            if run_name(record) != path.parent.relative_to(results / "predictions").as_posix():
                raise ValueError(f"it is the record of {run_name(record)}")
        except ValueError as error:
            message = error_text(error).replace(str(path), "it")
            problems.append(f"{name} was left out: {message}. Run it again with `proctor run`.")
            continue
        records.append(record)
    if not records:
        problems.append(f"There are no finished runs in {results.name}/predictions. Run `dvc repro` first.")
    return records


def read_logs(results: Path, records: Sequence[Record]) -> dict[str, str]:
    """The log of each run that has one, by the run's name."""
    paths = {run_name(record): results / "predictions" / run_name(record) / "log.txt" for record in records}
    return {name: path.read_text(encoding="utf-8", errors="replace") for name, path in paths.items() if path.exists()}


def read_published(problems: list[str]) -> pd.DataFrame:
    """What papers print; empty where a file of it cannot be read."""
    try:
        return published.read()
    except (ValueError, OSError) as error:
        problems.append(f"Published numbers are left out: {error_text(error)}.")
        return pd.DataFrame(columns=published.COLUMNS)


def training(records: Sequence[Record], kind: str) -> pd.DataFrame:
    """One row per run, epoch and loss term ("terms") or measurement ("measured").

    `phase` is empty for the main history, and the name of the entry that has one of its own.
    """
    columns = ["variant", "dataset", "protocol", "split", "seed"]
    rows = [
        {**{name: getattr(record, name) for name in columns}, "phase": phase, "epoch": epoch.epoch,
         "name": name, "value": value}
        for record in records
        for phase, epochs in record.histories.items()
        for epoch in epochs
        for name, value in _values(epoch, kind).items()
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=[*columns, "phase", "epoch", "name", "value"])


def _values(epoch: Epoch, kind: str) -> dict[str, float]:
    return epoch.terms if kind == "terms" else epoch.measured


def read_details(results: Path, problems: list[str]) -> pd.DataFrame:
    """One row for each `details/GROUP/CATEGORY-seedK.json`: its cell, the parsed file, and the paths of its arrays.

    `maps` is the path of the anomaly maps of all its images, in their order; `record` the path of its record; `digest`
    that of the file.
    """
    rows = []
    for path in sorted((results / "details").glob("*/*.json")):
        try:
            text = path.read_bytes()
            content = json.loads(text)
            cell = {name: content[name] for name in (*DETAILS, "record")} | {"digest": content_digest(text)}
            for image in content["images"]:
                _ = image["key"], image["anomalous"], image["score"]  # a KeyError names what is missing
            files = {
                "arrays": path.with_suffix(".npz"),
                "extremes": path.with_suffix(".extremes.npz"),
                "composites": path.with_suffix(".composites.npz"),
                "maps": results / "predictions" / run_of(cell["record"]) / f"{cell['category']}.maps.npy",
            }
            rows.append({**cell, "details": content, **{n: f if f.exists() else None for n, f in files.items()}})
        except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
            problems.append(
                f"{path.relative_to(results)} was left out: {error_text(error)}. `dvc repro` scores it again."
            )
    return pd.DataFrame(rows, columns=[*DETAILS, "record", "digest", "details", *FILES])
