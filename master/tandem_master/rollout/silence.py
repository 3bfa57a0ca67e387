"""A deadline for each next part of many answers. One timer looks at all of them: timers of their own, put off with each
part, would cost the event loop as much as reading does."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

NUM_LOOKS = 20
"""Looks within the time that an answer may be silent: it may be silent for so much longer before it is noticed."""


class Silence:
    """Ends what has not been heard for too long."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._heard_at: dict[asyncio.Timeout, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def limited(self) -> AsyncIterator[Callable[[], None]]:
        """Give what is to be called whenever something is heard.

        Errors: TimeoutError where that is not for too long, which ends what is done in the context.
        """
        clock = asyncio.get_running_loop().time
        async with asyncio.timeout(None) as timeout:
            self._heard_at[timeout] = clock()
            if self._timer is None:
                self._look_later()
            try:
                yield lambda: self._heard_at.__setitem__(timeout, clock())
            finally:
                del self._heard_at[timeout]

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._seconds / NUM_LOOKS, self._look)

    def _look(self) -> None:
        now, self._timer = asyncio.get_running_loop().time(), None
        for timeout, heard_at in self._heard_at.items():
            if now - heard_at >= self._seconds:
                timeout.reschedule(now)
        if self._heard_at:
            self._look_later()
