"""Tables as text."""

from __future__ import annotations

import math
from collections.abc import Sequence


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """
    Align columns, the first to the left and the others to the right.

    >>> print(text_table(["site", "KL"], [["head.weight", "1.5"], ["b", "10.25"]]))
    site            KL
    head.weight    1.5
    b            10.25
    """
    lines = [header, *rows]
    widths = [max(len(line[k]) for line in lines) for k in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if k == 0 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def number(value: float | None) -> str:
    """
    Write a number in a table: four digits where it is small, whole where it is large.

    >>> number(1234567.8), number(12.3456), number(0.0), number(None), number(1e-7)
    ('1,234,568', '12.35', '0', '-', '1e-07')
    """
    if value is None:
        return "-"
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size < 1e-3:
        return f"{value:.0e}"
    return f"{value:,.{min(4, max(0, 3 - math.floor(math.log10(size))))}f}"
