"""A real etcd in a process of its own, and a wire to it that can be cut."""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import monotonic, sleep

from tandem_cli.local.etcd import CLIENT_PORT, etcd_program, find_etcd

START_SECONDS = 20.0
STOP_SECONDS = 10.0
_numbers = count(1)


def free_address() -> str:
    """Return a loopback address of this process's own."""
    return f"127.99.{os.getpid() % 250 + 1}.{next(_numbers)}"


@dataclass(slots=True)
class EtcdProcess:
    """One etcd; `start` after `kill` finds the same data again."""

    data: Path
    address: str = field(default_factory=free_address)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"{self.address}:{CLIENT_PORT}"

    def start(self) -> None:
        """Start it and wait until it listens."""
        program = etcd_program(find_etcd(), self.address, self.data, self.data)
        self._process = subprocess.Popen(
            program.argv, env=dict(program.environment), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = monotonic() + START_SECONDS
        while not _listens(self.address):
            assert self._process.poll() is None, "etcd ended at its start"
            assert monotonic() < deadline, "etcd does not listen"
            sleep(0.05)

    def kill(self) -> None:
        """SIGKILL it; harmless when it is down."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(STOP_SECONDS)
            self._process = None


def _listens(address: str) -> bool:
    with suppress(OSError), socket.create_connection((address, CLIENT_PORT), timeout=1):
        return True
    return False


class Wire:
    """A TCP relay to an etcd; cutting it breaks every connection, while etcd itself lives on."""

    def __init__(self, target: str) -> None:
        self.address = free_address()
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def endpoint(self) -> str:
        return f"{self.address}:{CLIENT_PORT}"

    async def join(self) -> None:
        self._server = await asyncio.start_server(self._relay, self.address, CLIENT_PORT)

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._target, CLIENT_PORT)
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
async def wire_to(etcd: EtcdProcess) -> AsyncIterator[Wire]:
    """Relay to an etcd while the context is open."""
    wire = Wire(etcd.address)
    await wire.join()
    try:
        yield wire
    finally:
        await wire.cut()
