"""A row of numbers as a row of blocks."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

_BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int) -> str:
    """Return at most `width` blocks, oldest first, scaled from the smallest to the largest of them.

    More values than blocks are averaged in stretches of nearly equal length.
    """
    points = _averaged(values, width)
    if not points:
        return ""
    low, high = min(points), max(points)
    if high == low:
        return _BLOCKS[3] * len(points)
    return "".join(_BLOCKS[round((point - low) / (high - low) * (len(_BLOCKS) - 1))] for point in points)


def _averaged(values: Sequence[float], width: int) -> list[float]:
    if len(values) <= width:
        return list(values)
    if width < 1:
        return []
    bounds = [index * len(values) // width for index in range(width + 1)]
    return [fmean(values[start:end]) for start, end in pairwise(bounds)]
