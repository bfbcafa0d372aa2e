"""A stored model as an ONNX file, for programs without PyTorch; written only if it gives what the model gives.

Input `images`: (B, 3, image_size, image_size) float32, RGB in [0, 1]; the normalisation is in the graph. Outputs
`scores`, (B,), and `maps`, (B, h, w). Everything is computed in float32, whatever the run's precision.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.datasets.base import Dataset
from benchmarks.execution.predict import own_test_images
from benchmarks.execution.stored_model import Fitted
from benchmarks.storage.model_files import ENTRY
from methods.base import InputError
from methods.components import feature_cache
from methods.components.atomic import replacing

TOLERANCE = 1e-4
TRIED = 3  # images; another number than in the export, so that the size of a batch is seen to be free


class Exported(NamedTuple):
    """How far the outputs of the ONNX file are from the model's, as a share of the largest magnitude of the latter."""

    difference: float
    tried: str  # on what


def export(fitted: Fitted, out: Path, source: Dataset | None, tolerance: float = TOLERANCE) -> Exported:
    """Write a model as ONNX, once ONNX Runtime gives the same scores and maps as PyTorch.

    Args:
        fitted: on the CPU.
        source: the run's data set, with whose test images it is tried; None: with random ones.
        tolerance: the largest difference that is accepted, see `Exported`.

    Raises:
        InputError: the extra `export` is not installed, the method has no network, PyTorch cannot export it, or the
            difference is larger than accepted.
    """
    network = fitted.method.network()
    if network is None:
        raise InputError(f"The method {fitted.about.method!r} is no single network: it cannot be exported.")
    images, tried = _images(fitted, source)
    expected = [output.numpy() for output in network(images)]
    with replacing(out) as partial:
        _export(fitted, network, images[:2], partial)
        difference = _difference(expected, _run(partial, images))
        if not difference <= tolerance:
            raise InputError(
                f"The ONNX file of {fitted.run} differs from the model by {difference:.1e} of the largest value, on "
                f"{tried}, more than {tolerance:.0e}. It is not written; `--tolerance` accepts more."
            )
    return Exported(difference, tried)


def _images(fitted: Fitted, source: Dataset | None) -> tuple[Tensor, str]:
    """Some images in [0, 1], (TRIED, 3, s, s), and what they are."""
    size = fitted.about.image_size
    if size is None:
        raise InputError(f"The method {fitted.about.method!r} has no image size: it cannot be exported.")
    if source and len(samples := list(own_test_images(fitted, source).values())) >= TRIED:
        rows = feature_cache.load_images(samples[:: len(samples) // TRIED][:TRIED], size, None)
        return rows[range(TRIED)] / 255, f"{TRIED} test images"
    return torch.rand(TRIED, 3, size, size, generator=torch.Generator().manual_seed(0)), f"{TRIED} random images"


def _export(fitted: Fitted, network: nn.Module, images: Tensor, path: Path) -> None:
    try:
        import onnx  # noqa: F401 - the exporter needs it
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"`proctor export-model` needs a package that is not installed ({error}). Install the extra, "
            "`pip install 'proctor[export]'` (in the checkout `pip install -e '.[export]'`)."
        ) from None
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                network, (images,), dynamo=True, verbose=False, input_names=["images"],
                output_names=["scores", "maps"], dynamic_shapes=({0: torch.export.Dim("batch")},),
            )  # fmt: skip
            program.model.metadata_props[ENTRY] = fitted.about.model_dump_json(by_alias=True)
            program.save(path)
    except OSError:
        raise
    except Exception as error:  # the exporter raises errors of many kinds
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"PyTorch {torch.__version__} cannot export the model of {fitted.run} to ONNX ({type(error).__name__}: "
            f"{reason})."
        ) from error


def _run(path: Path, images: Tensor) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(["scores", "maps"], {"images": images.numpy()})
    return outputs


def _difference(expected: list[np.ndarray], given: list[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(expected, given, strict=True))
