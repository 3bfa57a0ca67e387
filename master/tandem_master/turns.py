"""How long a thread may keep the interpreter from the event loop."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 0.002
"""Python's own 5 ms are what an answer may take in all. Half a millisecond is no better: threads that write and decode
mostly run without the interpreter, and each turn costs."""


@contextmanager
def short_turns() -> Iterator[None]:
    """Have threads give way sooner while the context is open."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
