"""Tables as LaTeX, with booktabs rules, so that they fit a page."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

import pandas as pd

from benchmarks.records import Record
from reports.tables import Table
from reports.vocabulary import as_printed

ROWS, COLUMNS = 35, 8  # of one float: what a page holds, and what stays readable within its width


def latex(table: Table) -> str:
    """Floats with booktabs rules, and notes below; needs `\\usepackage{booktabs, graphicx}`.

    What is wider than a line is scaled down to it; a table of many rows or columns becomes several floats.
    """
    text = table.grid.map(
        lambda cell: (
            (rf"\textbf{{{_tex(cell.text)}}}" if cell.bold else _tex(cell.text))
            + (rf"\textsuperscript{{{table.marks[cell.note]}}}" if cell.note else "")
        )
    )
    text = text.rename(index=lambda label: _tex(as_printed(label)), columns=_head)
    text.columns.name = _tex(str(table.grid.index.name))
    parts = [
        text.iloc[row : row + ROWS, column : column + COLUMNS]
        for column in range(0, text.shape[1], COLUMNS)
        for row in range(0, len(text), ROWS)
    ]
    title, label = _tex(as_printed(table.title)), f"tab:{table.name}"
    captions = [rf"\caption{{{title}}}\label{{{label}}}"] + [rf"\caption{{{title} (continued)}}"] * (len(parts) - 1)
    floats = [_float(part, caption) for part, caption in zip(parts, captions, strict=True)]
    notes = [rf"\textsuperscript{{{mark}}}{_tex(note)}." for note, mark in table.marks.items()]
    below = "\n".join([*(_tex(sentence) for sentence in (*table.caption, *table.notices)), *notes])
    return "\n".join([*floats, rf"{{\footnotesize\sloppy\noindent Table~\ref{{{label}}}: {below}\par}}", ""])


def _head(label: str) -> str:
    """The head of a column; one of several facets takes as many lines, to be narrow."""
    lines = [_tex(as_printed(line)) for line in label.split(": ")]
    stacked = r" \\ ".join(lines)
    return rf"\shortstack[r]{{{stacked}}}" if len(lines) > 1 else stacked


def _float(part: pd.DataFrame, caption: str) -> str:
    rows = [[str(part.columns.name), *part.columns], *part.itertuples(name=None)]
    head, *body = (" & ".join(row) + r" \\" for row in rows)
    tabular = "\n".join(
        [rf"\begin{{tabular}}{{l{'r' * part.shape[1]}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule",
         r"\end{tabular}"]
    )  # fmt: skip
    fitted = rf"\resizebox{{\ifdim\width>\linewidth\linewidth\else\width\fi}}{{!}}{{{tabular}}}"
    return "\n".join([r"\begin{table}[htbp]", r"\centering", caption, fitted, r"\end{table}"])


TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "[": "{[}",  # after a line's end it would begin an option, as * would
    "]": "{]}",
    "*": "{*}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "±": r"$\pm$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{MINUS SIGN}": "$-$",
    "\N{EN DASH}": "--",
    "—": "---",
    "…": r"\dots{}",
    "·": r"$\cdot$",
    "→": r"$\to$",
}
OGONEK = "0328"  # an accent that LaTeX's default fonts do not have


@cache
def _tex(text: str) -> str:
    """Text as LaTeX prints it with no package; characters that it does not have by their number, U+4E2D."""
    words = " ".join(text.split())
    return re.sub(r"(?<![\w.$-])-(?=\d)", "$-$", "".join(map(_character, words)))


def _character(of: str) -> str:
    accented = unicodedata.decomposition(of)
    if of in TEX or of.isascii():
        return TEX.get(of, of)
    if accented and of < "\u0180" and accented[0] != "<" and OGONEK not in accented:
        return of
    return rf"\texttt{{U+{ord(of):04X}}}"


def figure(name: str, title: str, description: str) -> str:
    """A float that shows the figure's PDF file; needs `\\usepackage{graphicx}`."""
    caption = rf"\caption{{{_tex(as_printed(title))}. {_tex(description)}}}\label{{fig:{name}}}"
    lines = [
        r"\begin{figure}[htbp]",
        r"\centering",
        rf"\includegraphics{{figures/{name}.pdf}}",
        caption,
        r"\end{figure}",
    ]
    return "\n".join([*lines, ""])


def bibtex(record: Record) -> str:
    """The paper of a record's method as a BibTeX entry; one that is not "AUTHORS, TITLE, VENUE" becomes a note."""
    found = re.fullmatch(r"(.+?(?: et al\.| (?:and|&) [\w-]+)), (.+?), (.+)", record.paper)
    fields = {"note": record.paper}
    if found:
        authors = re.sub(r", | & ", " and ", found[1]).replace(" et al.", " and others")
        year = re.search(r"\b(?:19|20)\d\d\b(?!\.)", found[3])
        fields = {
            "author": authors,
            "title": f"{{{found[2]}}}",
            "howpublished": found[3],
            "year": year[0] if year else "",
        }
    lines = "".join(f"  {name} = {{{text}}},\n" for name, text in fields.items())
    return f"@misc{{{record.variant if record.is_imported else record.method},\n{lines}}}\n"
