"""Servers that live on between Infer phases: what Resident and Sleep have in common.

A command whose answer nobody has seen (the wait for it was cancelled) leaves a server in doubt. Such a server is not
spoken to again: it is killed, and another one takes its place.
"""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tandem_checkpoint.process.child import ChildGone
from tandem_checkpoint.process.commands import Abort, Bind, Fingerprinted, Go, ServerCommand, Sleep
from tandem_checkpoint.process.ranks import CommandRefused
from tandem_checkpoint.process.zygote import Server
from tandem_checkpoint.stopwatch import Stopwatch
from tandem_checkpoint.switch.strategies.strategy import Forker, Weights

logger = logging.getLogger(__name__)

ABORT_SECONDS = 5.0
"""Time for running requests to hand back what they have; then the server is killed."""


class Servers:
    """One server a command line, by place. All of them keep copies of the weights."""

    def __init__(self, zygote: Forker, commands: Sequence[Sequence[str]]) -> None:
        self._zygote = zygote
        self._commands = commands
        self._forked: dict[int, Server] = {}
        self._standing: set[int] = set()
        """Places of servers that have built their engines."""
        self._answering: set[int] = set()
        """Places of servers that generate."""
        self._in_doubt: set[int] = set()
        self._held_bytes: dict[int, int] = {}
        self._bound: Path | None = None

    @property
    def forked(self) -> tuple[Server, ...]:
        """All servers, those that have ended by themselves included."""
        return tuple(self._forked[place] for place in sorted(self._forked))

    @property
    def held_bytes(self) -> int:
        """Device memory of all servers when they last told, by their own measure."""
        return sum(self._held_bytes.values())

    async def complete(self) -> None:
        """Fork what is missing, and have it parse its arguments; a new server holds no device memory yet."""
        await self.bury()
        new = [place for place in range(len(self._commands)) if place not in self._forked]
        with self._doubting(new):
            forking = asyncio.create_task(self._fork(new), name="fork the servers")
            try:
                await asyncio.shield(forking)
            except asyncio.CancelledError:
                # Else a server would be left that nobody knows of, and so nobody kills.
                await asyncio.gather(forking, return_exceptions=True)
                raise
            await self._expect(new, "prepared")

    async def start(self, weights: Weights, stopwatch: Stopwatch) -> None:
        """Have each server that does not stand yet build its engine, and bind the weights once they may be bound."""
        with stopwatch.stage("start"):
            await self._build()
        manifest = await weights()
        with self._doubting(self._forked):
            with stopwatch.stage("load"):
                await self._send(self._forked, _bind(manifest))
                await self._expect(self._forked, "loaded")
            with stopwatch.stage("ready"):
                await self._expect(self._forked, "listening")
        self._answering.update(self._forked)
        self._bound = manifest

    async def revive(self) -> None:
        """Replace the servers that have ended by others with the weights that were bound last."""
        assert self._bound is not None
        await self.complete()
        new = sorted(self._forked.keys() - self._standing)
        await self._build()
        with self._doubting(new):
            await self._send(new, _bind(self._bound))
            await self._expect(new, "listening")
        self._answering.update(new)

    async def examine(self) -> Sequence[Fingerprinted]:
        """Return what each server that answers holds."""
        places = sorted(self._answering - self._in_doubt)
        with self._doubting(places):
            return await asyncio.gather(*(self._forked[place].examine() for place in places))

    async def abort(self) -> None:
        """End all generation; clients get what there is so far. What does not answer in time is in doubt."""
        await asyncio.gather(*(self._abort(place) for place in self._answering - self._in_doubt))

    async def put_to_sleep(self) -> None:
        """Have all servers that stand free their devices."""
        places = self._standing - self._in_doubt
        with self._doubting(places):
            await self._send(places, Sleep())
            await self._expect(places, "asleep")
        self._answering -= places

    async def bury(self) -> None:
        """Kill the servers whose state nobody knows; forget them and those that have ended."""
        await self._kill([place for place, it in self._forked.items() if it.ended.done() or place in self._in_doubt])

    async def first_end(self) -> str:
        """Return how the zygote ended, or that a server did, once one has."""
        zygote = asyncio.create_task(self._zygote.wait(), name="watch the zygote")
        ends: list[asyncio.Future[Any]] = [asyncio.shield(server.ended) for server in self.forked]
        try:
            await asyncio.wait([zygote, *ends], return_when=asyncio.FIRST_COMPLETED)
            return zygote.result() if zygote.done() else "a server has ended; its log has the cause"
        finally:
            zygote.cancel()

    async def close(self) -> None:
        """Kill all servers and the zygote; wait until every process is gone."""
        await self._kill(list(self._forked))
        await self._zygote.kill()

    async def _build(self) -> None:
        new = self._forked.keys() - self._standing
        with self._doubting(new):
            await self._send(new, Go())
            await self._expect(new, "loading")
        self._standing |= new

    async def _fork(self, places: Sequence[int]) -> None:
        for place in places:
            self._forked[place] = await self._zygote.fork(self._commands[place])

    async def _abort(self, place: int) -> None:
        try:
            async with asyncio.timeout(ABORT_SECONDS):
                with self._doubting([place]):
                    await self._send([place], Abort())
                    await self._expect([place], "aborted")
            self._answering.discard(place)
        except TimeoutError:
            logger.warning("a server did not abort its requests in %.0f s; it is killed", ABORT_SECONDS)
        except ChildGone as error:
            logger.warning("nothing to abort: %s", error)

    async def _send(self, places: Iterable[int], command: ServerCommand) -> None:
        for place in sorted(places):
            await self._forked[place].send(command)

    async def _expect(self, places: Iterable[int], step: str) -> None:
        chosen = sorted(places)
        answers = await asyncio.gather(*(self._forked[place].expect(step) for place in chosen))
        told = {place: answer.device_bytes for place, answer in zip(chosen, answers, strict=True)}
        self._held_bytes |= {place: held for place, held in told.items() if held is not None}

    async def _kill(self, places: Sequence[int]) -> None:
        servers = [self._forked.pop(place) for place in places]
        for known in (self._standing, self._answering, self._in_doubt):
            known.difference_update(places)
        for place in places:
            self._held_bytes.pop(place, None)
        await asyncio.gather(*(server.kill() for server in servers))

    @contextmanager
    def _doubting(self, places: Iterable[int]) -> Iterator[None]:
        """Doubt these servers, unless they are seen to have done what they were told, or one alone has refused it."""
        asked = set(places)
        self._in_doubt |= asked
        try:
            yield
        except CommandRefused:
            if len(asked) == 1:
                self._in_doubt -= asked
            raise
        self._in_doubt -= asked


def _bind(manifest: Path) -> Bind:
    return Bind(manifest=str(manifest), keeps_copy=True)
