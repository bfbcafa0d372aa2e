"""How large the report's page is, and how fast it opens, for a full suite: `make bench-page`.

Results of six methods on the 32 categories of MVTec AD, VisA and MVTec LOCO, both protocols and three seeds are
made up in the schema of results/README.md, with noise in place of numbers and of images; the report that is built of
them is opened in Chromium. It measures the page and nothing else: no run is executed.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray
from playwright.sync_api import Browser, Playwright, sync_playwright
from scipy.ndimage import gaussian_filter

import methods
from benchmarks.metrics import detection
from benchmarks.metrics.conventions import CONVENTIONS
from benchmarks.official_counts import official_counts
from benchmarks.records import sealed
from benchmarks.schema import SCHEMA, SCORE_COLUMNS, group_name
from reports.build import build

METHODS = ("rd", "fd", "snl", "snl_fd", "aand", "dskd")
DATASETS = ("mvtec_ad", "visa", "mvtec_loco")
PROTOCOLS = ("one_class", "multi_class")
IMAGES, EXAMPLES, SIDE = 100, 6, 96
EPOCHS = 100
TEACHER = {"name": "wide_resnet50_2.tv_in1k", "sha256": "0" * 64, "pretraining": "ImageNet-1k"}
LIMIT_BYTES, LIMIT_SECONDS, LIMIT_BUILT = 10_000_000, 1.5, 60
LOADS = 5


def main(folder: Annotated[Path | None, typer.Option(help="Keep results and report there.")] = None) -> None:
    """Print the page's size and load time against their limits."""
    target = folder or Path(tempfile.mkdtemp(prefix="bench_page-"))
    try:
        categories = {name: list(official_counts(name)) for name in DATASETS}
        write(target / "results", categories, METHODS, range(3))
        started, worked = time.perf_counter(), time.process_time()
        page = build(target / "results", target / "report")
        built, size = time.perf_counter() - started, page.stat().st_size
        worked = time.process_time() - worked
        with sync_playwright() as playwright:
            browser = chromium(playwright)
            loads = [load(browser, page) for _ in range(LOADS)]
            browser.close()
        seconds = statistics.median(loads)
        print(f"built   {built:6.0f} s, limit {LIMIT_BUILT} s; {worked:.0f} CPU seconds, without those of figures")
        print(f"size    {size / 1e6:6.2f} MB, limit {LIMIT_BYTES / 1e6:g} MB")
        print(
            f"opening {seconds:6.2f} s, limit {LIMIT_SECONDS:g} s; {LOADS} times, {min(loads):.2f} to {max(loads):.2f}"
        )
        raise typer.Exit(size > LIMIT_BYTES or seconds > LIMIT_SECONDS or built > LIMIT_BUILT)
    finally:
        if not folder:
            shutil.rmtree(target)


def chromium(playwright: Playwright) -> Browser:
    """The Chromium or Chrome that is installed, or else Playwright's own.

    Raises:
        playwright.sync_api.Error: none is installed.
    """
    names = ("chromium", "chromium-browser", "google-chrome")
    return playwright.chromium.launch(executable_path=next(filter(None, map(shutil.which, names)), None))


def load(browser: Browser, page: Path) -> float:
    """Seconds until a page has been read, laid out and painted, in a browser that has not seen it."""
    tab = browser.new_page()
    started = time.perf_counter()
    tab.goto(page.as_uri())
    tab.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    seconds = time.perf_counter() - started
    tab.close()
    return seconds


def write(
    results: Path, categories: Mapping[str, Sequence[str]], variants: Sequence[str], seeds: Sequence[int]
) -> None:
    """Made-up results of these variants on these categories of each data set, under both protocols."""
    for dataset, names in categories.items():
        for variant in variants:
            for protocol in PROTOCOLS:
                rows: list[dict[str, Any]] = []
                for seed in seeds:
                    for split in names if protocol == "one_class" else ["all"]:
                        run = {
                            "variant": variant,
                            "dataset": dataset,
                            "protocol": protocol,
                            "split": split,
                            "seed": seed,
                        }
                        rows += _write_run(results, run, [split] if split != "all" else names)
                path = results / "scores" / f"{group_name(variant, dataset, protocol)}.csv"
                path.parent.mkdir(parents=True, exist_ok=True)
                pd.DataFrame(rows, columns=SCORE_COLUMNS).to_csv(path, index=False)


def _write_run(results: Path, run: Mapping[str, Any], categories: Sequence[str]) -> list[dict[str, Any]]:
    """A run's record, log and details; returns its tidy rows."""
    group = "{variant}-{dataset}-{protocol}".format_map(run)
    folder = results / "predictions" / group / "{split}-seed{seed}".format_map(run)
    rng = np.random.default_rng([run["seed"], *f"{group}{run['split']}".encode()])
    fingerprint = f"{rng.integers(1 << 62):016x}"
    _write_json(folder / "record.json", sealed(_record(run, fingerprint, categories, rng)))
    lines = [f"submitit INFO (2026-01-01 10:00:{i:02},000) - a line of the log, number {i}" for i in range(20)]
    (folder / "log.txt").write_text("\n".join(lines))
    rows = []
    for category in categories:
        cell = {name: run[name] for name in ("variant", "dataset", "protocol", "seed")}
        cell |= {"method": run["variant"], "category": category, "record": str(folder / "record.json")}
        _write_details(results / "details" / group / f"{category}-seed{run['seed']}", cell, rng)
        about = {"selection": "last", "fingerprint": fingerprint, "reason": "", "images": IMAGES,
                 "teacher": "{name} ({pretraining})".format_map(TEACHER), "anomalous": IMAGES // 2}  # fmt: skip
        for subset in ("all", "logical", "structural") if run["dataset"] == "mvtec_loco" else ("all",):
            measured = _metrics(run["dataset"])
            values = rng.normal(0.9, 0.03, len(measured)).clip(0, 1)
            for (metric, convention), value in zip(measured, values, strict=True):
                rows.append(
                    cell | about | {"subset": subset, "metric": metric, "convention": convention, "value": value}
                )
    return rows


@cache
def _metrics(dataset: str) -> list[tuple[str, str]]:
    """Every metric and convention of the suite `full`."""
    metrics = [(f"image_{kind}", "folder label") for kind in ("auroc", "ap", "f1_max")]
    for convention in CONVENTIONS.values():
        described = convention.describe()
        if convention.pro != "saturated":
            at_size = convention.describe_pixels()
            metrics += [*((f"pixel_{kind}", at_size) for kind in ("auroc", "ap", "f1_max")), ("aupro", described)]
        elif dataset == "mvtec_loco":
            metrics.append(("spro", described))
    return list(dict.fromkeys(metrics))


def _record(
    run: Mapping[str, Any], fingerprint: str, categories: Sequence[str], rng: np.random.Generator
) -> dict[str, Any]:
    method = methods.create(run["variant"])
    terms = {f"level{i}": rng.normal(1, 0.05, EPOCHS) / np.arange(1, EPOCHS + 1) for i in (1, 2, 3)}
    return {
        "schema": SCHEMA, **run, "method": run["variant"], "fingerprint": fingerprint,
        "fingerprint_parts": {part: f"{rng.integers(1 << 62):016x}" for part in ("method code", "data code", "data")},
        "categories": {category: {"keys": [_key(category, i) for i in range(IMAGES)]} for category in categories},
        "hyper_parameters": asdict(method), "teacher": TEACHER, "paper": method.paper, "source": method.source,
        "deviations": list(method.deviations), "selection": "last", "compute": {"precision": "bfloat16"},
        "data": {"revision": "0" * 32, "train": 200 * len(categories), "validation": 0},
        "history": [
            {"epoch": i + 1, "seconds": 1.0, "terms": {name: float(values[i]) for name, values in terms.items()}}
            for i in range(EPOCHS)
        ],
        "provenance": {
            "created": "2026-01-01T00:00:00+00:00", "git_commit": "0" * 40, "git_dirty": False, "git_patch": None,
            "host": "node1", "device": "a GPU", "driver": "1.0", "threads": 8, "job": None, "attempts": 1,
            "versions": dict.fromkeys(("python", "torch", "torchvision", "timm", "numpy"), "1.0"),
            "wall_seconds": rng.uniform(100, 1000), "fit_seconds": rng.uniform(100, 1000),
            "test_images_per_second": rng.uniform(10, 100), "peak_memory_bytes": int(rng.uniform(1e9, 8e9)),
        },
    }  # fmt: skip


def _write_details(stem: Path, cell: Mapping[str, Any], rng: np.random.Generator) -> None:
    anomalous = np.arange(IMAGES) % 2 == 1
    scores = rng.normal(2 * anomalous, 1)
    images = [
        {
            "key": _key(cell["category"], i),
            "defect": "broken" if is_anomalous else "good",
            "anomalous": bool(is_anomalous),
            "score": score,
        }
        for i, (is_anomalous, score) in enumerate(zip(anomalous, scores.tolist(), strict=True))
    ]
    false, true = detection.roc_curve(anomalous, scores)
    rate = np.linspace(0, 1, 200)
    pro = {"fpr": rate.tolist(), "pro": (rate ** rng.uniform(0.05, 0.2)).tolist()}
    curves = {"roc": {"fpr": false.tolist(), "tpr": true.tolist()}, "pro": pro}
    _write_json(stem.with_suffix(".json"), {**cell, "images": images, "curves": curves})
    shown, truth = _examples(cell["category"])
    # Like the upsampled features that a method compares: smooth, with the defect in some.
    noise = gaussian_filter(rng.normal(size=truth.shape), (0, SIDE / 24, SIDE / 24))
    maps = noise / noise.std() + 3 * gaussian_filter(truth.astype(float), (0, 3, 3))
    keys = [_key(cell["category"], i) for i in range(EXAMPLES)]
    np.savez(stem.with_suffix(".npz"), keys=keys, images=shown, truth=truth, maps=maps.astype(np.float32))


@cache
def _examples(category: str) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Images (K, h, w, 3) with detail at every scale, as photographs have, and truth (K, h, w)."""
    rng = np.random.default_rng(list(category.encode()))
    octaves = [gaussian_filter(rng.normal(size=(EXAMPLES, SIDE, SIDE, 3)), (0, s, s, 0)) for s in (1, 2, 4, 8, 16)]
    texture = np.sum([scale / scale.std() * 2.0**i for i, scale in enumerate(octaves)], axis=0)
    low, high = texture.min(), texture.max()
    truth = np.zeros((EXAMPLES, SIDE, SIDE), bool)
    for i in range(1, EXAMPLES, 2):
        x, y = rng.integers(8, SIDE - 24, 2)
        truth[i, y : y + 14, x : x + 10] = True
    return (255 * (texture - low) / (high - low)).astype(np.uint8), truth


def _key(category: str, number: int) -> str:
    return f"{category}/test/{'broken' if number % 2 else 'good'}/{number:03}"


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


if __name__ == "__main__":
    typer.run(main)
