"""Pods that hold a generation and serve its bytes, well or badly."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI

from tandem_api.registry import MemberState, MemberStatus
from tandem_api.weights import Shard
from tandem_checkpoint.http import QuietServer, build_app
from tandem_checkpoint.segments.layout import segment_layout
from tandem_checkpoint.segments.manifest import checksum
from tandem_checkpoint.segments.store import allocate, map_for_writing, segment_name
from tandem_checkpoint.transfer.exports import Exports
from tandem_checkpoint.transfer.mooncake import Lender, MooncakeMissing, Session, open_session
from tandem_checkpoint.transfer.plan import Offer, Source
from tests.tandem_checkpoint.etcd_process import free_address
from tests.tandem_checkpoint.jobs import TOKEN
from tests.tandem_checkpoint.pieces import whole_piece
from tests.tandem_checkpoint.policies import SMALL
from tests.tandem_checkpoint.transfer.network import is_reached_from_outside

LAYOUT = segment_layout(SMALL, "float32")
GENERATION = 3
PORT = 8701


@cache
def mooncake_session(whose: str) -> Session:
    """Return this process's end of Mooncake, one for the pods that lend and another for those that read.

    Its test stands in a network of its own: use the fixture `own_network`.
    """
    if is_reached_from_outside():
        pytest.skip("others would reach Mooncake's ports: no network namespace can be made here; run as root")
    try:
        return open_session("127.0.0.1")
    except MooncakeMissing as error:
        pytest.skip(f"no Mooncake here: {error}")


def export(folder: Path, seed: int = 1, generation: int = GENERATION) -> Shard:
    """Write a generation of random weights into a pod's folder and return the shard that its one rank registers."""
    folder.mkdir(exist_ok=True)
    allocate(folder, LAYOUT.num_bytes)
    numbers = random.Random(seed)
    pieces = []
    with map_for_writing(folder / segment_name(generation)) as mapped:
        for parameter in LAYOUT.parameters:
            for placed in parameter.tensors:
                data = numbers.randbytes(placed.num_bytes)
                mapped[placed.offset_bytes : placed.offset_bytes + placed.num_bytes] = data
                pieces.append(whole_piece(placed, checksum(data)))
    return Shard(
        generation=generation,
        incarnation=f"incarnation {seed}",
        segment=segment_name(generation),
        segment_bytes=LAYOUT.num_bytes,
        pieces=tuple(pieces),
    )


def spoil(folder: Path, offset: int = 0) -> None:
    """Change one byte of the segment behind everybody's back, as the next but one export does."""
    with map_for_writing(folder / segment_name(GENERATION)) as mapped:
        mapped[offset] ^= 0xFF


def content(folder: Path) -> bytes:
    return (folder / segment_name(GENERATION)).read_bytes()


@dataclass(slots=True)
class Pod:
    """A pod that serves its segments."""

    name: str
    folder: Path
    shard: Shard
    exports: Exports
    address: str
    app: FastAPI
    server: QuietServer
    serving: asyncio.Task[None]

    async def die(self) -> None:
        """End all connections, and take no more."""
        self.server.force_exit = self.server.should_exit = True
        await asyncio.wait({self.serving})

    @property
    def source(self) -> Source:
        return Source(self.name, f"http://{self.address}:{PORT}")

    @property
    def offer(self) -> Offer:
        return Offer(self.source, self.shard.pieces)


@asynccontextmanager
async def exporting_pod(
    folder: Path, name: str, seed: int = 1, session: Session | None = None, address: str = ""
) -> AsyncIterator[Pod]:
    """Run a trainer's API over a folder with an exported generation; with a session it is lent for one-sided reads."""
    exports = Exports(folder / name)
    shard = export(folder / name, seed)
    exports.add(GENERATION, [shard])
    status = MemberStatus(incarnation=shard.incarnation, epoch=1, state=MemberState.IDLE)
    lender = Lender(session) if session else None
    app = build_app(TOKEN, lambda: status, None, exports, lender=lender)
    address = address or free_address()
    server = QuietServer(
        uvicorn.Config(app, host=address, port=PORT, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
    )
    serving = asyncio.create_task(server.serve(), name=name)
    async with asyncio.timeout(10):
        while not server.started:  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(0.01)
    try:
        yield Pod(name, folder / name, shard, exports, address, app, server, serving)
    finally:
        server.should_exit = True
        await serving
        if lender is not None:
            lender.close()


@asynccontextmanager
async def broken_pod(name: str, answer: bytes, *, hangs: bool = False) -> AsyncIterator[Source]:
    """Run a server that answers every request with these bytes and then closes the connection, or keeps it open."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
                await writer.drain()
                if hangs:
                    await reader.read()
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    address = free_address()
    async with await asyncio.start_server(respond, address, PORT):
        yield Source(name, f"http://{address}:{PORT}")
