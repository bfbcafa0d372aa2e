"""How messages write numbers of things. A leaf."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun in the right form.

    >>> counted(1, "run"), counted(2, "run"), counted(0, "category", "categories")
    ('1 run', '2 runs', '0 categories')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
