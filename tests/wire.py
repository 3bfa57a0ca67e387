"""A TCP relay to a server; cutting it breaks every connection, while the server itself lives on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.tandem_checkpoint.etcd_process import free_address


class Wire:
    """Another address of a server, under the same port."""

    def __init__(self, endpoint: str) -> None:
        """`endpoint`: `host:port` of the server."""
        self._host, _, port = endpoint.rpartition(":")
        self._port = int(port)
        self.address = free_address()
        self._listener: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._loses_answers = False

    @property
    def endpoint(self) -> str:
        return f"{self.address}:{self._port}"

    async def join(self) -> None:
        self._loses_answers = False
        self._listener = await asyncio.start_server(self._relay, self.address, self._port)

    async def cut(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for writer in list(self._writers):
            writer.transport.abort()

    def lose_answers(self) -> None:
        """Take what clients send, and keep from them what the server answers, until the wire is joined again."""
        self._loses_answers = True

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        ends = {writer, far_writer}
        self._writers |= ends
        try:
            with suppress(ConnectionError, asyncio.CancelledError):
                await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not (self._loses_answers and writer.get_extra_info("sockname")[0] == self.address):
                writer.write(data)
                await writer.drain()
        raise ConnectionResetError


@asynccontextmanager
async def wire_to(endpoint: str) -> AsyncIterator[Wire]:
    """Relay to the server at `host:port` while the context is open."""
    wire = Wire(endpoint)
    await wire.join()
    try:
        yield wire
    finally:
        await wire.cut()
