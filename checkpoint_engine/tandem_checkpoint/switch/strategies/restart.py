"""Restart: the server is killed and forked again from the zygote (report, section 2.6.3: it frees everything).

The fork and the parsing of arguments do not need the weights, so they run while the trainer still exports.
"""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from tandem_checkpoint.process.child import ChildGone
from tandem_checkpoint.process.commands import Abort, Go
from tandem_checkpoint.process.zygote import Server, Zygote
from tandem_checkpoint.switch.stopwatch import Stopwatch

logger = logging.getLogger(__name__)

ABORT_SECONDS = 5.0
"""Time for running requests to hand back what they have; then the server is killed all the same."""


class Restart:
    """The servers of one pod."""

    def __init__(self, zygote: Zygote, commands: Sequence[Sequence[str]]) -> None:
        self._zygote = zygote
        self._commands = commands
        self._servers: tuple[Server, ...] = ()

    @property
    def servers(self) -> tuple[Server, ...]:
        return self._servers

    async def prepare(self) -> None:
        """Fork the servers and have them parse their arguments; they hold no device memory yet."""
        await self.stop()
        forking = asyncio.create_task(self._fork(), name="fork the servers")
        try:
            await asyncio.shield(forking)
        except asyncio.CancelledError:
            # Else a server would be left that nobody knows of, and so nobody kills.
            await asyncio.gather(forking, return_exceptions=True)
            raise
        await asyncio.gather(*(server.expect("prepared") for server in self._servers))

    async def serve(self, manifest: Path, stopwatch: Stopwatch) -> None:
        """Bind the manifest's generation and answer requests; raise ChildGone with the cause where one cannot."""
        with stopwatch.stage("start"):
            for server in self._servers:
                await server.send(Go(manifest=str(manifest)))
            await self._all("loading")
        with stopwatch.stage("load"):
            await self._all("loaded")
        with stopwatch.stage("ready"):
            await self._all("listening")

    async def abort(self) -> None:
        """End all generation; clients get what there is so far."""
        try:
            async with asyncio.timeout(ABORT_SECONDS):
                for server in self._servers:
                    await _abort(server)
        except TimeoutError:
            logger.warning("a server did not abort its requests in %.0f s; it is killed all the same", ABORT_SECONDS)

    async def stop(self) -> None:
        """Kill the servers and wait until every process is gone."""
        servers, self._servers = self._servers, ()
        await asyncio.gather(*(server.kill() for server in servers))

    async def first_end(self) -> str:
        """Return how the zygote ended, once it has; the servers' ends show when they are used."""
        return await self._zygote.wait()

    async def close(self) -> None:
        await self.stop()
        await self._zygote.kill()

    async def _fork(self) -> None:
        for command in self._commands:
            self._servers = (*self._servers, await self._zygote.fork(command))

    async def _all(self, step: str) -> None:
        await asyncio.gather(*(server.expect(step) for server in self._servers))


async def _abort(server: Server) -> None:
    """Have one server hand back what it has; one that has ended has nothing to hand back."""
    if server.ended.done():
        return
    try:
        await server.send(Abort())
        await server.expect("aborted")
    except ChildGone as error:
        logger.warning("nothing to abort: %s", error)
