"""The control channel between an engine and a child: JSON lines over a socket pair.

The engine's end is asynchronous, the child's end blocks. A closed channel means that the other side has ended.
"""

import asyncio
import os
import socket
from typing import Self

MAX_LINE_BYTES = 1 << 30
"""A whole batch is one line."""
CHANNEL_VARIABLE = "TANDEM_CHANNEL_FD"
"""Environment variable that tells a child which descriptor its end is."""


class ChannelClosed(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """The other side has ended."""


class Channel:
    """The engine's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Self:
        """Take over one end of a socket pair."""
        reader, writer = await asyncio.open_connection(sock=end, limit=MAX_LINE_BYTES)
        return cls(reader, writer)

    async def send(self, line: str) -> None:
        """Send one line; raise ChannelClosed where the child is gone."""
        try:
            self._writer.write(line.encode() + b"\n")
            await self._writer.drain()
        except (ConnectionError, RuntimeError) as error:
            raise ChannelClosed("the process at the other end has ended") from error

    async def receive(self) -> str:
        """Return the next line; raise ChannelClosed where the child is gone."""
        try:
            line = await self._reader.readline()
        except ConnectionError as error:
            raise ChannelClosed("the process at the other end has ended") from error
        if not line.endswith(b"\n"):
            raise ChannelClosed("the process at the other end has ended")
        return line[:-1].decode()

    def close(self) -> None:
        self._writer.close()


class ChildChannel:
    """A child's end."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._file = end.makefile("rb")

    @classmethod
    def inherited(cls) -> Self:
        """Take over the descriptor that the environment names."""
        return cls(socket.socket(fileno=int(os.environ[CHANNEL_VARIABLE])))

    def send(self, line: str) -> None:
        """Send one line; raise ChannelClosed where the engine is gone."""
        try:
            self._end.sendall(line.encode() + b"\n")
        except ConnectionError as error:
            raise ChannelClosed("the engine has ended") from error

    def receive(self) -> str:
        """Return the next line; raise ChannelClosed where the engine is gone."""
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise ChannelClosed("the engine has ended")
        return line[:-1].decode()

    def fileno(self) -> int:
        return self._end.fileno()
