"""Figures: found by name, legible at the size of a full suite, and the numbers and images in them the right ones."""

from __future__ import annotations

from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import factories
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from benchmarks.records import Record
from benchmarks.schema import IMAGE_CONVENTION
from reports import aggregate, figures, specs
from reports.analysis import costs, sensitivity, significance
from reports.figures import _style, qualitative

VARIANTS = ["aand", "dskd", "fd", "rd", "snl", "snl_fd"]
CATEGORIES = [f"category_{i:02}" for i in range(32)]


def cells(variants: list[str], categories: list[str], seeds: int = 3) -> pd.DataFrame:
    about = {"dataset": "d", "subset": "all", "selection": "last", "teacher": "t", "reason": "", "record": ""}
    rows = [
        about
        | {"variant": v, "protocol": p, "category": c, "seed": s, "metric": m, "convention": how}
        | {"value": 0.95 - 0.02 * variants.index(v) - 0.01 * s - 1e-3 * categories.index(c) - 0.05 * (p[0] == "m")}
        for v in variants
        for p in ("one_class", "multi_class")
        for c in categories
        for s in range(seeds)
        for m, how in (("image_auroc", IMAGE_CONVENTION), ("aupro", "pooled"), ("aupro", "rescaled"))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def record(variant: str, protocol: str, split: str, seed: int, amplification: Any = None, **provenance: Any) -> Record:
    history = [{"epoch": epoch, "seconds": 30.0} for epoch in (1, 2)]
    about = {"history": history, "provenance": {"device": "cpu", "test_images_per_second": 50.0} | provenance}
    about |= {"amplification": amplification} if amplification else {}
    return factories.record(variant=variant, dataset="d", protocol=protocol, split=split, seed=seed, **about)


def test_a_figure_is_found_by_the_name_of_its_file_and_no_other() -> None:
    with pytest.raises(ValueError, match=r"unknown figure 'pie'\. Known: bars, composites"):
        figures.draw("pie", pd.DataFrame())
    with pytest.raises(ValueError, match="unknown figure '_style'"):
        figures.draw("_style", pd.DataFrame())


def test_eight_variants_differ_without_colour() -> None:
    looks = _style.looks([f"v{i}" for i in range(8)]).values()
    for part in ("marker", "dash", "hatch", "colour"):
        assert len({str(getattr(look, part)) for look in looks}) == 8


def rows_of(name: str, folder: Path, variants: list[str], categories: list[str]) -> pd.DataFrame:
    """What a figure is drawn from: 3 seeds, both protocols."""
    data = cells(variants, categories)
    if name == "conventions":
        found = sensitivity.conventions(aggregate.aggregate(data, factories.NO_PLAN))
        return found.query("protocol == 'one_class'")
    data = data[data.convention != "rescaled"]
    all_cells = aggregate.aggregate(data, factories.NO_PLAN)
    if name == "protocol_gap":
        rows = aggregate.aggregate(aggregate.with_protocol_difference(data), factories.NO_PLAN)
        return rows[rows.metric == "image_auroc"]
    if name == "heat_map":
        return all_cells.query("protocol == 'one_class'")
    if name == "critical_difference":
        return significance.ranks(all_cells).query("protocol == 'one_class'")
    if name == "costs":
        splits = [("multi_class", "all"), *(("one_class", category) for category in categories)]
        return costs.costs(
            all_cells, [record(v, *split, seed) for v in variants for seed in range(3) for split in splits]
        )
    if name == "mixtures":
        probes = cells(variants, categories[:2]).query("metric == 'image_auroc'")
        probes = pd.concat([probes.assign(subset=f"mixup {ratio}") for ratio in (0.3, 0.5, 0.7)])
        return aggregate.aggregate(probes, factories.NO_PLAN).query("category == 'mean'")
    if name in ("losses", "trajectory"):
        phases = {"aand": ["", "amplification"]} if name == "losses" else {}
        of_metric = ["image_auroc", "pixel_auroc", "aupro", "validation"] if name == "trajectory" else ["level 1", "kl"]
        return pd.DataFrame([
            {"variant": v, "dataset": "d", "protocol": "one_class", "split": "a", "seed": seed, "phase": phase,
             "epoch": epoch, "name": of, "value": 0.5 + 0.4 / epoch}
            for v in variants for seed in range(3) for phase in phases.get(v, [""])
            for epoch in range(1, 101, 9) for of in of_metric
        ])  # fmt: skip
    if name in ("bars", "seeds"):
        return all_cells.query("category == 'mean'")
    return details(folder, variants, categories)


def details(folder: Path, variants: list[str], categories: list[str]) -> pd.DataFrame:
    """Rows as `load.read_details` gives them, with curves, images and maps."""
    keys = [f"{categories[0]}/test/{'good' if i % 2 else 'broken_large'}/{i:03}" for i in range(6)]
    pictures = {"keys": keys, "images": np.zeros((6, 8, 8, 3), np.uint8), "truth": np.zeros((6, 8, 8), bool)}
    np.savez(folder / "arrays.npz", **pictures, maps=np.random.default_rng(0).random((6, 8, 8), np.float32))
    np.save(folder / "maps.npy", np.random.default_rng(1).random((6, 8, 8), np.float32))
    curves = {"roc": {"fpr": [0, 1], "tpr": [0, 1]}, "pro": {"fpr": [0, 1], "pro": [0, 1]},
              "spro": {"fpr": [0, 1], "spro": [0, 1]}}  # fmt: skip
    images = [{"key": key, "anomalous": "broken" in key, "score": 1.0 * i} for i, key in enumerate(keys)]
    arrays = dict.fromkeys(("arrays", "extremes", "composites"), folder / "arrays.npz")
    return pd.DataFrame([
        {"variant": v, "dataset": "d", "protocol": "one_class", "category": c, "seed": seed,
         "details": {"curves": curves, "images": images}, **arrays, "maps": folder / "maps.npy"}
        for v in variants for c in categories for seed in range(3)
    ])  # fmt: skip


@pytest.mark.parametrize("count", [(6, 32), (2, 2)], ids=["a full suite", "a small one"])
@pytest.mark.parametrize("name", specs.figure_names())
def test_every_text_of_a_figure_is_inside_it_and_no_label_lies_on_another(
    name: str, count: tuple[int, int], tmp_path: Path
) -> None:
    rows = rows_of(name, tmp_path, VARIANTS[: count[0]], CATEGORIES[: count[1]])
    if name in ("qualitative", "composites", "histograms"):
        rows = rows[rows.category == CATEGORIES[0]] if name != "histograms" else rows[rows.variant == VARIANTS[0]]
    figure = figures.draw(name, rows).figure
    figures.save(figure, tmp_path / name)
    assert figure.get_figwidth() <= _style.WIDTH
    drawn = figure.get_tightbbox()  # inches
    assert min(drawn.x0, drawn.y0) > -0.01 and drawn.x1 < figure.get_figwidth() + 0.01
    assert drawn.y1 < figure.get_figheight() + 0.01
    for axis in figure.axes:
        for axle, (low, high) in ((axis.yaxis, axis.get_ylim()), (axis.xaxis, axis.get_xlim())):
            shown = [
                tick.label1 for tick in axle.get_major_ticks() if min(low, high) <= tick.get_loc() <= max(low, high)
            ]
            boxes = [label.get_window_extent() for label in shown if label.get_visible() and label.get_text()]
            if not any(label.get_rotation() for label in shown):
                assert not any(one.overlaps(other) for one, other in pairwise(boxes)), axis.get_title()
    for one, other in combinations([axis.get_tightbbox() for axis in figure.axes], 2):
        assert not one.padded(-1).overlaps(other.padded(-1)), "panels lie on each other"


def test_only_the_first_convention_is_drawn_and_named_with_the_number_of_seeds() -> None:
    rows = aggregate.aggregate(cells(["fd", "rd"], ["a", "b"]), factories.NO_PLAN).query("category == 'mean'")
    figure, said = figures.draw("bars", rows)
    assert [axis.get_title() for axis in figure.axes] == ["image AUROC", "AUPRO"]
    assert "Mean over 3 seeds" in said and "AUPRO (pooled)" in said and "rescaled" not in said


def test_one_seed_is_said_to_have_no_deviation() -> None:
    rows = aggregate.aggregate(cells(["fd", "rd"], ["a"], seeds=1), factories.NO_PLAN).query("category == 'mean'")
    assert "One seed: no deviation" in figures.draw("bars", rows).note


def test_a_point_of_the_seed_figure_is_a_seeds_mean_over_categories() -> None:
    rows = aggregate.aggregate(cells(["rd"], ["a", "b"]), factories.NO_PLAN).query(
        "category == 'mean' and metric == 'image_auroc'"
    )
    (axis,) = figures.draw("seeds", rows).figure.axes
    drawn = {tuple(np.round(line.get_xdata(), 3)) for line in axis.get_lines()}
    assert {(94.95, 93.95, 92.95), (89.95, 88.95, 87.95)} <= drawn
    assert {(93.95, 93.95), (88.95, 88.95)} <= drawn, "their means"


def test_training_costs_the_sum_over_splits_and_all_phases_and_the_mean_over_seeds() -> None:
    runs = [record("rd", "one_class", split, seed) for split in "ab" for seed in (0, 1)]
    runs += [
        record("rd", "multi_class", "all", seed, phase, test_images_per_second=speed)
        for seed, speed, phase in ((0, 50, None), (1, 25, {"history": [{"epoch": 1, "seconds": 60.0}]}))
    ]
    found = costs.costs(aggregate.aggregate(cells(["rd"], ["a", "b"], seeds=2), factories.NO_PLAN), runs)
    found = found[found.metric == "image_auroc"].set_index("protocol")
    assert found.training_minutes.to_dict() == pytest.approx({"one_class": 2, "multi_class": 1.5})
    assert (found.training_minutes_low["multi_class"], found.training_minutes_high["multi_class"]) == (1, 2)
    assert found.image_milliseconds["multi_class"] == pytest.approx(30)
    assert "Measured on: cpu" in figures.draw("costs", found.reset_index()).note


def test_times_of_different_devices_are_said_not_to_compare() -> None:
    runs = [record("rd", "one_class", "a", 0), record("fd", "one_class", "a", 0, device="gpu")]
    found = costs.costs(aggregate.aggregate(cells(["fd", "rd"], ["a"], seeds=1), factories.NO_PLAN), runs)
    said = figures.draw("costs", found).note
    assert "Devices differ, so times are not comparable: cpu: RD; gpu: FD" in said


def test_the_share_of_normal_images_below_leaves_the_image_itself_out_and_halves_ties() -> None:
    images = pd.DataFrame({"score": [1, 2, 2, 5, 2], "anomalous": [False, False, False, True, True]})
    assert qualitative.lower(images).tolist() == [0, 0.75, 0.75, 1, pytest.approx(2 / 3)]


def test_the_most_missed_and_most_false_are_chosen_over_all_variants_and_none_is_shown_twice() -> None:
    below = pd.DataFrame(
        {"rd": [0.1, 0.2, 0.9, 0.8, 0.5, 0.4], "fd": [0.3, 0.0, 0.6, 1.0, 0.5, 0.6]},
        index=["p", "q", "m", "n", "r", "s"],
    )
    anomalous = pd.Series([True, True, False, False, True, False], index=below.index)
    rows = qualitative.choose(below, anomalous, random=["q", "r", "s"], extreme=["p", "q", "m", "n"])
    assert list(rows.items()) == [
        ("q", "most missed"), ("p", "most missed"), ("n", "most false"), ("m", "most false"),
        ("r", "random, anomalous"), ("s", "random, normal"),
    ]  # fmt: skip


def test_every_variant_shows_its_own_map_of_the_same_image(tmp_path: Path) -> None:
    keys = [f"c/test/{'good' if i % 2 else 'dent'}/{i:03}" for i in range(6)]
    rows = []
    for place, variant in enumerate(("fd", "rd")):
        order = keys if variant == "rd" else keys[::-1]  # the files of two variants need not list images alike
        maps = np.stack([np.full((4, 4), 10 * place + int(key[-3:]), np.float32) for key in order])
        np.save(tmp_path / f"{variant}.npy", maps)
        images = [{"key": key, "anomalous": "dent" in key, "score": float(key[-1])} for key in order]
        pictures = {"keys": order, "images": np.zeros((6, 4, 4, 3), np.uint8), "truth": np.zeros((6, 4, 4), bool)}
        np.savez(tmp_path / f"{variant}.npz", **pictures)
        place_of = {"variant": variant, "seed": 0, "details": {"images": images}, "maps": tmp_path / f"{variant}.npy"}
        rows.append(place_of | {"arrays": tmp_path / f"{variant}.npz", "extremes": tmp_path / f"{variant}.npz"})
    axes = np.reshape(figures.draw("qualitative", pd.DataFrame(rows)).figure.axes, (-1, 4))
    assert [axis.get_title() for axis in axes[0]] == ["image", "truth", "FD", "RD"]
    for row in axes:
        why, _, number = row[0].get_ylabel().split("\n")
        assert why.startswith(("most", "random"))
        assert [float(axis.images[0].get_array()[0, 0]) for axis in row[2:]] == [int(number), 10 + int(number)]


def test_curves_show_the_mean_over_seeds_and_their_range() -> None:
    curve = [{"fpr": [0, 1], "tpr": [0, height]} for height in (0.4, 0.8)]
    rows = [
        {"variant": "rd", "category": "a", "seed": s, "details": {"curves": {"roc": c}}} for s, c in enumerate(curve)
    ]
    (axis,) = figures.draw("roc", pd.DataFrame(rows)).figure.axes
    assert axis.get_lines()[0].get_ydata()[-1] == pytest.approx(0.6)
    band = axis.collections[0].get_paths()[0].vertices
    assert {0.4, 0.8} <= set(np.round(band[np.isclose(band[:, 0], 1), 1], 6))
    assert to_rgb(axis.collections[0].get_facecolor()[0][:3]) == to_rgb(axis.get_lines()[0].get_color())


def test_no_stored_curve_is_said() -> None:
    rows = [{"variant": "rd", "category": "a", "seed": 0, "details": {"curves": {}}}]
    with pytest.raises(ValueError, match="no category has a stored sPRO curve"):
        figures.draw("spro", pd.DataFrame(rows))
