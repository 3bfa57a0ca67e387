"""One child process of the engine, in a session of its own, with a control channel."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Self

from tandem_checkpoint.process.channel import CHANNEL_VARIABLE, Channel
from tandem_checkpoint.process.parent import child_environment

logger = logging.getLogger(__name__)

KILL_SECONDS = 10.0
"""Time in which a killed group must be gone."""


class ChildGone(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """The child ended although it was needed; the message says how."""


class Child:
    """A running child. Its output goes where the engine's own goes."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, channel: Channel) -> None:
        self.name = name
        self.channel = channel
        self._process = process

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
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *argv,
                env={**child_environment(environment), CHANNEL_VARIABLE: str(theirs.fileno())},
                pass_fds=(theirs.fileno(), *inherit),
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        logger.info("started %s as process %d", name, process.pid)
        return cls(name, process, await Channel.over(ours))

    async def wait(self) -> str:
        """Return how the child ended, in words, once it has."""
        return how_it_ended(self.name, await self._process.wait())

    async def kill(self) -> None:
        """Kill the whole group and wait until the child is gone."""
        kill_group(self.pid)
        async with asyncio.timeout(KILL_SECONDS):
            await self._process.wait()
        self.channel.close()


def kill_group(pid: int) -> None:
    """Send SIGKILL to the process group that `pid` leads; a group that is gone already is fine."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def group_exists(pid: int) -> bool:
    """Tell whether any process of the group is left, ended but unreaped ones included."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def how_it_ended(name: str, returncode: int) -> str:
    """Return the end of a process in words, with what it usually means."""
    if returncode >= 0:
        return f"{name} exited with code {returncode}; its log has the cause"
    number = signal.Signals(-returncode).name
    hint = "; out of memory?" if -returncode == signal.SIGKILL else ""
    return f"{name} was ended by {number}{hint}"
