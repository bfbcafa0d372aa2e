"""Batch norm's statistics for testing, against a slow reference."""

import torch
from torch import nn

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
