"""A TCP relay to an API server; cutting it breaks every connection, while the API server lives on."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from tests.ground.api_server import ApiServer
from tests.tandem_checkpoint.etcd_process import free_address


class Wire:
    """Another address of one API server; its certificate does not name it."""

    def __init__(self, server: ApiServer) -> None:
        url = urlsplit(server.url)
        assert url.hostname is not None
        assert url.port is not None
        self._server = server
        self._host, self._port = url.hostname, url.port
        self._address = free_address()
        self._listener: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    def kubeconfig(self, folder: Path) -> Path:
        """Write a kubeconfig that goes by the wire, and return its path."""
        content = json.loads(self._server.kubeconfig.read_text(encoding="utf-8"))
        content["clusters"][0]["cluster"] |= {
            "server": f"https://{self._address}:{self._port}",
            "tls-server-name": self._host,
        }
        path = folder / "kubeconfig-by-wire"
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    async def join(self) -> None:
        self._listener = await asyncio.start_server(self._relay, self._address, self._port)

    async def cut(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for writer in list(self._writers):
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        ends = {writer, far_writer}
        self._writers |= ends
        try:
            with suppress(ConnectionError, asyncio.CancelledError):
                await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    raise ConnectionResetError


@asynccontextmanager
async def wire_to(server: ApiServer) -> AsyncIterator[Wire]:
    """Relay to an API server while the context is open."""
    wire = Wire(server)
    await wire.join()
    try:
        yield wire
    finally:
        await wire.cut()
