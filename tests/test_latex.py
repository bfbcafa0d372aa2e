"""LaTeX of the tables: what a real LaTeX makes of it, where there is one, and names that it would stumble over."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import factories
import pandas as pd
import pytest

from reports import specs as report_specs
from reports import tables
from reports.build import build
from reports.render import latex

ODD = ["50%_a&b", "[x] *y*", "#1 {z}$", "a\\b~c^d", "naïve Übung", "中文 λ", "é<f>|g", "-1.5"]
SPEC = {"title": "{metric} · {dataset}", "each": ["dataset", "protocol", "metric", "subset"]}


def tidy(variant: str, category: str, seed: int = 0, **other: str | float) -> dict[str, str | float]:
    return {
        "variant": variant, "method": variant, "dataset": "mvtec_ad", "protocol": "one_class", "category": category,
        "seed": seed, "subset": "all", "metric": "aupro", "convention": "pooled, FPR<=0.3, mask>0, 128 px",
        "selection": "last", "teacher": "t (random)", "value": 0.9 + seed / 100, "reason": "", "images": 8,
        "anomalous": 4, "fingerprint": "f", "record": "",
    } | other  # fmt: skip


def written(rows: list[dict[str, str | float]]) -> str:
    spec = SPEC | {"rows": "category", "columns": "variant"}
    (table,) = tables.tables("t", spec, factories.cells(rows), [])
    return latex.latex(table)


def test_a_table_of_many_rows_and_columns_becomes_several_floats_with_one_label_and_every_row() -> None:
    text = written([tidy(f"v{v:02}", f"c{c:02}") for v in range(10) for c in range(40)])
    assert text.count(r"\begin{table}") == 4 and text.count("(continued)") == 3 and text.count(r"\label") == 1
    assert len(re.findall(r"^c\d\d &", text, re.MULTILINE)) == 2 * 40
    assert len(re.findall(r"& v\d\d", text)) == 2 * 10  # the heads of both parts of either half


def test_what_latex_would_read_is_escaped_and_what_it_lacks_is_named() -> None:
    text = written([tidy("rd", name) for name in ODD])
    for said in (r"50\%\_a\&b", "{[}x{]} {*}y{*}", r"\#1 \{z\}\$", "naïve Übung", r"\texttt{U+4E2D}", "$-$1.5"):
        assert said in text
    assert "\N{EN DASH}" not in text and "±" not in text


@pytest.fixture(scope="module")
def pdf(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Path]]:
    """The log of a document with all tables of a report that has odd names, many rows and papers' tables."""
    if not shutil.which("pdflatex"):
        pytest.skip("no pdflatex here; Debian and Ubuntu have it in texlive-latex-recommended")
    folder = tmp_path_factory.mktemp("latex")
    rows = [tidy(v, "screw", s, metric=m) for v in ("rd", "fd") for s in (0, 1) for m in ("image_auroc", "aupro")]
    rows += [tidy(v, c, s, dataset="folder") for v in ("rd", "rd_50%", "fd") for c in ODD for s in (0, 1, 2)]
    rows += [tidy(f"v{v:02}", f"c{c:02}", dataset="toy") for v in range(10) for c in range(40)]
    (folder / "scores").mkdir()
    pd.DataFrame(rows).to_csv(folder / "scores" / "all.csv", index=False)
    specs = folder / "specs"
    specs.mkdir()
    for path in report_specs.FOLDER.glob("*.yaml"):
        if "figure:" not in path.read_text():
            (specs / path.name).write_bytes(path.read_bytes())
    files = sorted((build(folder, folder / "build", specs).parent / "tables").glob("*.tex"))
    body = "\n".join(rf"\input{{{path}}}\clearpage" for path in files)
    text = "\n".join(
        [r"\documentclass{article}", r"\usepackage{booktabs, graphicx}", r"\begin{document}", body, r"\end{document}"]
    )
    (folder / "all.tex").write_text(text)
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "all.tex"],
        cwd=folder, capture_output=True, text=True, errors="replace", timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout, files


def test_every_table_compiles(pdf: tuple[str, list[Path]]) -> None:
    log, files = pdf
    assert "Output written on all.pdf" in log
    kinds = {path.name.split("-")[0] for path in files}
    assert {"summary", "per_category", "ledger", "verdicts", "rd_means", "fd_checkpoints", "ranks"} <= kinds


def test_every_table_fits_its_page(pdf: tuple[str, list[Path]]) -> None:
    log, _ = pdf
    assert "Float too large" not in log
    wide = [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt too wide\) in paragraph", log)]
    assert not [points for points in wide if points > 10]
