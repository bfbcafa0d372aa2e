"""One file per figure: a spec names it, and its `draw` gets the rows of the spec's source and returns the figure.

Figures from `cells` get the rows of `aggregate.aggregate`; those from `details` one row per category and seed, with the
parsed file in `details` and the paths of arrays beside it; those from `losses` and `trajectory` one row per epoch and
term or metric of every run. What figures share, colours and sizes above all, is in `_style.py`.

Matplotlib is imported where a figure is drawn: a report whose figures were drawn before does without it.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pandas as pd

from methods.base import did_you_mean
from reports.specs import figure_names
from reports.vocabulary import as_printed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reports.figures._style import Drawing

SUFFIXES = (".svg", ".pdf")
DPI = 160  # of pictures within a figure; all else is drawn as lines


def draw(name: str, data: pd.DataFrame) -> Drawing:
    """The figure of `reports/figures/NAME.py`.

    Raises:
        ValueError: there is no such file, or the data have nothing to draw.
    """
    from matplotlib import rc_context

    from reports.figures._style import STYLE

    names = {"variant": data.variant.map(as_printed)} if "variant" in data else {}
    if "tied" in data:
        names["tied"] = data.tied.map(lambda tied: [as_printed(variant) for variant in tied])
    with rc_context(STYLE):
        drawing: Drawing = _module(name).draw(data.assign(**names))
    return drawing


def _module(name: str) -> ModuleType:
    if name not in (known := figure_names()):
        raise ValueError(f"unknown figure '{name}'. {did_you_mean(name, known)}")
    return import_module(f"{__name__}.{name}")


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.svg and `stem`.pdf without dates or versions: the same figure gives the same bytes."""
    from matplotlib import rc_context

    from reports.figures._style import STYLE

    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(stem.name + suffix) for suffix in SUFFIXES]
    with rc_context(STYLE):
        figure.savefig(paths[0], dpi=DPI, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        figure.set_layout_engine(None)  # the layout stands: laying out takes most of the time
        figure.savefig(paths[1], dpi=DPI, metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return paths
