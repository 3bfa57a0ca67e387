"""A zygote that is always there: made again when it ends, and when it has grown too much.

A zygote that has grown is replaced by a new one; it goes once its last server has ended, since a server dies with its
parent. One that ends too often is given up.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Self

from tandem_checkpoint.process.backoff import Backoff
from tandem_checkpoint.process.child import ChildGone
from tandem_checkpoint.process.leftovers import Sweeper
from tandem_checkpoint.process.memory import MemoryLimit, resident_bytes
from tandem_checkpoint.process.zygote import Server, Zygote

logger = logging.getLogger(__name__)


class _GivenUp(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """It has ended too often; the message says how it did last."""


class ZygoteKeeper:
    """Holds one live zygote."""

    def __init__(self, make: Callable[[], Awaitable[Zygote]], backoff: Backoff, limit: MemoryLimit) -> None:
        self._make = make
        self._backoff = backoff
        self._limit = limit
        self._live: Zygote | None = None
        self._first_bytes = 0
        self._ending: str | None = None
        self._changed = asyncio.Condition()
        self._has_grown = asyncio.Event()
        self._retired: dict[Zygote, asyncio.Task[None]] = {}
        self._keeping = asyncio.create_task(self._keep(), name="keep a zygote")

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        environment: Mapping[str, str],
        inherit: Sequence[int],
        deadline_seconds: float,
        *,
        backoff: Backoff | None = None,
        limit: MemoryLimit | None = None,
    ) -> Self:
        """Start the first zygote and wait until it has imported everything; raise ChildGone where none comes up."""
        make = partial(Zygote.start, argv, environment, inherit, deadline_seconds, Sweeper())
        keeper = cls(make, backoff or Backoff(), limit or MemoryLimit())
        try:
            await keeper._other_than(None)
        except BaseException:  # a cancelled start too leaves no process; it is raised again
            await keeper.kill()
            raise
        return keeper

    @property
    def pid(self) -> int | None:
        """Process id of the live zygote; None while there is none."""
        return self._live.pid if self._live else None

    async def fork(self, arguments: Sequence[str]) -> Server:
        """Fork a server, once a zygote lives; raise ChildGone where none comes up any more."""
        zygote = await self._other_than(None)
        while True:
            try:
                server = await zygote.fork(arguments)
            except ChildGone as error:
                logger.warning("%s; forking from the next one", error)
            except TimeoutError as error:
                logger.warning("%s; killing it", error)
                await zygote.kill()
            else:
                self._look_at_memory(zygote)
                return server
            zygote = await self._other_than(zygote)

    async def wait(self) -> str:
        """Return how the zygote ended last, once it is given up."""
        return await asyncio.shield(self._keeping)

    async def kill(self) -> None:
        """End every zygote; their servers die with them."""
        self._keeping.cancel()
        await asyncio.wait({self._keeping})
        zygotes = [*self._retired, *([self._live] if self._live else [])]
        for task in self._retired.values():
            task.cancel()
        await self._announce(None, "the vLLM zygote was stopped")
        await asyncio.gather(*(zygote.kill() for zygote in zygotes))

    async def _keep(self) -> str:
        """Keep a zygote alive; return how the last one ended once that has happened too often."""
        try:
            zygote = await self._next()
            while True:
                await self._announce(zygote)
                if await self._grows(zygote):
                    logger.info("zygote %d has grown beyond its limit; a new one takes its place", zygote.pid)
                    successor = await self._next()
                    self._retired[zygote] = asyncio.create_task(self._retire(zygote), name="retire a zygote")
                else:
                    await self._announce(None)
                    await self._pause(await zygote.wait())
                    successor = await self._next()
                zygote = successor
        except _GivenUp as ending:
            await self._announce(None, str(ending))
            return str(ending)

    async def _next(self) -> Zygote:
        """Return a new zygote, after as many tries as it takes."""
        while True:
            try:
                return await self._make()
            except (ChildGone, TimeoutError) as error:
                await self._pause(str(error) or "the vLLM zygote was not ready in time")

    async def _pause(self, ending: str) -> None:
        """Wait before the next start, the longer the more have ended of late; raise _GivenUp after too many."""
        seconds = self._backoff.note_end(time.monotonic())
        if seconds is None:
            raise _GivenUp(ending)
        logger.warning("%s; starting another one in %.1f s", ending, seconds)
        await asyncio.sleep(seconds)

    async def _grows(self, zygote: Zygote) -> bool:
        """Wait until a zygote has grown too much (True) or has ended."""
        grows = asyncio.create_task(self._has_grown.wait(), name="zygote grows")
        ends = asyncio.create_task(zygote.wait(), name="zygote ends")
        try:
            await asyncio.wait({grows, ends}, return_when=asyncio.FIRST_COMPLETED)
            return not ends.done()
        finally:
            grows.cancel()
            ends.cancel()

    async def _retire(self, zygote: Zygote) -> None:
        await zygote.all_ended()
        await zygote.kill()
        del self._retired[zygote]

    async def _announce(self, zygote: Zygote | None, ending: str | None = None) -> None:
        """Tell those who wait for a zygote that there is another one, none just now, or (`ending`) none any more."""
        async with self._changed:
            self._live, self._ending = zygote, ending
            self._has_grown.clear()
            self._first_bytes = resident_bytes(zygote.pid) if zygote else 0
            self._changed.notify_all()

    async def _other_than(self, zygote: Zygote | None) -> Zygote:
        """Wait for a live zygote that is another one than this; raise ChildGone where none will come."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._ending or self._live not in (None, zygote))
            if self._live is None:
                raise ChildGone(self._ending)
            return self._live

    def _look_at_memory(self, zygote: Zygote) -> None:
        if zygote is self._live and self._limit.is_exceeded(self._first_bytes, resident_bytes(zygote.pid)):
            self._has_grown.set()
