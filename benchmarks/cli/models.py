"""Commands on stored models: predict other images, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks import params as parameters
from benchmarks import plan as plans
from benchmarks import results
from benchmarks.cli.app import MODELS, app, console, say
from benchmarks.wording import counted
from methods.base import InputError

RunArgument = Annotated[str, typer.Argument(help="As `proctor status` names it: GROUP/SPLIT-seedK.")]


@app.command(rich_help_panel=MODELS)
def predict(
    run: RunArgument,
    images: Annotated[list[str], typer.Argument(help="Files, folders, or patterns in quotes.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder for scores.csv, maps/ and overlays/.")],
    quantile: Annotated[
        float, typer.Option(min=0, max=1, help="Of the scores of normal images, above which one is anomalous.")
    ] = 0.95,
    category: Annotated[
        str | None, typer.Option(help="Take the threshold from this category alone, of a multi-class model.")
    ] = None,
    normal: Annotated[
        list[str] | None, typer.Option(help="Normal images to take the threshold from; may be repeated.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Predict images of your own with a run's stored model: scores, anomaly maps, and which are anomalous."""
    from benchmarks.execution import image_arguments, stored_model
    from benchmarks.execution import predict as predicting

    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out} exists already: name a new folder with --out, or remove it.")
    if normal and category:
        raise InputError("--normal and --category both say where the threshold comes from: give one of them.")
    chosen, reference = image_arguments.find(images), image_arguments.find(normal or [])
    values = parameters.load()
    fitted = stored_model.load(run, values.weight_files, _device(device))
    _say_if_stale(fitted.run, fitted.about.fingerprint)
    source = predicting.dataset_of(fitted, values.roots)
    if source is None:
        say(f"notice: {fitted.about.dataset} cannot be read here: images are read without its dataset.yaml.")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        tasks = {name: bar.add_task(name, total=None) for name in ("reading", "predicting")}

        def advance(name: str, done: int, total: int) -> None:
            bar.update(tasks[name], completed=done, total=total)

        if reference:
            if failed := predicting.unreadable(reference, source):
                raise InputError("\n".join(failed.values()))
            threshold = predicting.threshold_of(list(predicting.predict(fitted, reference, source)), quantile)
        else:
            threshold = predicting.stored_threshold(fitted, quantile, category)
        summary = predicting.write(fitted, chosen, out, threshold, source, advance)
    say(f"threshold {threshold.value:.6g}: {threshold.rule}.")
    done = summary.images - len(summary.failed)
    say(f"{out}: {counted(done, 'image')}, of which {summary.anomalous} anomalous, in scores.csv, maps/ and overlays/.")
    for reason in summary.failed.values():
        say(reason)
    if summary.failed:
        say(f"{counted(len(summary.failed), 'image')} could not be read; scores.csv names the reason of each.")
        raise typer.Exit(1)


@app.command(rich_help_panel=MODELS)
def export_model(
    run: RunArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write, x.onnx.")],
    tolerance: Annotated[
        float, typer.Option(min=0, help="Largest difference from the model, as a share of the largest value.")
    ] = 1e-4,
) -> None:
    """Write a run's stored model as ONNX, checked with ONNX Runtime against the model itself."""
    from benchmarks.execution import onnx_export, stored_model
    from benchmarks.execution import predict as predicting

    if out.exists() or out.suffix != ".onnx":
        reason = "exists already" if out.exists() else "does not end in .onnx"
        raise InputError(f"{out} {reason}: name a new file, x.onnx.")
    values = parameters.load()
    fitted = stored_model.load(run, values.weight_files, "cpu")
    _say_if_stale(fitted.run, fitted.about.fingerprint)
    exported = onnx_export.export(fitted, out, predicting.dataset_of(fitted, values.roots), tolerance)
    size = fitted.about.image_size
    say(
        f"{out}: `images` (B, 3, {size}, {size}) float32, RGB in [0, 1], to `scores` (B,) and `maps`. Largest "
        f"difference from the model on {exported.tried}: {exported.difference:.1e} of the largest value."
    )


def _device(wanted: str) -> str:
    import torch

    if wanted not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device is {wanted!r}; it may be auto, cpu or cuda.")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError(f"torch {torch.__version__} finds no GPU here: use --device cpu.")
    return wanted if wanted != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _say_if_stale(run: str, fingerprint: str) -> None:
    """A model is used as it is, also where the plan has moved on."""
    try:
        planned = {entry.name: entry.fingerprint for entry in plans.read(results.RESULTS).runs}
    except InputError:  # nothing is planned
        return
    if planned.get(run, fingerprint) != fingerprint:
        say(f"notice: {run} is stale (`proctor plan --why {run}`): this is its model as it was stored.")
