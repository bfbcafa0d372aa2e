"""Batch norm's statistics for testing, against a slow reference."""

import torch
from torch import nn

from methods.components.batch_norm import recalibrate


def test_statistics_are_the_means_over_full_batches_of_the_final_network() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4))
    images = torch.randn(7, 3, 5, 5)
    network.train()(images * 10)  # running averages of something else
    recalibrate(network, [[0, 3], [5, 1], [4, 2], [6]], lambda batch: network(images[batch]))
    means, variances = [], []
    for batch in ([0, 3], [5, 1], [4, 2]):
        values = network[0](images[batch]).detach().double()
        means.append(values.mean((0, 2, 3)))
        variances.append(values.var((0, 2, 3)))
    first = network[1]
    assert isinstance(first, nn.BatchNorm2d) and first.running_mean is not None and first.running_var is not None
    torch.testing.assert_close(first.running_mean.double(), torch.stack(means).mean(0), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(first.running_var.double(), torch.stack(variances).mean(0), atol=1e-6, rtol=1e-5)
    assert first.momentum == 0.1


def test_a_single_small_batch_counts() -> None:
    network = nn.BatchNorm1d(1)
    recalibrate(network, [[0, 1]], lambda batch: network(torch.tensor([[1.0], [3.0]])))
    assert network.running_mean is not None and network.running_mean.item() == 2


def test_the_weights_do_not_change() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = [parameter.clone() for parameter in network.parameters()]
    recalibrate(network, [[0, 1]], lambda batch: network(torch.randn(2, 2)))
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
