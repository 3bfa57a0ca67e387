"""The garbage collector, out of the way of what must answer within milliseconds."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG, MIDDLE, FULL = 700, 7_000, 1_000_000
"""Objects that are made between two young collections, young ones between two of the middle generation, and those of
the middle between two full ones. A collection stops everything for as long as it walks: half a millisecond here with
so few young objects; seconds where all that lives is walked, with 100,000 trajectories. So the middle generation is
left alone until some five million objects are in it. What each request leaves of cycles, some 5 KB of httpx, waits.
"""


@contextmanager
def kept_aside() -> Iterator[None]:
    """Leave all that lives now out of collections while the context is open, and put full ones off until its end.

    What is no part of a cycle is freed at once all the same; trajectories are not.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, FULL)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
