"""Batch norm's statistics for testing, averaged over training images with the final weights ("precise batch norm").

By default a batch norm is tested with running averages over the last training steps, whose weights were other ones.
Where the weights still move fast, the averages fit no network, and a student may fail on a category that it
has learned (docs/snl.md shows one).

Wu and Johnson, Rethinking "Batch" in BatchNorm, arXiv 2105.07576, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import nn

Batch = TypeVar("Batch", bound=Sequence[int])


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Sequence[Batch], forward: Callable[[Batch], object]) -> None:
    """Replace the running mean and variance of each batch norm by their means over batches of equal size.

    Args:
        batches: indices of images; a smaller batch at the end is left out, unless it is the only one.
        forward: passes a batch through the network.

    >>> network = nn.BatchNorm1d(1)
    >>> recalibrate(network, [[0], [1]], lambda batch: network(torch.tensor([[0.0], [2.0]]) + batch[0]))
    >>> network.running_mean, network.running_var
    (tensor([1.5000]), tensor([2.]))
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # PyTorch then takes the plain mean over all batches
    network.train()
    for batch in batches:
        if len(batch) == len(batches[0]):
            forward(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
