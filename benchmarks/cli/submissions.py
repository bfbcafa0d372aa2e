"""Commands on submissions: write, verify, export and import anomaly maps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import params as parameters
from benchmarks import plan as plans
from benchmarks import results
from benchmarks.cli.app import SUBMISSIONS, DateOption, JsonOption, RecordOption, app, say, wide_console
from benchmarks.wording import counted


@app.command(rich_help_panel=SUBMISSIONS)
def export(
    variant: str,
    dataset: str,
    protocol: str,
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder; for MVTec AD 2 a new archive, x.tar.gz.")],
    seed: Annotated[int, typer.Option(help="The seed whose maps to export.")] = 0,
    threshold: Annotated[
        str, typer.Option(help="MVTec AD 2: mean+Kstd of validation pixels, or a number.")
    ] = "mean+3std",
) -> None:
    """Write anomaly maps in the official layout of MVTec AD, MVTec LOCO or MVTec AD 2's server."""
    from benchmarks.submissions import export as exporting

    plan = plans.read(results.RESULTS)
    runs = plans.select(plan, variant=variant, dataset=dataset, protocol=protocol, seed=seed).runs
    count = exporting.export(runs, out, threshold)
    say(f"{out}: {counted(count, 'anomaly map')}")


@app.command("import", rich_help_panel=SUBMISSIONS)
def import_(
    source: Annotated[
        Path, typer.Argument(metavar="DIR", help="It holds CATEGORY/test/DEFECT/STEM.tiff, .png or .npy.")
    ],
    variant: Annotated[str, typer.Option(help="A variant of params.yaml with `method: imported`.")],
    dataset: Annotated[str, typer.Option(help="Whose test images the maps are of.")],
    protocol: Annotated[str, typer.Option(help="How the method was trained.")],
    seed: Annotated[int, typer.Option(help="Which of the suite's seeds the maps are.")] = 0,
    scores: Annotated[
        Path | None,
        typer.Option(help="CSV file of image scores, columns `image` and `score`; default: the maximum of each map."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an import of this seed.")] = False,
) -> None:
    """Import anomaly maps that other software made, as a run to be scored like any other."""
    from benchmarks.submissions import importing

    group = importing.Group(variant, dataset, protocol)
    imported = importing.write(source, parameters.load(), group, seed, scores, replace=force)
    for notice in imported.notices:
        say(f"notice: {notice}")
    how = f"image scores from {scores}" if scores else "image score: maximum of the map"
    say(f"{imported.folder}: {counted(imported.maps, 'anomaly map')}, {how}. `dvc repro` scores them.")


@app.command(rich_help_panel=SUBMISSIONS)
def bundle(
    runs: Annotated[list[str], typer.Argument(help="Groups, or runs as `proctor status` names them; of one group.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle to write, x.tar.gz.")],
    licence: Annotated[str, typer.Option(help="Of maps and numbers: an SPDX identifier, such as CC-BY-4.0.")],
    contact: Annotated[str, typer.Option(help="Whom to ask: an e-mail address or a web page.")],
    name: Annotated[str | None, typer.Option(help="Title of the submission; default: the variant.")] = None,
    url: Annotated[str | None, typer.Option(help="A page about it.")] = None,
    weights: Annotated[bool, typer.Option("--weights", help="Include the runs' models.")] = False,
    weights_file: Annotated[
        list[Path] | None, typer.Option(help="A further .safetensors file to include; may be repeated.")
    ] = None,
    record: RecordOption = None,
    on: DateOption = None,
) -> None:
    """Write a submission that anyone can score again: maps, scores, claimed values and how they were made."""
    from benchmarks.submissions import bundle as bundles
    from benchmarks.submissions import leaderboard

    manifest, digest = bundles.write(
        out, runs, licence=licence, contact=contact, name=name, url=url, models=weights, weights=weights_file or ()
    )
    say(f"{out}: {counted(len(manifest.maps), 'map')}, {counted(len(manifest.claims), 'claimed value')}")
    say(f"SHA-256 {digest}")
    if record:
        leaderboard.write_record(record, leaderboard.make_record(manifest, out, digest, on))


@app.command(rich_help_panel=SUBMISSIONS)
def verify(
    bundle: Annotated[Path, typer.Argument(help="The bundle, x.tar.gz.")],
    data: Annotated[
        Path | None, typer.Option(help="Root of your copy of the data set; default as for a suite.")
    ] = None,
    record: RecordOption = None,
    on: DateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Recompute every claimed value of a bundle from its maps and your own copy of the data."""
    from benchmarks.submissions import leaderboard
    from benchmarks.submissions import verify as verification

    report = verification.verify(bundle, data)
    if as_json:
        print(json.dumps(report.as_json(), indent=1))
    else:
        wide_console().print(verification.table(report))
    for sentence in verification.summary(report):
        say(sentence)
    if not report.agrees:
        raise typer.Exit(1)
    if record:
        revision = verification.data_revision(report, data)
        entry = leaderboard.make_record(report.manifest, bundle, report.sha256, on, revision)
        leaderboard.write_record(record, entry)
