"""Seconds per stage of one switch."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tandem_api.registry import StageSpan


class Stopwatch:
    """Collects the stages and waits of one switch of one member, in the order in which they end."""

    def __init__(self) -> None:
        self._spans: list[StageSpan] = []

    @property
    def spans(self) -> tuple[StageSpan, ...]:
        return tuple(self._spans)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage; it is recorded also when it fails."""
        with self._timed(name, waits=False):
            yield

    @contextmanager
    def wait(self, name: str) -> Iterator[None]:
        """Time a wait for somebody else. `name`: what for, see StageSpan."""
        with self._timed(name, waits=True):
            yield

    def since(self, began: float, name: str) -> None:
        """Record a wait that began at a Unix time, and has ended now; another pod's clock may be ahead of ours."""
        self._spans.append(StageSpan(stage=name, started_at=began, seconds=max(0.0, time.time() - began), waits=True))

    @contextmanager
    def _timed(self, name: str, *, waits: bool) -> Iterator[None]:
        began = time.time()
        at = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - at
            self._spans.append(StageSpan(stage=name, started_at=began, seconds=seconds, waits=waits))
