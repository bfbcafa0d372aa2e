"""The training loop: steps that follow from the seed, checkpoints, and which epoch's network is kept."""

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
from methods.components.atomic import replacing

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

    Everything random in a step follows from the seed, the epoch and the step, so that a fit that resumes after any step
    gives the same bits as one that was never interrupted.

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
    state = _resume(checkpoint, identity) or {"history": [], "best": None, "steps": []}
    if "network" in state:
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        scaler.load_state_dict(state["scaler"])
    history, best = state["history"], state["best"]
    steps = [{name: value.to(context.device) for name, value in step.items()} for step in state["steps"]]
    saved = time.monotonic()

    def save(now: bool) -> None:
        nonlocal saved
        if checkpoint and (now or time.monotonic() - saved > CHECKPOINT_SECONDS):
            _save(checkpoint, {"identity": identity, "network": network.state_dict(), "scaler": scaler.state_dict(),
                               "optimiser": optimiser.state_dict(), "history": history, "best": best,
                               "steps": steps})  # fmt: skip
            saved = time.monotonic()

    for epoch in range(len(history) + 1, epochs + 1):
        begun = time.perf_counter()
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(epoch)
        seed(context.seed, epoch)
        batches = torch.randperm(images).split(batch_size)
        network.train()
        for step in range(len(steps), len(batches)):
            seed(context.seed, epoch, step + 1)
            steps.append(_step(optimiser, scaler, terms(batches[step].tolist())))
            save(now=False)
        means = _means(steps, epoch)
        seed(context.seed, epoch, 0)
        measured = dict(evaluate(epoch))
        if keep and measured and (best is None or keep(measured) < best["value"]):
            kept = {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}
            best = {"value": keep(measured), "epoch": epoch, "network": kept}
        seconds = round(time.perf_counter() - begun, 3)
        history.append({"epoch": epoch, "seconds": seconds, "terms": means, "measured": measured})
        steps = []
        save(now=epoch == epochs)
        context.progress(Progress("fit", epoch, epochs, means | measured))
    if best:
        network.load_state_dict(best["network"])
    return history, best["epoch"] if best else epochs


def _step(
    optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler, losses: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Descend by the sum of the terms; they are returned unread, for reading each step's would stall a GPU."""
    optimiser.zero_grad(set_to_none=True)
    scaler.scale(torch.stack(list(losses.values())).sum()).backward()
    scaler.step(optimiser)
    scaler.update()
    return {name: value.detach() for name, value in losses.items()}


def _means(steps: Sequence[Mapping[str, Tensor]], epoch: int) -> dict[str, float]:
    """The mean of each loss term over the steps of an epoch."""
    means = {}
    for name in steps[0]:
        values = torch.stack([step[name] for step in steps]).double().cpu()
        wrong = (~values.isfinite()).nonzero().flatten().tolist()
        if wrong:
            raise InputError(
                f"The loss is not finite: term {name!r} is {values[wrong[0]].item()} in epoch {epoch}, "
                f"step {wrong[0] + 1}. Lower learning_rate, or compute in float32 if precision is another."
            )
        means[name] = values.mean().item()
    return means


def reproducible(context: Context) -> None:
    """Ask torch for deterministic algorithms, or let it choose the fastest; holds for the whole process."""
    if context.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(context.deterministic)
    # Filling new memory finds bugs, and costs a pass over it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = context.deterministic
    torch.backends.cudnn.benchmark = not context.deterministic


def seed(number: int, *at: int) -> None:
    """Seed torch, numpy and python for a place in a fit: an epoch, or a step of it, both counted from 1.

    Epoch 0 draws the initial weights, step 0 is the evaluation.
    """
    drawn = int(np.random.SeedSequence([number, *at]).generate_state(1)[0])
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
    for left in checkpoint.parent.glob(f".*.{checkpoint.name}"):  # by a process that was killed
        left.unlink(missing_ok=True)
    with replacing(checkpoint) as partial:
        torch.save(state, partial)
