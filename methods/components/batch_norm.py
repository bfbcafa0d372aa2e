"""Batch norm's statistics for testing, averaged over training images with the final weights ("precise batch norm").

By default a batch norm is tested with running averages over the last training steps, whose weights were other ones.
Where the weights still move fast, the averages fit no network, and a student may fail on a category that it
has learned (docs/snl.md shows one).

Wu and Johnson, Rethinking "Batch" in BatchNorm, arXiv 2105.07576, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Iterable[list[int]], forward: Callable[[list[int]], object]) -> None:
    """Replace the running mean and variance of each batch norm by their means over batches, weighted by size.

    Args:
        batches: indices of images.
        forward: passes a batch through the network.

    >>> network, images = nn.BatchNorm1d(1), torch.tensor([[0.0], [2.0], [1.0], [3.0]])
    >>> recalibrate(network, [[0, 1], [2, 3]], lambda batch: network(images[batch]))
    >>> network.running_mean, network.running_var
    (tensor([1.5000]), tensor([2.]))
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    network.train()
    seen = 0
    for batch in batches:
        seen += len(batch)
        for norm in norms:
            norm.momentum = len(batch) / seen  # 1 for the first batch, which replaces what was there
        forward(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
