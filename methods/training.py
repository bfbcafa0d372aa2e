"""The training loop: epochs that follow from the seed, checkpoints, and which epoch's network is kept."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from methods.base import Context, InputError, Progress

logger = logging.getLogger(__name__)
CHECKPOINT_SECONDS = 60


def optimise(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    terms: Callable[[Sequence[int]], Mapping[str, Tensor]],
    images: int,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: Callable[[int], float],
    context: Context,
    checkpoint: Path | None,
    identity: str,
    evaluate: Callable[[int], Mapping[str, float]] = lambda epoch: {},
    keep: Callable[[Mapping[str, float]], float] | None = None,
) -> tuple[list[dict[str, Any]], int]:
    """Train a network, resuming from the checkpoint of the same fit if there is one.

    Everything random in an epoch follows from the seed and the epoch's number, so that a resumed fit gives the same
    bits as one that was never interrupted.

    Args:
        terms: the loss terms of a batch, given as indices below `images`.
        learning_rate: of an epoch, counted from 1.
        identity: tells this fit from others; a checkpoint with another identity is not resumed.
        evaluate: measures the network after an epoch; empty where it is not that epoch's turn.
        keep: from what was measured, the value to minimise: the network ends as it was then. None: as it was at last.

    Returns:
        One entry per epoch (epoch, seconds, terms: each one's mean, measured), and the epoch that was kept.

    Raises:
        InputError: a term is not finite.
    """
    scaler = torch.amp.GradScaler(context.device, enabled=context.precision == "float16" and "cuda" in context.device)
    state = _resume(checkpoint, identity) or {"history": [], "best": None}
    if state["history"]:
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        scaler.load_state_dict(state["scaler"])
    history, best = state["history"], state["best"]
    saved = time.monotonic()
    for epoch in range(len(history) + 1, epochs + 1):
        begun = time.perf_counter()
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(epoch)
        means = _train_epoch(network, optimiser, scaler, terms, images, batch_size, context, epoch)
        measured = dict(evaluate(epoch))
        if keep and measured and (best is None or keep(measured) < best["value"]):
            kept = {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}
            best = {"value": keep(measured), "epoch": epoch, "network": kept}
        seconds = round(time.perf_counter() - begun, 3)
        history.append({"epoch": epoch, "seconds": seconds, "terms": means, "measured": measured})
        if checkpoint and (epoch == epochs or time.monotonic() - saved > CHECKPOINT_SECONDS):
            _save(checkpoint, {"identity": identity, "network": network.state_dict(), "scaler": scaler.state_dict(),
                               "optimiser": optimiser.state_dict(), "history": history, "best": best})  # fmt: skip
            saved = time.monotonic()
        context.progress(Progress("fit", epoch, epochs, means | measured))
    if best:
        network.load_state_dict(best["network"])
    return history, best["epoch"] if best else epochs


def _train_epoch(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    terms: Callable[[Sequence[int]], Mapping[str, Tensor]],
    images: int,
    batch_size: int,
    context: Context,
    epoch: int,
) -> dict[str, float]:
    """One pass over all images in random order; the mean of each loss term."""
    network.train()
    seed(context.seed, epoch)
    log: list[Tensor] = []
    names: list[str] = []
    for batch in torch.randperm(images).split(batch_size):
        losses = terms(batch.tolist())
        names = list(losses)
        values = torch.stack(list(losses.values()))
        optimiser.zero_grad(set_to_none=True)
        scaler.scale(values.sum()).backward()
        scaler.step(optimiser)
        scaler.update()
        log.append(values.detach())
    steps = torch.stack(log).double().cpu()  # (steps, terms), read once per epoch: reading each step would stall a GPU
    wrong = (~steps.isfinite()).nonzero().tolist()
    if wrong:
        step, term = wrong[0]
        raise InputError(
            f"The loss is not finite: term {names[term]!r} is {steps[step, term].item()} in epoch {epoch}, "
            f"step {step + 1}. Lower learning_rate, or compute in float32 if precision is another."
        )
    return dict(zip(names, steps.mean(0).tolist(), strict=True))


def reproducible(context: Context) -> None:
    """Ask torch for deterministic algorithms, or let it choose the fastest; holds for the whole process."""
    if context.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(context.deterministic)
    # Filling new memory finds bugs, and costs a pass over it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = context.deterministic
    torch.backends.cudnn.benchmark = not context.deterministic


def seed(number: int, epoch: int) -> None:
    """Seed torch, numpy and python for one epoch of a fit; epoch 0 draws the initial weights."""
    drawn = int(np.random.SeedSequence([number, epoch]).generate_state(1)[0])
    torch.manual_seed(drawn)
    np.random.seed(drawn)
    random.seed(drawn)


def _resume(checkpoint: Path | None, identity: str) -> dict[str, Any] | None:
    if not checkpoint or not checkpoint.exists():
        return None
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        logger.warning("The checkpoint %s cannot be read (%s): training starts anew.", checkpoint, error)
        return None
    if state.get("identity") != identity:
        logger.warning("The checkpoint %s is of another fit: training starts anew.", checkpoint)
        return None
    return state


def _save(checkpoint: Path, state: dict[str, Any]) -> None:
    """Write whole under another name, then rename: a checkpoint is never half a file."""
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    temporary = checkpoint.with_name(checkpoint.name + ".part")
    torch.save(state, temporary)
    os.replace(temporary, checkpoint)
