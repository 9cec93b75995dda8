"""What an expression of Prometheus asks for: its series with their selectors, and what it groups by."""

from __future__ import annotations

import re

#: Every series has these of the scrape.
OF_THE_SCRAPE = {"instance", "job"}

_TEXT = re.compile(r'"[^"]*"|\'[^\']*\'')
_RANGE = re.compile(r"\[[^\]]*\]|\boffset \w+")
_GROUPING = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")
_SERIES = re.compile(r"(?<![\w:])([a-zA-Z_:][\w:]*)\s*(?:\{([^}]*)\})?(?!\w*\s*\()")
_WORDS = {"and", "or", "unless", "bool"}


def series(expression: str) -> list[tuple[str, set[str]]]:
    """(metric, labels that it is selected by) of each series in the expression."""
    plain = _GROUPING.sub("", _RANGE.sub("", _TEXT.sub('""', expression)))
    return [
        (name, {re.split(r"[=!]", each)[0].strip() for each in selected.split(",") if each.strip()} - OF_THE_SCRAPE)
        for name, selected in _SERIES.findall(plain)
        if name not in _WORDS
    ]


def grouped(expression: str) -> set[str]:
    """The labels that the expression groups or matches by."""
    found = _GROUPING.findall(_TEXT.sub('""', expression))
    return {name.strip() for names in found for name in names.split(",")} - OF_THE_SCRAPE
