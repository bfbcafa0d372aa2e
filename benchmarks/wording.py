"""How messages write numbers and names of things. A leaf."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun in the right form.

    >>> counted(1, "run"), counted(2, "run"), counted(0, "category", "categories")
    ('1 run', '2 runs', '0 categories')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def printable(text: str) -> str:
    """A text for the terminal: what names of files may hold to control it is written out; line breaks stay.

    >>> print(printable("\\x1b[31mred\\udcfc.png"))
    \\x1b[31mred\\udcfc.png
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
