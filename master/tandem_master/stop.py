"""The order to stop (SIGTERM), and how long a piece of work may go on after it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from tandem_master.errors import Stopped

T = TypeVar("T")


class StopSignal:
    """Set once, by SIGTERM."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    def request(self) -> None:
        """Ask the loop to end; asking twice changes nothing."""
        self._event.set()

    def check(self) -> None:
        """Raise Stopped where a stop was asked for."""
        if self.requested:
            raise Stopped

    async def within(self, seconds: float) -> bool:
        """Wait for so long; tell whether a stop was asked for before or meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        return True

    async def bound(self, work: Coroutine[Any, Any, T], *, grace_seconds: float) -> T:
        """Return what `work` returns; after a stop it has `grace_seconds` to end, then it is cancelled.

        Errors: Stopped where it was cancelled, and those of `work`.
        """
        task = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(self._event.wait())
        try:
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await asyncio.wait({task}, timeout=grace_seconds)
            if not task.done():
                raise Stopped
            return task.result()
        finally:
            task.cancel()
            stopped.cancel()
            await asyncio.gather(task, stopped, return_exceptions=True)
