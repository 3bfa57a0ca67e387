"""One pod of the benchmark: `give` serves a segment, `take` fetches it, again and again.

    python -m benchmarks.weights_bench.pod give|take FOLDER

Its first line says that it is there; it goes on once it is told its own address and the shard that the segment holds.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from tandem_api.registry import MemberState, MemberStatus
from tandem_api.weights import Piece, Shard
from tandem_checkpoint.http import build_app, serve
from tandem_checkpoint.segments.manifest import checksum
from tandem_checkpoint.segments.store import map_for_sending, map_for_writing, segment_name
from tandem_checkpoint.transfer.exports import Exports
from tandem_checkpoint.transfer.fetch import fetch
from tandem_checkpoint.transfer.http import HttpReader, http_reader
from tandem_checkpoint.transfer.mooncake import Lender, MooncakeMissing, Session, open_session
from tandem_checkpoint.transfer.one_sided import MooncakeReader
from tandem_checkpoint.transfer.plan import Offer, Source, plan_routes

GENERATION = 1
TOKEN = "benchmark"
PORT, STREAM_PORT = 8701, 8700
PIECE_BYTES = 4 << 20
CONNECT_SECONDS, FETCH_SECONDS = 30.0, 300.0
RECEIVED_BYTES = 1 << 20


def write_segment(folder: Path, num_bytes: int) -> Shard:
    """Write a generation of random bytes, and return it as one shard."""
    data = random.Random(7).randbytes(PIECE_BYTES)
    xxh3 = checksum(data)
    (folder / segment_name(GENERATION)).write_bytes(data * (num_bytes // PIECE_BYTES))
    pieces = tuple(
        Piece(
            tensor=f"tensor.{at}",
            start=(0,),
            stop=(PIECE_BYTES,),
            offset_bytes=at,
            num_bytes=PIECE_BYTES,
            xxh3=xxh3,
        )
        for at in range(0, num_bytes, PIECE_BYTES)
    )
    name = segment_name(GENERATION)
    return Shard(generation=GENERATION, incarnation="a", segment=name, segment_bytes=num_bytes, pieces=pieces)


async def give(folder: Path, shard: Shard, address: str) -> None:
    """Serve the segment in every way until this process is killed."""
    exports = Exports(folder)
    exports.add(GENERATION, [shard])
    session = mooncake(address)
    status = MemberStatus(incarnation="a", epoch=1, state=MemberState.IDLE)
    app = build_app(TOKEN, lambda: status, None, exports, lender=Lender(session) if session else None)
    segment = map_for_sending(folder / segment_name(GENERATION))

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        start, stop = map(int, (await reader.readline()).split())
        with suppress(ConnectionError), memoryview(segment) as view:
            for at in range(start, stop, RECEIVED_BYTES):
                writer.write(view[at : min(at + RECEIVED_BYTES, stop)])
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(stream, address, STREAM_PORT):
        await serve(app, address, PORT)


async def take(folder: Path, shard: Shard, order: "dict[str, object]") -> dict[str, list[float]]:
    """Return the seconds of every sample of each way, taken in turns."""
    sources = [Source(f"pod-{number}", f"http://{address}:{PORT}") for number, address in enumerate(_strings(order))]
    path = folder / "taken.segment"
    path.write_bytes(bytes(shard.segment_bytes))
    into = memoryview(map_for_writing(path))
    session = mooncake(str(order["address"]))
    await _until_there(sources)
    routes = plan_routes([Offer(source, shard.pieces) for source in sources], "reader")
    seconds: dict[str, list[float]] = {}
    async with http_reader(TOKEN) as plain:
        ways: dict[str, Callable[[], Awaitable[object]]] = {
            "stream": lambda: _stream(_strings(order)[0], into),
            "http": lambda: fetch(routes, GENERATION, plain, into, FETCH_SECONDS),
        }
        if session is not None:
            one_sided = _one_sided(session, plain)
            ways["mooncake"] = lambda: fetch(routes, GENERATION, one_sided, into, FETCH_SECONDS)
        for _ in range(int(str(order["num_samples"])) + 1):  # the first round only warms up
            for name, bring in ways.items():
                into[:] = bytes(len(into))
                began = time.perf_counter()
                await bring()
                seconds.setdefault(name, []).append(time.perf_counter() - began)
                if into != memoryview(map_for_sending(folder / segment_name(GENERATION))):
                    raise SystemExit(f"{name}: other bytes have come")
    return {name: values[1:] for name, values in seconds.items()}


def mooncake(address: str) -> Session | None:
    try:
        return open_session(address)
    except MooncakeMissing as error:
        print(f"without Mooncake: {error}", file=sys.stderr)
        return None


def _one_sided(session: Session, plain: HttpReader) -> MooncakeReader:
    return MooncakeReader(session, plain)


async def _stream(address: str, into: memoryview) -> None:
    """Bring all bytes by one plain connection, without a checksum."""
    reader, writer = await asyncio.open_connection(address, STREAM_PORT, limit=2 * RECEIVED_BYTES)
    writer.write(f"0 {len(into)}\n".encode())
    at = 0
    while data := await reader.read(RECEIVED_BYTES):
        into[at : at + len(data)] = data
        at += len(data)
    writer.close()
    if at != len(into):
        raise SystemExit(f"the plain stream brought {at} of {len(into)} bytes")


async def _until_there(sources: list[Source]) -> None:
    """Wait until every pod takes connections."""
    async with asyncio.timeout(CONNECT_SECONDS):
        for source in sources:
            host = source.url.removeprefix("http://").partition(":")[0]
            while True:
                try:
                    _, writer = await asyncio.open_connection(host, PORT)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    break


def _strings(order: "dict[str, object]") -> list[str]:
    sources = order["sources"]
    assert isinstance(sources, list)
    return [str(source) for source in sources]


def main() -> None:
    """Say that this pod is there, wait for its order, and carry it out."""
    what, folder = sys.argv[1], Path(sys.argv[2])
    print("here", flush=True)
    order = json.loads(sys.stdin.readline())
    shard = Shard.model_validate(order["shard"])
    if what == "give":
        asyncio.run(give(folder, shard, order["address"]))
    else:
        print(json.dumps(asyncio.run(take(folder, shard, order))), flush=True)


if __name__ == "__main__":
    main()
