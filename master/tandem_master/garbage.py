"""The garbage collector, out of the way of what must answer within milliseconds."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG, FULL = 20_000, 1_000
"""Objects that are made between two young collections, and collections of the middle generation between two full ones.
A full collection walks all that lives: with 100,000 trajectories it would stop the master for a second, each time.
"""


@contextmanager
def kept_aside() -> Iterator[None]:
    """Leave all that lives now out of collections while the context is open, and put full ones off until its end.

    What is no part of a cycle is freed at once all the same; trajectories are not.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(YOUNG, before[1], FULL)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
