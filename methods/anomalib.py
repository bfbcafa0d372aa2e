"""The models of anomalib, trained by anomalib's own engine on the images and weights that all other methods get.

A variant names a model: `{method: anomalib, model: Patchcore, arguments: {num_neighbors: 1}}`.
anomalib gets the normal images of the run and nothing else: no test image, no mask, and no label but "normal". Its
metrics, thresholds and normalisation of scores are switched off.

Akcay et al., ICIP 2022, arXiv 2202.08341; code open-edge-platform/anomalib, Apache-2.0, an optional package.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pydantic_core import to_jsonable_python

from methods.base import Context, InputError, Method, Prediction, Progress, Sample, did_you_mean
from methods.components import feature_cache, lightning_fit, teachers, train_loop
from methods.components.local_weights import architecture, replace_downloads

VERSION = "2.7.0"  # of anomalib; part of the code, so that another version makes runs stale
TEACHER_ARGUMENTS = ("backbone", "teacher_backbone", "student_backbone")  # what classes call the architecture
PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}
UNSUPPORTED = {  # because of what they need besides images and the weights of one network
    "EfficientAd": "it trains on ImageNette too and has a teacher of its own, both of which it downloads",
    "WinClip": "it is zero-shot: it downloads CLIP and learns nothing from the training images",
    "VlmAd": "it asks a language model",
    "Dfkde": "it gives no anomaly map",
    "Ganomaly": "it gives no anomaly map",
}


@dataclass(kw_only=True, eq=False)
class Anomalib(Method):
    """A model of anomalib.

    Attributes:
        model: the name of its class in `anomalib.models`.
        teacher: gives the model's backbone its architecture and weights, see `methods.components.teachers`; None for a
            model without such a backbone.
        encoder: a weight file, in timm's naming, of a network that is no teacher, such as Dinomaly's transformer.
        image_size: side in pixels to which every image is resized.
        epochs: ignored by models that pass once over the images, such as Patchcore; tables then say "no epochs".
        arguments: of the model's class, other than those above.
    """

    paper: ClassVar[str] = "Akcay et al., Anomalib: A Deep Learning Library for Anomaly Detection, ICIP 2022"
    source: ClassVar[str] = f"open-edge-platform/anomalib {VERSION}"
    deviations: ClassVar[tuple[str, ...]] = (
        "anomalib's implementation, which may differ from the paper of each model.",
        "Images are resized as for all methods, by Pillow on 8 bits; anomalib resizes them as floating-point tensors.",
        "anomalib's validation, which by default selects thresholds on test images, is switched off.",
    )

    model: str = "Patchcore"
    teacher: str | None = "resnet18.tv_in1k"
    encoder: Path | None = None
    image_size: int = 256
    epochs: int = 100
    batch_size: int = 32
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size"):
            if getattr(self, key) <= 0:
                raise InputError(f"Anomalib: {key}={getattr(self, key)}; it must be above 0.")
        if self.image_size % 32 or self.image_size < 64:
            raise InputError(f"Anomalib: image_size={self.image_size}; it must be a multiple of 32, at least 64.")

    def unsupported(self, dataset: str, protocol: str) -> str | None:
        _check_installed()
        reason = UNSUPPORTED.get(self.model)
        if not reason and "encoder_name" in inspect.signature(self._class()).parameters and not self.encoder:
            reason = "it downloads a vision transformer, unless `encoder` names a file of its weights"
        return reason and f"anomalib's {self.model}: {reason}"

    def _class(self) -> Any:
        """The model's class, which knows all arguments.

        Raises:
            InputError: there is no such model or argument, or the class takes no teacher, or needs one.
        """
        from anomalib import models

        name = f"anomalib's {self.model}"
        if self.model not in models.__all__:
            raise InputError(f"anomalib has no model {self.model!r}. {did_you_mean(self.model, models.__all__)}")
        model = getattr(models, self.model)
        known = inspect.signature(model).parameters
        backbones = [argument for argument in TEACHER_ARGUMENTS if argument in known]
        for argument in self.arguments:
            if argument not in known:
                raise InputError(f"{name} has no argument {argument!r}. {did_you_mean(argument, known)}")
            if argument in backbones and self.teacher:
                raise InputError(f"{name}: `teacher` sets {argument}; remove it from `arguments`.")
        if self.teacher and not backbones:
            raise InputError(f"{name} has no backbone for the teacher {self.teacher}: set `teacher: null`.")
        if self.teacher and self.encoder:
            raise InputError(f"{name} has both a teacher and an encoder; set one of them to null.")
        if backbones and not (self.teacher or self.encoder):
            raise InputError(f"{name} has a backbone: name its `teacher`.")
        return model

    def fit(self, train: Sequence[Sample], validation: Sequence[Sample], context: Context) -> Self:
        if not train:
            raise InputError("Anomalib got no training image: check the data set's train folder.")
        _check_installed()
        train_loop.set_determinism(context)
        train_loop.seed(context.seed, 0)
        self.model_ = self._create(context)
        images = feature_cache.load_images(train, self.image_size, context.cache)
        self.history_ = self._train(images, context)
        return self

    def _create(self, context: Context) -> Any:
        """The model with the weights of the teacher or encoder, and without what scores and draws in anomalib."""
        model, teacher = self._class(), None
        size, how = (self.image_size, self.image_size), self.arguments
        if self.teacher:
            teacher = teachers.load(self.teacher, context.weights)
            known = inspect.signature(model).parameters
            how = how | {name: architecture(teacher) for name in TEACHER_ARGUMENTS if name in known}
        self.teacher_record_ = teacher.record if teacher else _record(self.encoder)
        how = how | dict.fromkeys(("post_processor", "evaluator", "visualizer"), False)
        crop = {"crop_size": self.image_size} if self.model == "Dinomaly" else {}  # its default leaves a margin out
        try:
            with replace_downloads(teacher, self.encoder):
                return model(pre_processor=model.configure_pre_processor(size, **crop), **how)
        except InputError:
            raise
        except (ValueError, TypeError, RuntimeError) as error:
            raise InputError(f"anomalib's {self.model}: {error}") from error

    def _train(self, images: feature_cache.Rows, context: Context) -> list[train_loop.Epoch]:
        """Have anomalib's engine fit the model; the history of its epochs, empty if it passes once over the images."""
        from anomalib.callbacks import ModelCheckpoint
        from anomalib.engine import Engine
        from lightning.pytorch.plugins.environments import LightningEnvironment

        for logger in ("lightning.pytorch", "lightning_fabric"):  # which tell what no reader of a job's log can change
            logging.getLogger(logger).setLevel(logging.WARNING)
        passes = self.model_.trainer_arguments.get("max_epochs")  # of models that do not train by epochs
        self.has_epochs_ = passes is None
        epochs = self.epochs if self.has_epochs_ else None
        reporter = lightning_fit.reporter(len(images) * (passes or 1), epochs, context)
        checkpoint = context.checkpoint if context.checkpoint and context.checkpoint.exists() else None
        with tempfile.TemporaryDirectory() as folder:
            engine = Engine(
                callbacks=[reporter, ModelCheckpoint(dirpath=folder, save_top_k=0)],  # which saves nothing
                default_root_dir=folder,
                accelerator=torch.device(context.device).type,
                devices=1,
                max_epochs=self.epochs,
                precision=PRECISIONS[context.precision if self.has_epochs_ else "float32"],
                plugins=[LightningEnvironment()],  # on a SLURM node too, where Lightning would requeue the job itself
                limit_val_batches=0,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            data = lightning_fit.data_module(images, self.batch_size, context.seed)
            engine.fit(self.model_, datamodule=data, ckpt_path=checkpoint)
            groups = [group for optimiser in engine.trainer.optimizers for group in optimiser.param_groups]
        trained = sum(weight.numel() for group in groups for weight in group["params"])
        self.parameters_ = {"teacher": sum(weight.numel() for weight in self.model_.parameters()) - trained}
        self.parameters_ |= {"student": trained} if trained else {}
        self.model_.eval().to(context.device)
        return reporter.history

    @torch.no_grad()
    def predict(self, test: Sequence[Sample], context: Context) -> Iterator[Prediction]:
        if not test:
            return
        train_loop.set_determinism(context)
        images, done = feature_cache.load_images(test, self.image_size, context.cache), 0
        for batch in torch.arange(len(test)).split(context.predict_batch):
            output = self.model_(images[batch.tolist()].to(context.device) / 255)
            maps = output.anomaly_map.float().cpu().squeeze(1)  # (B, s, s)
            for score, anomaly_map in zip(output.pred_score.flatten(), maps, strict=True):
                yield Prediction(score.item(), anomaly_map)
            done += len(batch)
            context.progress(Progress("predict", done, len(test)))

    @property
    def record(self) -> dict[str, Any]:
        """Of models without epochs, `epochs` is left out: tables compare it with that of others."""
        hyper_parameters = to_jsonable_python(asdict(self))
        if not self.has_epochs_:
            del hyper_parameters["epochs"]
        recorded = {
            "hyper_parameters": hyper_parameters,
            "history": self.history_,
            "image_size": self.image_size,
            "parameters": self.parameters_,
        }
        return recorded | ({"teacher": self.teacher_record_} if self.teacher_record_ else {})


def _check_installed() -> None:
    """Make sure of the package and its version, without importing it.

    Raises:
        InputError: it is missing, or of another version.
    """
    try:
        installed = f"anomalib {metadata.version('anomalib')}"
    except metadata.PackageNotFoundError:
        installed = "no anomalib"
    if installed != f"anomalib {VERSION}":
        raise InputError(
            f"{installed} is installed, and anomalib {VERSION} is needed: `pip install '.[anomalib]' -c "
            "constraints.txt` in the project's folder installs it."
        )


def _record(encoder: Path | None) -> dict[str, str] | None:
    if encoder is None:
        return None
    with encoder.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"name": encoder.stem, "sha256": digest, "pretraining": "not stated in its file"}
