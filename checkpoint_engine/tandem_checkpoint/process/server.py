"""The engine's handle on one forked server."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tandem_checkpoint.process.channel import Channel, ChannelClosed
from tandem_checkpoint.process.child import KILL_SECONDS, ChildGone, how_it_ended, reap_strays
from tandem_checkpoint.process.commands import (
    SERVER_ANSWER,
    Examine,
    Fingerprinted,
    Refused,
    ServerAnswer,
    ServerCommand,
    ServerFailed,
    ServerStep,
)
from tandem_checkpoint.process.group import freeze_group, group_exists, kill_group, reap_group
from tandem_checkpoint.process.leftovers import Segment, Sweeper
from tandem_checkpoint.process.output import Output
from tandem_checkpoint.process.ranks import CommandRefused

logger = logging.getLogger(__name__)

GROUP_POLL_SECONDS = 0.002
REAP_SECONDS = 2.0
"""A zygote reaps in milliseconds."""
STANDING_STEP = "loading"
"""With this step a server's engine is built, and its shared memory with it; what remains is to take weights."""
LAST_STEP = "listening"
"""With this step a server has all the shared memory that it will have."""


@dataclass(frozen=True, slots=True)
class Traces:
    """What a server leaves outside of itself."""

    output: Output
    sweeper: Sweeper
    scratch: Path
    """Folder of its temporary files."""


class Server:
    """One forked server."""

    def __init__(
        self,
        pid: int,
        channel: Channel,
        ended: asyncio.Future[int],
        traces: Traces,
        kill_parent: Callable[[], Awaitable[None]],
    ) -> None:
        self.pid = pid
        self._channel = channel
        self._ended = ended
        self._traces = traces
        self._kill_parent = kill_parent
        self._segments: frozenset[Segment] = frozenset()
        self._noting: asyncio.Task[None] | None = None

    @property
    def ended(self) -> asyncio.Future[int]:
        """Done with the return code once the server has ended."""
        return self._ended

    async def send(self, command: ServerCommand) -> None:
        """Send a command; raise ChildGone where the server has ended."""
        try:
            await self._channel.send(command.model_dump_json())
        except ChannelClosed:
            raise ChildGone(await self.wait()) from None

    async def expect(self, step: str) -> ServerStep:
        """Wait for a step and return it; raise ChildGone with the cause where the server fails or ends instead.

        Raises CommandRefused where the server does not do what it was told, and is as it was before.
        A server that is known to stand may die at any time: its shared memory is known from then on.
        """
        while True:
            answer = await self._receive()
            if isinstance(answer, Fingerprinted):
                continue  # nobody waits for it any more
            if answer.step in (STANDING_STEP, LAST_STEP):
                await self._noted()
                self._noting = asyncio.create_task(self._note_segments(), name="note shared memory")
            if answer.step == STANDING_STEP:
                await self._noted()
            if answer.step == step:
                return answer

    async def examine(self) -> Fingerprinted:
        """Return the fingerprints of what the server holds; errors as for `expect`."""
        await self.send(Examine())
        while not isinstance(answer := await self._receive(), Fingerprinted):
            continue  # a step that nobody has waited for
        return answer

    async def wait(self) -> str:
        """Return how the server ended, once it has."""
        output, returncode = self._traces.output, await asyncio.shield(self._ended)
        await output.rest()
        return how_it_ended("the server", returncode, output.cause(returncode))

    async def kill(self) -> None:
        """Kill the server's group and wait until no process of it is left; its leftovers are removed beside that."""
        try:
            if not self._ended.done():
                freeze_group(self.pid)
                await self._note_segments()
        finally:
            if not self._ended.done():
                kill_group(self.pid)
        async with asyncio.timeout(KILL_SECONDS):
            await self._buried()
            while group_exists(self.pid):
                reap_group(self.pid)
                await asyncio.sleep(GROUP_POLL_SECONDS)
        reap_strays()
        await self._noted()
        self._traces.sweeper.sweep_later(self._segments, self._traces.scratch)
        self._channel.close()
        self._traces.output.close()

    async def _buried(self) -> None:
        """Wait until the server is reaped. A zygote that has stopped reaps nothing: it goes too, and we reap."""
        done, _ = await asyncio.wait({self._ended}, timeout=REAP_SECONDS)
        if not done:
            logger.warning("the zygote has not reaped server process %d; killing it as well", self.pid)
            await self._kill_parent()

    async def _noted(self) -> None:
        """Wait for a note that is being made; who gives up waiting does not end it."""
        if self._noting is not None:
            await asyncio.shield(self._noting)

    async def _note_segments(self) -> None:
        """Note the shared memory that the group uses now: once it is killed, nobody can tell."""
        found = await asyncio.to_thread(self._traces.sweeper.used_by, self.pid)
        self._segments |= found

    async def _receive(self) -> ServerStep | Fingerprinted:
        """Return the next answer. Raises: ChildGone where the server fails or ends; CommandRefused."""
        try:
            answer: ServerAnswer = SERVER_ANSWER.validate_json(await self._channel.receive())
        except ChannelClosed:
            raise ChildGone(await self.wait()) from None
        if isinstance(answer, ServerFailed):
            raise ChildGone(answer.reason)
        if isinstance(answer, Refused):
            raise CommandRefused(answer.reason)
        return answer
