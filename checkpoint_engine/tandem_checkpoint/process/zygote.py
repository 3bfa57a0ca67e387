"""The engine's handle on the vLLM zygote and on the servers that it forks.

The zygote imports vLLM once; each server is a fork of it, in a process group of its own. The zygote is the servers'
parent, so it reaps them and tells how they ended.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Self

from tandem_checkpoint.process.channel import Channel, ChannelClosed
from tandem_checkpoint.process.child import KILL_SECONDS, Child, ChildGone, group_exists, how_it_ended, kill_group
from tandem_checkpoint.process.commands import (
    SERVER_ANSWER,
    ZYGOTE_ANSWER,
    Exited,
    Fork,
    Forked,
    ServerAnswer,
    ServerCommand,
    ServerFailed,
    ZygoteReady,
)
from tandem_checkpoint.process.parent import reap_orphans

logger = logging.getLogger(__name__)

FORK_SECONDS = 30.0
GROUP_POLL_SECONDS = 0.002


class Server:
    """One forked server."""

    def __init__(self, pid: int, channel: Channel, ended: asyncio.Future[int], zygote_pid: int) -> None:
        self.pid = pid
        self._zygote_pid = zygote_pid
        self._channel = channel
        self._ended = ended

    async def send(self, command: ServerCommand) -> None:
        """Send a command; raise ChildGone where the server has ended."""
        try:
            await self._channel.send(command.model_dump_json())
        except ChannelClosed:
            raise ChildGone(await self._end()) from None

    async def expect(self, step: str) -> None:
        """Wait for a step; raise ChildGone with the cause where the server fails or ends instead."""
        while True:
            answer = await self._receive()
            if isinstance(answer, ServerFailed):
                raise ChildGone(answer.reason)
            if answer.step == step:
                return

    async def kill(self) -> None:
        """Kill the server's group and wait until no process of it is left."""
        kill_group(self.pid)
        async with asyncio.timeout(KILL_SECONDS):
            await asyncio.shield(self._ended)
            while group_exists(self.pid):
                reap_orphans(own={self._zygote_pid})
                await asyncio.sleep(GROUP_POLL_SECONDS)
        self._channel.close()

    @property
    def ended(self) -> asyncio.Future[int]:
        """Done with the return code once the server has ended."""
        return self._ended

    async def _receive(self) -> ServerAnswer:
        try:
            return SERVER_ANSWER.validate_json(await self._channel.receive())
        except ChannelClosed:
            raise ChildGone(await self._end()) from None

    async def _end(self) -> str:
        return how_it_ended("the server", await asyncio.shield(self._ended))


class Zygote:
    """A running zygote."""

    def __init__(self, child: Child, descriptors: socket.socket) -> None:
        self._child = child
        self._descriptors = descriptors
        self._forked: asyncio.Queue[Forked] = asyncio.Queue()
        self._endings: dict[int, asyncio.Future[int]] = {}
        self._reader: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    @classmethod
    async def start(
        cls, argv: Sequence[str], environment: Mapping[str, str], inherit: Sequence[int], deadline_seconds: float
    ) -> Self:
        """Start a zygote and wait until it has imported everything."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
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
            ours.close()
            child.channel.close()
            raise ChildGone(await child.wait()) from None
        except BaseException:  # a cancelled start too leaves no process and no open end; it is raised again
            ours.close()
            await child.kill()
            raise
        assert isinstance(ready, ZygoteReady)
        if ready.num_threads > 1:
            logger.warning("the zygote has %d threads; forking it may deadlock", ready.num_threads)
        zygote = cls(child, ours)
        zygote._reader = asyncio.create_task(zygote._read(), name="zygote answers")
        return zygote

    @property
    def pid(self) -> int:
        return self._child.pid

    async def wait(self) -> str:
        """Return how the zygote ended, once it has."""
        return await self._child.wait()

    async def fork(self, arguments: Sequence[str]) -> Server:
        """Fork a server that parses `arguments` and then waits for its word to go. ChildGone: the zygote has ended."""
        ours, theirs = socket.socketpair()
        with theirs:
            async with self._lock, asyncio.timeout(FORK_SECONDS):
                try:
                    socket.send_fds(self._descriptors, [b"channel"], [theirs.fileno()])
                    await self._child.channel.send(Fork(arguments=tuple(arguments)).model_dump_json())
                except (ConnectionError, ChannelClosed):
                    ours.close()
                    raise ChildGone(await self._child.wait()) from None
                forked = await self._forked.get()
        return Server(forked.pid, await Channel.over(ours), self._ending(forked.pid), self.pid)

    async def kill(self) -> None:
        """Kill the zygote; its servers die with it."""
        if self._reader is not None:
            self._reader.cancel()
        if self._child.running:
            await self._child.kill()
        self._child.channel.close()
        self._descriptors.close()

    async def _read(self) -> None:
        with suppress(ChannelClosed):
            while True:
                match ZYGOTE_ANSWER.validate_json(await self._child.channel.receive()):
                    case Forked() as forked:
                        self._forked.put_nowait(forked)
                    case Exited(pid=pid, returncode=code):
                        logger.info("%s", how_it_ended(f"server process {pid}", code))
                        ending = self._ending(pid)
                        if not ending.done():
                            ending.set_result(code)
                    case ZygoteReady():
                        continue
        for ending in self._endings.values():  # the zygote is gone, and the kernel kills its servers with it
            if not ending.done():
                ending.set_result(-signal.SIGKILL)

    def _ending(self, pid: int) -> asyncio.Future[int]:
        return self._endings.setdefault(pid, asyncio.get_running_loop().create_future())
