"""One child process of the engine, in a session of its own, with a control channel."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import ClassVar, Self

from tandem_checkpoint.process.channel import CHANNEL_VARIABLE, Channel
from tandem_checkpoint.process.group import kill_group
from tandem_checkpoint.process.output import Output
from tandem_checkpoint.process.parent import adopts_orphans, child_environment, reap_orphans

logger = logging.getLogger(__name__)

KILL_SECONDS = 10.0
"""Time in which a killed group must be gone."""


class ChildGone(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """The child ended although it was needed; the message says how."""


class Child:
    """A running child. Its output goes to the engine's log."""

    living: ClassVar[set[int]] = set()
    """Children that this process waits for."""
    num_starting: ClassVar[int] = 0

    def __init__(self, process: asyncio.subprocess.Process, channel: Channel, output: Output) -> None:
        self.channel = channel
        self._process = process
        self._output = output
        self._burial = asyncio.create_task(self._bury(), name="wait for the end of a child")

    @property
    def name(self) -> str:
        """What messages and log lines call it."""
        return self._output.name

    @name.setter
    def name(self, name: str) -> None:
        self._output.name = name

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    @classmethod
    async def start(
        cls, name: str, argv: Sequence[str], environment: Mapping[str, str], inherit: Sequence[int] = ()
    ) -> Self:
        """Start a child that leads its own process group; `inherit`: descriptors that it shares."""
        ours, theirs = socket.socketpair()
        reading, writing = os.pipe()
        with ExitStack() as only_on_error, cls._starting():
            only_on_error.callback(ours.close)
            with theirs, os.fdopen(writing, "wb") as output:
                only_on_error.callback(os.close, reading)
                process = await asyncio.create_subprocess_exec(
                    *argv,
                    env={**child_environment(environment), CHANNEL_VARIABLE: str(theirs.fileno())},
                    pass_fds=(theirs.fileno(), *inherit),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            cls.living.add(process.pid)
            only_on_error.pop_all()
        logger.info("started %s as process %d", name, process.pid)
        return cls(process, await Channel.over(ours), await Output.of(name, reading))

    async def end(self) -> int:
        """Return the code with which the child ended, or minus its signal's number, once it has."""
        return await self._process.wait()

    async def wait(self) -> str:
        """Return how the child ended, in words, once it has."""
        returncode = await self.end()
        await self._output.rest()
        return how_it_ended(self.name, returncode, self._output.cause(returncode))

    async def kill(self) -> None:
        """Kill the whole group and wait until the child is gone."""
        if self.running:
            kill_group(self.pid)
        with closing(self.channel), closing(self._output):
            async with asyncio.timeout(KILL_SECONDS):
                await asyncio.shield(self._burial)
            await self._output.rest()

    async def _bury(self) -> None:
        """Kill what is left of the group as soon as the child has ended: later its number might be another one's."""
        await self._process.wait()
        self.living.discard(self.pid)
        kill_group(self.pid)

    @classmethod
    @contextmanager
    def _starting(cls) -> Iterator[None]:
        Child.num_starting += 1
        try:
            yield
        finally:
            Child.num_starting -= 1


async def unless_gone(work: Coroutine[None, None, None], end: Coroutine[None, None, ChildGone]) -> None:
    """Do some work; raise what `end` returns, where it does so before."""
    doing = asyncio.create_task(work, name="work of children")
    ending = asyncio.create_task(end, name="watch children at work")
    try:
        await asyncio.wait({doing, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise ending.result()
        doing.result()
    finally:
        doing.cancel()
        ending.cancel()
        await asyncio.wait({doing, ending})


def reap_strays() -> None:
    """Collect ended descendants that have fallen to this process, if it adopts any; no child that is waited for."""
    if Child.num_starting == 0 and adopts_orphans():
        reap_orphans(own=Child.living)


def how_it_ended(name: str, returncode: int, cause: str | None = None) -> str:
    """Return the end of a process in words. `cause`: the line of its output that says why."""
    if returncode >= 0:
        return f"{name} exited with code {returncode}" + (f": {cause}" if cause else "; its log has the cause")
    number = signal.Signals(-returncode).name
    hint = "; out of memory?" if -returncode == signal.SIGKILL else ""
    return f"{name} was ended by {number}" + (f": {cause}" if cause else hint)
