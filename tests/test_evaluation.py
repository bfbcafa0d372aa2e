"""Metrics on the test images during training, and selection by them: a diagnostic that changes nothing else."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from test_methods import create
from test_scoring import expand, scored

from benchmarks import datasets, params, protocols, results, runs, status
from benchmarks.execution import worker
from benchmarks.scoring import evaluation
from methods.base import Context, InputError, Method, Prediction, Sample

pytestmark = pytest.mark.usefixtures("results_folder")

METRICS = {"image_auroc", "pixel_auroc", "pixel_ap", "aupro"}


def test_the_evaluation_equals_the_scores_of_the_stored_predictions(toy_root: Path, own_methods: Path) -> None:
    (run,) = expand(toy_root)
    worker.execute(run, "cpu", 1, 1.0)
    status.collect(run)
    rows = scored(run, "map_size").query("subset == 'all'").groupby("metric")["value"].mean()
    dataset = datasets.load("toy", toy_root)
    (split,) = protocols.splits("multi_class", dataset, 0)
    _, predictions = results.load(results.result_dir(run))
    stored = [
        Prediction(float(value), torch.from_numpy(one.copy()))
        for _, scores, maps in predictions.values()
        for value, one in zip(scores, maps, strict=True)
    ]
    measured = evaluation.test_evaluation(dataset, split)(lambda test: iter(stored))
    assert measured == pytest.approx({metric: rows[metric] for metric in METRICS})


def fitted(root: Path, **how: Any) -> tuple[Method, list[Sample]]:
    """RD after four epochs of one category, evaluated during training by default, and the test images."""
    dataset = datasets.load("toy", root, ["cog"])
    (split,) = protocols.splits("one_class", dataset, 0)
    train, test = ([dataset.sample(item) for item in items] for items in (split.train, split.test["cog"]))
    evaluate_test = evaluation.test_evaluation(dataset, split) if how.pop("evaluated", True) else None
    held_out = [dataset.sample(item) for item in split.validation] if how.pop("validated", False) else []
    method = create("rd", epochs=4, **how)
    return method.fit(train, held_out, Context(evaluate_test=evaluate_test, evaluate_every=3)), test


def maps(method: Method, test: Sequence[Sample]) -> torch.Tensor:
    predictions: Iterator[Prediction] = method.predict(test, Context())
    return torch.stack([prediction.anomaly_map for prediction in predictions])


def test_test_metrics_are_measured_every_few_epochs_and_change_nothing(toy_root: Path) -> None:
    measured, test = fitted(toy_root)
    plain, _ = fitted(toy_root, evaluated=False)
    history = measured.record["history"]
    assert [entry["epoch"] for entry in history if entry["measured"]] == [3, 4]
    assert set(history[-1]["measured"]) == METRICS
    assert torch.equal(maps(measured, test), maps(plain, test))


def test_held_out_images_are_evaluated_with_the_test_images_for_any_selection_and_change_nothing(
    toy_root: Path,
) -> None:
    last, test = fitted(toy_root, validated=True)
    plain, _ = fitted(toy_root, validated=True, evaluated=False)
    assert [set(entry["measured"]) for entry in last.record["history"]] == [set()] * 2 + [METRICS | {"validation"}] * 2
    assert (last.record["selection"], last.record["epoch"]) == ("last", 4)
    assert torch.equal(maps(last, test), maps(plain, test))


def test_the_oracle_keeps_the_epoch_that_is_best_on_the_test_images_and_is_labelled(
    toy_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = iter([{"image_auroc": 0.9, "pixel_auroc": 0.8}, {"image_auroc": 0.6, "pixel_auroc": 0.9}])
    monkeypatch.setattr(evaluation, "test_evaluation", lambda dataset, split: lambda predict: next(scripted))
    oracle, test = fitted(toy_root, selection="oracle")
    assert (oracle.record["selection"], oracle.record["epoch"]) == ("oracle", 3)
    last, _ = fitted(toy_root, evaluated=False)
    assert not torch.equal(maps(oracle, test), maps(last, test))


def test_an_oracle_without_test_evaluation_is_refused_when_planning(toy_root: Path) -> None:
    suite = params.Params(
        suite="test", methods=["best"], variants={"best": {"method": "rd", "selection": "oracle"}}, datasets=["toy"],
        roots={"toy": toy_root}, protocols=["one_class"], seeds=[0], pretrain=[], conventions=["default"], allow={},
    )  # fmt: skip
    with pytest.raises(InputError, match="set `evaluate_every: 5`"):
        list(runs.expand(suite))
    with pytest.raises(InputError, match="looks at the test set every few epochs"):
        fitted(toy_root, selection="oracle", evaluated=False)
