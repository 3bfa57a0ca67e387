"""The engine's handle on the vLLM zygote and on the servers that it forks.

The zygote imports vLLM once; each server is a fork of it, in a process group of its own. The zygote is the servers'
parent, so it reaps them and tells how they ended; when it ends, the kernel kills them.
"""

import asyncio
import logging
import os
import shutil
import signal
import socket
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tandem_checkpoint.process.channel import Channel, ChannelClosed
from tandem_checkpoint.process.child import Child, ChildGone, how_it_ended
from tandem_checkpoint.process.commands import (
    ZYGOTE_ANSWER,
    Exited,
    Fork,
    Forked,
    ZygoteReady,
)
from tandem_checkpoint.process.group import kill_group
from tandem_checkpoint.process.leftovers import Sweeper
from tandem_checkpoint.process.output import Output
from tandem_checkpoint.process.server import Server, Traces

__all__ = ["Server", "Zygote"]

logger = logging.getLogger(__name__)

FORK_SECONDS = 10.0
"""A fork takes a twentieth of a second; a zygote that needs longer than this has stopped."""
DRAIN_SECONDS = 0.5
"""Time for what a zygote had said when it ended; servers that it forked may hold its channel open."""


@dataclass(frozen=True, slots=True)
class _Birth:
    """A forked server, and how it will have ended."""

    pid: int
    ended: asyncio.Future[int]


class Zygote:
    """A running zygote."""

    def __init__(self, child: Child, descriptors: socket.socket, sweeper: Sweeper) -> None:
        self._child = child
        self._descriptors = descriptors
        self._sweeper = sweeper
        self._scratch = Path(tempfile.mkdtemp(prefix="tandem-servers-"))
        self._asked: deque[asyncio.Future[_Birth]] = deque()
        self._endings: dict[int, asyncio.Future[int]] = {}
        self._reader = asyncio.create_task(self._read(), name="zygote answers")
        self._burial = asyncio.create_task(self._bury(), name="zygote's end")

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        environment: Mapping[str, str],
        inherit: Sequence[int],
        deadline_seconds: float,
        sweeper: Sweeper | None = None,
    ) -> Self:
        """Start a zygote and wait until it has imported everything. Raises: ChildGone; TimeoutError."""
        sweeper = sweeper or Sweeper()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours.setblocking(False)
        with ExitStack() as only_on_error:
            only_on_error.enter_context(ours)
            with theirs:
                child = await Child.start(
                    "the vLLM zygote",
                    [*argv, "--descriptors", str(theirs.fileno())],
                    environment,
                    inherit=(*inherit, theirs.fileno()),
                )
            try:
                async with asyncio.timeout(deadline_seconds):
                    ready = ZYGOTE_ANSWER.validate_json(await child.channel.receive())
            except ChannelClosed:
                ending = await child.wait()
                await child.kill()
                raise ChildGone(ending) from None
            except BaseException:  # a cancelled start too leaves no process and no open end; it is raised again
                await child.kill()
                raise
            only_on_error.pop_all()
        assert isinstance(ready, ZygoteReady)
        if ready.num_threads > 1:
            logger.warning("the zygote has %d threads; forking it may deadlock", ready.num_threads)
        return cls(child, ours, sweeper)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child.running

    async def wait(self) -> str:
        """Return how the zygote ended, once it has."""
        return await self._child.wait()

    async def all_ended(self) -> None:
        """Return once none of its servers lives any more."""
        while self._endings:
            await asyncio.wait(self._endings.values())

    async def fork(self, arguments: Sequence[str]) -> Server:
        """Fork a server that parses `arguments` and then waits for its word to go.

        Raises: ChildGone where the zygote has ended. TimeoutError where it does not answer.
        """
        if not self.running:
            raise ChildGone(await self.wait())
        ours, theirs = socket.socketpair()
        reading, writing = os.pipe()
        scratch = Path(tempfile.mkdtemp(dir=self._scratch))
        answer: asyncio.Future[_Birth] = asyncio.get_running_loop().create_future()
        with ExitStack() as only_on_error:
            only_on_error.callback(ours.close)
            only_on_error.callback(os.close, reading)
            only_on_error.callback(shutil.rmtree, scratch, ignore_errors=True)
            only_on_error.callback(_disown, answer)
            with theirs, os.fdopen(writing, "wb") as output:
                command = Fork(arguments=tuple(arguments), scratch=str(scratch))
                birth = await self._ask(command, [theirs.fileno(), output.fileno()], answer)
            only_on_error.pop_all()
        return Server(
            birth.pid,
            await Channel.over(ours),
            birth.ended,
            Traces(await Output.of("the server", reading), self._sweeper, scratch),
            self.kill,
        )

    async def kill(self) -> None:
        """Kill the zygote; its servers die with it."""
        await self._child.kill()
        await asyncio.shield(self._burial)
        await self._sweeper.finish()

    async def _ask(self, command: Fork, descriptors: Sequence[int], answer: asyncio.Future[_Birth]) -> _Birth:
        """Send a command with descriptors. Both go out without a pause, so those of two commands never get mixed up."""
        try:
            socket.send_fds(self._descriptors, [b"descriptors"], list(descriptors))
            self._asked.append(answer)
            async with asyncio.timeout(FORK_SECONDS):
                await self._child.channel.send(command.model_dump_json())
                return await answer
        except (BlockingIOError, TimeoutError):
            raise TimeoutError(f"the vLLM zygote has not forked a server within {FORK_SECONDS:.0f} s") from None
        except (OSError, ChannelClosed):
            raise ChildGone(await self.wait()) from None

    async def _read(self) -> None:
        with suppress(ChannelClosed):
            while True:
                match ZYGOTE_ANSWER.validate_json(await self._child.channel.receive()):
                    case Forked(pid=pid):
                        self._note_birth(pid)
                    case Exited(pid=pid, returncode=code):
                        logger.info("%s", how_it_ended(f"server process {pid}", code))
                        self._note_end(pid, code)
                    case ZygoteReady():
                        continue

    def _note_birth(self, pid: int) -> None:
        ended = self._endings.get(pid) or self._endings.setdefault(pid, asyncio.get_running_loop().create_future())
        if ended.done():
            del self._endings[pid]
        asked = self._asked.popleft()
        if asked.done():  # given up meanwhile: nobody knows of this server
            kill_group(pid)
        else:
            asked.set_result(_Birth(pid, ended))

    def _note_end(self, pid: int, returncode: int) -> None:
        """Kill what is left of an ended server's group at once: later its number might be another one's."""
        kill_group(pid)
        known = self._endings.pop(pid, None)
        ended = known or self._endings.setdefault(pid, asyncio.get_running_loop().create_future())
        ended.set_result(returncode)

    async def _bury(self) -> None:
        """Once the zygote has ended, its servers have too: say so to whoever waits."""
        await self._child.end()
        await asyncio.wait({self._reader}, timeout=DRAIN_SECONDS)
        self._reader.cancel()
        self._descriptors.close()
        for pid in [pid for pid, ended in self._endings.items() if not ended.done()]:
            self._note_end(pid, -signal.SIGKILL)
        ending = await self.wait()
        while self._asked:
            asked = self._asked.popleft()
            if not asked.done():
                asked.set_exception(ChildGone(ending))
        await self._child.kill()
        self._sweeper.sweep_later(frozenset(), self._scratch)


def _disown(answer: asyncio.Future[_Birth]) -> None:
    """See that a server that nobody asks for any more does not live on: now, or once it has been forked."""
    if not answer.cancel() and not answer.cancelled() and answer.exception() is None:
        kill_group(answer.result().pid)
