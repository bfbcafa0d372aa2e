"""A stored run's fitted method, ready to predict: everything that could make it another one is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import methods
from benchmarks import integrity, records, results
from benchmarks.records import Record
from benchmarks.storage import model_files
from benchmarks.storage.model_files import About
from methods.base import Context, InputError, Method, did_you_mean


@dataclass(frozen=True)
class Fitted:
    """A fitted method with what it was stored with.

    Attributes:
        run: `GROUP/SPLIT-seedK`.
        normal: category -> of some normal images each the score and the median of the map, (N, 2) float32.
    """

    run: str
    record: Record
    about: About
    method: Method
    context: Context
    normal: dict[str, NDArray[np.float32]]


def load(run: str, weights: Mapping[str, Path], device: str) -> Fitted:
    """The fitted method of a stored run, on a device and with as many threads as the run had.

    Args:
        run: `GROUP/SPLIT-seedK`, as `proctor status` names it.
        weights: local weight files by teacher.

    Raises:
        InputError: there is no such run, or it kept no model; the model is damaged, of another schema, or does not fit
            the method or the teacher as they are now.
    """
    path, record = find(run)
    try:
        about, state, normal = model_files.read(path)
    except ValueError as error:
        raise InputError(f"{error}: it was written by another version of Proctor. Run {run} again.") from None
    method = methods.create(about.method, **about.hyper_parameters)
    _check_teacher(path, about, weights)
    if getattr(method, "image_size", None) != about.image_size:
        raise InputError(
            f"{path} is of images of {about.image_size} px, and its hyper-parameters say "
            f"{getattr(method, 'image_size', None)}. It is not as a run wrote it: {integrity.MODEL_CURE}."
        )
    torch.set_num_threads(record.provenance.threads or torch.get_num_threads())
    context = Context(
        seed=about.seed,
        device=device,
        **about.compute,
        weights=weights,
        predict_batch=record.provenance.predict_batch or Context.predict_batch,
    )
    try:
        method.load_state(state, context)
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{path} does not fit the method {about.method!r} as it is now ({reason}). If its code has changed since "
            f"commit {record.provenance.git_commit}, return to that, or let `dvc repro` run {run} again."
        ) from None
    return Fitted(run, record, about, method, context, {name: tensor.numpy() for name, tensor in normal.items()})


def find(run: str) -> tuple[Path, Record]:
    """The file of a run's fitted method, once its digest is known to be that in the record, and the record.

    Raises:
        InputError: there is no such run, it kept no model, or the file was changed.
    """
    folder = results.RESULTS / "predictions" / run.rstrip("/")
    if not (folder / "record.json").is_file() or folder.parent.parent != results.RESULTS / "predictions":
        stored = sorted(path.parent for path in results.RESULTS.glob("predictions/*/*/record.json"))
        names = [f"{path.parent.name}/{path.name}" for path in stored]
        hint = did_you_mean(run, names, "A run is named GROUP/SPLIT-seedK, as `proctor status` lists them.")
        raise InputError(f"There is no finished run {run!r} in {results.RESULTS / 'predictions'}. {hint}")
    path = integrity.require_model(folder)
    return path, records.read(folder / "record.json")


def _check_teacher(path: Path, about: About, weights: Mapping[str, Path]) -> None:
    if about.teacher is None:
        return
    from methods.components import teachers  # timm takes seconds to import

    name = about.teacher.name
    digest = teachers.digest(name, weights)
    if digest != about.teacher.sha256:
        source = f"{weights[name]} has" if name in weights else "here it is"
        raise InputError(
            f"{path} was made with another teacher {name!r}: {about.teacher.sha256}, but {source} {digest}. Name the "
            f"file with those weights in params.yaml, `weights: {{{name}: PATH}}`."
        )
