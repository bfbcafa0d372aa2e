"""What anomalib's engine, which is Lightning's, needs from us: batches of our images, and reports of its progress.

Importing this module needs neither package; calling its functions does.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from methods.base import Context, Progress
from methods.components import feature_cache, train_loop
from methods.components.atomic import replacing


def data_module(images: feature_cache.Rows, batch_size: int, seed: int) -> Any:
    """The images as batches of anomalib, each with the label "normal" and an empty mask."""
    from anomalib.data import ImageBatch
    from lightning import LightningDataModule

    def batch(rows: list[int]) -> Any:
        image = images[rows] / 255
        return ImageBatch(
            image=image, gt_label=torch.zeros(len(rows)).bool(), gt_mask=torch.zeros_like(image[:, 0]).bool()
        )

    class Data(LightningDataModule):
        name, category, train_batch_size = "images", "", batch_size

        def train_dataloader(self) -> DataLoader:
            rows: Any = range(len(images))
            return DataLoader(rows, batch_size, sampler=_Shuffled(len(images), seed), collate_fn=batch)

    return Data()


class _Shuffled(Sampler[int]):
    """The order of images in an epoch, the same as in `train_loop.optimise`."""

    def __init__(self, images: int, seed: int) -> None:
        self.images, self.seed, self.epoch = images, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch; they are counted from 0."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        train_loop.seed(self.seed, self.epoch + 1)
        yield from torch.randperm(self.images).tolist()

    def __len__(self) -> int:
        return self.images


def reporter(images: int, epochs: int | None, context: Context) -> Any:
    """What Lightning calls during a fit: it seeds each step, and saves and reports each epoch.

    Args:
        images: how many are seen in the whole fit, if it has no epochs.
        epochs: None: the model does not train by epochs; each batch is reported, and nothing is saved.
    """
    from lightning import Callback

    on_termination = signal.getsignal(signal.SIGTERM)

    class Reporter(Callback):
        def __init__(self) -> None:
            self.history: list[train_loop.Epoch] = []
            self.started = self.saved = time.monotonic()
            self.seen = 0

        def setup(self, *_: Any, **__: Any) -> None:
            signal.signal(signal.SIGTERM, on_termination)  # Lightning's would put the end of the process off

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
            if index == 0:  # between epochs, Lightning's counters of batches and schedulers are not ready to be saved
                self.save(trainer)
                self.started = time.monotonic()
            train_loop.seed(context.seed, trainer.current_epoch + 1, index + 1)

        def save(self, trainer: Any) -> None:
            is_due = bool(self.history) and time.monotonic() - self.saved > train_loop.CHECKPOINT_SECONDS
            if context.checkpoint and is_due:
                with replacing(context.checkpoint) as partial:
                    trainer.save_checkpoint(partial)
                self.saved = time.monotonic()

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
            self.seen += len(batch.image)
            if not epochs:
                context.progress(Progress("fit", self.seen, images))

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            if not epochs:
                return
            logged = trainer.callback_metrics.items()
            terms = {name.removesuffix("_epoch"): value.item() for name, value in logged if not name.endswith("_step")}
            epoch, seconds = trainer.current_epoch + 1, round(time.monotonic() - self.started, 3)
            self.history.append({"epoch": epoch, "seconds": seconds, "terms": terms, "measured": {}})
            context.progress(Progress("fit", epoch, epochs, terms))

        def state_dict(self) -> dict[str, Any]:
            return {"history": self.history}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.history = state["history"]

    return Reporter()
