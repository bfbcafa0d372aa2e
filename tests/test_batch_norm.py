"""Batch norm's statistics for testing, against a slow reference."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from test_methods import create, samples
from torch import nn

from methods.base import Context, Prediction, Sample
from methods.components.batch_norm import recalibrate


def test_statistics_are_the_means_over_batches_of_the_final_network_weighted_by_size() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4))
    images, batches = torch.randn(7, 3, 5, 5), [[0, 3], [5, 1], [4, 2], [6]]
    network.train()(images * 10)  # running averages of something else
    recalibrate(network, batches, lambda batch: network(images[batch]))
    mean, variance = torch.zeros(4).double(), torch.zeros(4).double()
    for batch in batches:
        values = network[0](images[batch]).detach().double()
        mean += values.mean((0, 2, 3)) * len(batch) / 7
        variance += values.var((0, 2, 3)) * len(batch) / 7
    first = network[1]
    assert isinstance(first, nn.BatchNorm2d) and first.running_mean is not None and first.running_var is not None
    torch.testing.assert_close(first.running_mean.double(), mean, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(first.running_var.double(), variance, atol=1e-6, rtol=1e-5)
    assert first.momentum == 0.1


def test_the_weights_do_not_change() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = [parameter.clone() for parameter in network.parameters()]
    recalibrate(network, [[0, 1]], lambda batch: network(torch.randn(2, 2)))
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_a_fit_ends_with_recalibrated_statistics_and_the_weights_of_any_fit() -> None:
    students = {}
    for how in ("running", "recalibrated"):
        method: Any = create("rd", batch_norm=how)
        students[how] = method.fit(samples(6), [], Context()).student_
    for weights in zip(*(student.parameters() for student in students.values()), strict=True):
        assert torch.equal(*weights)
    running, recalibrated = (student.state_dict() for student in students.values())
    assert not torch.equal(*(state["bottleneck.fuse.0.1.running_mean"] for state in (running, recalibrated)))

    seen: list[torch.Tensor] = []  # what the first batch norm of the bottleneck gets of each batch
    first = students["running"].get_submodule("bottleneck.fuse.0.1")
    first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    method = create("rd", batch_norm="recalibrated").fit(samples(6), [], Context())
    method.student_ = students["running"]
    list(method.predict(samples(6), Context(predict_batch=6)))
    assert isinstance(first, nn.BatchNorm2d)
    mean = torch.cat(seen).double().mean((0, 2, 3))  # over all images; of equally large batches it is that of the means
    torch.testing.assert_close(recalibrated["bottleneck.fuse.0.1.running_mean"].double(), mean, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["rd", "snl"])
def test_what_is_measured_of_the_last_epoch_is_what_the_fit_predicts(name: str) -> None:
    measured: list[Prediction] = []

    def evaluate_test(predict: Callable[[Sequence[Sample]], Iterator[Prediction]]) -> dict[str, float]:
        measured[:] = predict(samples(3, "test"))
        return {}

    context = Context(evaluate_test=evaluate_test)
    method = create(name, batch_norm="recalibrated").fit(samples(6), [], context)
    for early, late in zip(measured, method.predict(samples(3, "test"), Context()), strict=True):
        assert torch.equal(early.anomaly_map, late.anomaly_map)
