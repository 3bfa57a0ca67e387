"""Seconds per stage of one switch."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tandem_api.registry import StageSpan


class Stopwatch:
    """Collects the stages of one switch of one member, in the order in which they end."""

    def __init__(self) -> None:
        self._spans: list[StageSpan] = []

    @property
    def spans(self) -> tuple[StageSpan, ...]:
        return tuple(self._spans)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage; it is recorded also when it fails."""
        began = time.time()
        at = time.perf_counter()
        try:
            yield
        finally:
            self._spans.append(StageSpan(stage=name, started_at=began, seconds=time.perf_counter() - at))
