"""The garbage collector, out of the way of what must answer within milliseconds."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG, MIDDLE, FULL = 2_000, 1, 1_000_000
"""Objects that are made between two young collections, young ones between two of the middle generation, and those
between two full ones. A collection stops everything for as long as it walks: young ones, where they come often, for a
millisecond or two; a full one, of all that lives, for a second with 100,000 trajectories.
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
