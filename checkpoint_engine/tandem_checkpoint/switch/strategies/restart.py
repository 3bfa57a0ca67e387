"""Restart: the server is killed and forked again from the zygote (report, section 2.6.3: it frees everything).

The fork and the parsing of arguments need no weights, so they run while the trainer still exports. Nor does the
engine: it starts as soon as the devices are free, and asks for the weights when all else stands.
"""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tandem_checkpoint.process.child import ChildGone
from tandem_checkpoint.process.commands import Abort, Bind, Fingerprinted, Go
from tandem_checkpoint.process.zygote import Server
from tandem_checkpoint.stopwatch import Stopwatch
from tandem_checkpoint.switch.strategies.strategy import Forker, Weights

logger = logging.getLogger(__name__)

ABORT_SECONDS = 5.0
"""Time for running requests to hand back what they have; then the server is killed all the same."""


class Restart:
    """See Strategy."""

    uses_token = True

    def __init__(self, zygote: Forker, commands: Sequence[Sequence[str]]) -> None:
        self._zygote = zygote
        self._commands = commands
        self._servers: dict[int, Server] = {}
        self._bound: Path | None = None
        self._used = False
        """Whether the servers have been told that the devices are theirs."""

    async def prepare(self) -> None:
        """Fork the servers, unless they have been forked ahead and have not been used."""
        if self._servers and not self._used and not any(server.ended.done() for server in self._servers.values()):
            return
        await self._end_servers()
        await self._fork(range(len(self._commands)))

    async def serve(self, weights: Weights, stopwatch: Stopwatch) -> None:
        servers, self._used = tuple(self._servers.values()), True
        with stopwatch.stage("start"):
            await _send(servers, Go())
            await _expect(servers, "loading")
        path = await weights()
        with stopwatch.stage("load"):
            await _send(servers, Bind(manifest=str(path), keeps_copy=False))
            await _expect(servers, "loaded")
        with stopwatch.stage("ready"):
            await _expect(servers, "listening")
        self._bound = path

    async def examine(self) -> Sequence[Fingerprinted]:
        return await asyncio.gather(*(server.examine() for server in self._servers.values()))

    async def abort(self) -> None:
        if self._bound is None:
            return  # they answer nothing yet
        try:
            async with asyncio.timeout(ABORT_SECONDS):
                await asyncio.gather(*(_abort(server) for server in self._servers.values()))
        except TimeoutError:
            logger.warning("a server did not abort its requests in %.0f s; it is killed all the same", ABORT_SECONDS)

    async def release(self) -> int:
        """Kill the servers and wait until every process is gone: what they held is free then."""
        if self._used:
            await self._end_servers()
        return 0

    async def revive(self) -> None:
        path = self._bound
        ended = [index for index, server in self._servers.items() if server.ended.done()]
        await asyncio.gather(*(self._servers.pop(index).kill() for index in ended))
        await self._fork(ended)
        servers = [self._servers[index] for index in ended]
        await _send(servers, Go())
        await _send(servers, Bind(manifest=str(path), keeps_copy=False))
        await _expect(servers, "listening")

    async def first_end(self) -> str:
        endings: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(asyncio.shield(server.ended)) for server in self._servers.values()
        ]
        zygote = asyncio.create_task(self._zygote.wait(), name="watch the zygote")
        try:
            await asyncio.wait({*endings, zygote}, return_when=asyncio.FIRST_COMPLETED)
            return zygote.result() if zygote.done() else "a server has ended; its log has the cause"
        finally:
            zygote.cancel()

    async def close(self) -> None:
        await self._end_servers()
        await self._zygote.kill()

    async def _end_servers(self) -> None:
        servers, self._servers, self._bound, self._used = tuple(self._servers.values()), {}, None, False
        await asyncio.gather(*(server.kill() for server in servers))

    async def _fork(self, indices: Sequence[int]) -> None:
        forking = asyncio.create_task(self._fork_all(indices), name="fork the servers")
        try:
            await asyncio.shield(forking)
        except asyncio.CancelledError:
            # Else a server would be left that nobody knows of, and so nobody kills.
            await asyncio.gather(forking, return_exceptions=True)
            raise
        await _expect([self._servers[index] for index in indices], "prepared")

    async def _fork_all(self, indices: Sequence[int]) -> None:
        for index in indices:
            self._servers[index] = await self._zygote.fork(self._commands[index])


async def _send(servers: Sequence[Server], command: Go | Bind) -> None:
    await asyncio.gather(*(server.send(command) for server in servers))


async def _expect(servers: Sequence[Server], step: str) -> None:
    await asyncio.gather(*(server.expect(step) for server in servers))


async def _abort(server: Server) -> None:
    """Have one server hand back what it has; one that has ended has nothing to hand back."""
    if server.ended.done():
        return
    try:
        await server.send(Abort())
        await server.expect("aborted")
    except ChildGone as error:
        logger.warning("nothing to abort: %s", error)
