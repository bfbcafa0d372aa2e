"""The training loop: seeded steps, checkpoints, and selection of the epoch whose weights are kept."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from methods.base import Context, InputError, Progress
from methods.components.atomic import replacing

logger = logging.getLogger(__name__)
CHECKPOINT_SECONDS = 60


class Epoch(TypedDict):
    """One entry of a training history, as it is stored in `record.json`."""

    epoch: int  # from 1
    seconds: float
    terms: dict[str, float]  # mean of each loss term over the epoch's steps
    measured: dict[str, float]  # what `evaluate` returned


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
    fit_id: str,
    evaluate: Callable[[int], Mapping[str, float]] = lambda epoch: {},
    criterion: Callable[[Mapping[str, float]], float] | None = None,
) -> tuple[list[Epoch], int]:
    """Train a network, resuming from the checkpoint of the same fit if there is one.

    All randomness of a step follows from the seed, the epoch and the step. A fit that resumes after any step ends with
    the same bits as one that was never interrupted.

    Args:
        terms: computes the loss terms of a batch, which is given as indices below `images`.
        learning_rate: of an epoch, counted from 1.
        fit_id: identifies the fit; a checkpoint with another identifier is not resumed.
        evaluate: measures the network after an epoch; may return nothing for some epochs.
        criterion: maps what was measured to the value to minimise; the network ends with the weights of the best epoch.
            None: it ends with those of the last epoch.

    Returns:
        The history, and the epoch whose weights were kept.

    Raises:
        InputError: a term is not finite.
    """
    scaler = torch.amp.GradScaler(context.device, enabled=context.precision == "float16" and "cuda" in context.device)
    state = _State(network, optimiser, scaler, checkpoint, fit_id)
    state.resume(context.device)
    for epoch in range(len(state.history) + 1, epochs + 1):
        started = time.perf_counter()
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(epoch)
        seed(context.seed, epoch)
        batches = torch.randperm(images).split(batch_size)
        network.train()
        for step in range(len(state.steps), len(batches)):
            seed(context.seed, epoch, step + 1)
            state.steps.append(_step(optimiser, scaler, terms(batches[step].tolist())))
            state.save(force=False)
        means = _means(state.steps, epoch)
        seed(context.seed, epoch, 0)
        measured = dict(evaluate(epoch))
        if criterion and measured:
            state.keep_if_best(epoch, criterion(measured))
        seconds = round(time.perf_counter() - started, 3)
        state.history.append({"epoch": epoch, "seconds": seconds, "terms": means, "measured": measured})
        state.steps = []
        state.save(force=epoch == epochs)
        context.progress(Progress("fit", epoch, epochs, means | measured))
    return state.history, state.load_best() or epochs


def _step(
    optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler, losses: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Minimise the sum of the terms. They are returned as tensors: reading their values would stall a GPU."""
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
        invalid = (~values.isfinite()).nonzero().flatten().tolist()
        if invalid:
            raise InputError(
                f"The loss is not finite: term {name!r} is {values[invalid[0]].item()} in epoch {epoch}, "
                f"step {invalid[0] + 1}. Lower learning_rate, or use precision float32."
            )
        means[name] = values.mean().item()
    return means


class _State:
    """What a fit must remember to go on after an interruption, and its file."""

    def __init__(
        self,
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        checkpoint: Path | None,
        fit_id: str,
    ) -> None:
        self.network, self.optimiser, self.scaler = network, optimiser, scaler
        self.checkpoint, self.fit_id = checkpoint, fit_id
        self.history: list[Epoch] = []
        self.steps: list[dict[str, Tensor]] = []  # loss terms of the steps of the current epoch
        self.best: dict[str, Any] | None = None  # value, epoch and weights
        self.saved = time.monotonic()

    def resume(self, device: str) -> None:
        """Load the checkpoint if it is of this fit."""
        if not self.checkpoint or not self.checkpoint.exists():
            return
        try:
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            logger.warning("The checkpoint %s cannot be read (%s): training starts again.", self.checkpoint, error)
            return
        if state.get("fit_id") != self.fit_id:
            logger.warning("The checkpoint %s belongs to another fit: training starts again.", self.checkpoint)
            return
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.history, self.best = state["history"], state["best"]
        self.steps = [{name: value.to(device) for name, value in step.items()} for step in state["steps"]]

    def save(self, force: bool) -> None:
        """Write the checkpoint, unless the last one is recent and `force` is false."""
        if not self.checkpoint or not (force or time.monotonic() - self.saved > CHECKPOINT_SECONDS):
            return
        state = {"fit_id": self.fit_id, "network": self.network.state_dict(), "optimiser": self.optimiser.state_dict(),
                 "scaler": self.scaler.state_dict(), "history": self.history, "best": self.best,
                 "steps": self.steps}  # fmt: skip
        for partial in self.checkpoint.parent.glob(f".*.{self.checkpoint.name}"):  # left by a process that was killed
            partial.unlink(missing_ok=True)
        with replacing(self.checkpoint) as partial:
            torch.save(state, partial)
        self.saved = time.monotonic()

    def keep_if_best(self, epoch: int, value: float) -> None:
        if self.best is None or value < self.best["value"]:
            weights = {key: weight.detach().cpu().clone() for key, weight in self.network.state_dict().items()}
            self.best = {"value": value, "epoch": epoch, "network": weights}

    def load_best(self) -> int | None:
        """Give the network the weights of the best epoch, and return it; None if no epoch was rated."""
        if self.best is None:
            return None
        self.network.load_state_dict(self.best["network"])
        return int(self.best["epoch"])


def set_determinism(context: Context) -> None:
    """Make torch deterministic, or let it choose the fastest algorithms; holds for the whole process."""
    if context.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(context.deterministic)
    # Filling new memory helps to find bugs, and costs a pass over it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = context.deterministic
    torch.backends.cudnn.benchmark = not context.deterministic


def seed(number: int, *position: int) -> None:
    """Seed torch, numpy and python for a position in a fit: an epoch, or a step of it, both counted from 1.

    Epoch 0 draws the initial weights; step 0 is the evaluation.
    """
    derived = int(np.random.SeedSequence([number, *position]).generate_state(1)[0])
    torch.manual_seed(derived)
    np.random.seed(derived)
    random.seed(derived)
