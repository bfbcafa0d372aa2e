"""Figures as markup inside the page: one that a strict policy lets through, and that follows light and dark."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

from PIL import Image

QUALITY = 80  # of WebP, in which pictures within a figure are stored
ENLARGED = 1.35  # on the page, where print's letters of 8 points would be small


def inline(path: Path, name: str) -> str:
    """The figure of an SVG file that Matplotlib wrote, ready to stand in a page.

    Styles become attributes, because the page's policy forbids styles of elements, and its style sheet can replace
    attributes by colours for a dark screen. Pictures become smaller, and its ids, which other figures have too, begin
    with `name`.

    Args:
        path: the file.
        name: of the figure, unique in the page.
    """
    text = path.read_text(encoding="utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'^<svg [^>]*?viewBox="([^"]+)"[^>]*>', _opening, text, count=1)
    text = re.sub(r' style="([^"]*)"', _attributes, text)
    text = re.sub(r"data:image/png;base64,([^\"]+)", _smaller, text)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda id_: f' id="{name}.{id_[1]}"' if id_[1] in used else "", text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}.", text)
    text = text.replace("xlink:href", "href")
    return re.sub(r">\s+<", "><", re.sub(r"\s*\n\s*", " ", text)).strip()


def _opening(tag: re.Match[str]) -> str:
    """The element with its size in CSS pixels, of which there are 96 in an inch of 72 points."""
    width, height = (float(side) * ENLARGED * 96 / 72 for side in tag[1].split()[2:])
    wide = ' class="wide"' if width > ENLARGED * 96 * 5 else ""  # inches: more than a column of a paper
    return f'<svg viewBox="{tag[1]}" width="{width:.0f}" height="{height:.0f}"{wide} aria-hidden="true">'


def _attributes(style: re.Match[str]) -> str:
    pairs = (pair.split(":", 1) for pair in style[1].split(";") if ":" in pair)
    return "".join(f' {name.strip()}="{value.strip()}"' for name, value in pairs)


def _smaller(picture: re.Match[str]) -> str:
    stream = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(picture[1]))) as image:
        image.save(stream, "WEBP", quality=QUALITY, method=2)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
