"""What a request costs the master over real HTTP: its client, and a server in a process of its own, on loopback."""

import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from statistics import median
from time import perf_counter, process_time

from benchmarks.master_bench.scene import NEW_TOKENS, PROMPT_TOKENS
from benchmarks.master_bench.servers import streamed_lines
from benchmarks.report.result import PartError, Result

from tandem_api.trajectory import Trajectory
from tandem_master.client import pod_client
from tandem_master.rollout.exchange import Exchange
from tandem_master.rollout.segments import Ask
from tandem_master.rollout.server import CompletionApi

AT_ONCE = 256
ROUNDS, QUICK_ROUNDS = 20, 5
START_SECONDS = 30.0
CHUNK_BYTES = 4096
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def measure_over_http(*, quick: bool) -> Result:
    """Send requests of one sample through the master's HTTP client, so many at once, and read their streams."""
    with _server() as url:
        return asyncio.run(_measure(url, QUICK_ROUNDS if quick else ROUNDS))


async def _measure(url: str, rounds: int) -> Result:
    cpu, wall = [], []
    async with pod_client("no token") as client:
        api = CompletionApi(client, temperature=1.0)
        await _round(api, url)  # opens the connections
        for _ in range(rounds):
            began, cpu_began = perf_counter(), process_time()
            await _round(api, url)
            wall.append(perf_counter() - began)
            cpu.append(process_time() - cpu_began)
    figures = {
        "http_cpu_ms": 1e3 * median(cpu) / AT_ONCE,
        "http_requests_per_second": AT_ONCE / median(wall),
    }
    return Result(figures, {"at_once": AT_ONCE, "rounds": rounds, "cpu_seconds": cpu, "seconds": wall})


async def _round(api: CompletionApi, url: str) -> None:
    await asyncio.gather(*(_one(api, url, number) for number in range(AT_ONCE)))


async def _one(api: CompletionApi, url: str, number: int) -> None:
    prompt = (3,) * PROMPT_TOKENS
    item = Trajectory(id=f"1-p-{number}", group="1-p", problem_id="p", prompt_token_ids=prompt)
    exchange = Exchange(api, url, Ask((item,), prompt, NEW_TOKENS, seed=1))
    while await exchange.ended_samples():
        pass
    if exchange.failure is not None:
        raise PartError(str(exchange.failure))
    await exchange.close()


@contextmanager
def _server() -> Iterator[str]:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(there,), daemon=True)
    process.start()
    try:
        if not here.poll(START_SECONDS):
            raise PartError(f"the server did not start within {START_SECONDS:g} s")
        yield f"http://127.0.0.1:{here.recv()}"
    finally:
        process.terminate()
        process.join()


def _serve(there: Connection) -> None:
    asyncio.run(_serve_until_ended(there))


async def _serve_until_ended(there: Connection) -> None:
    body = "\n".join(streamed_lines([3 + place % 10 for place in range(NEW_TOKENS)])).encode()
    pieces = [body[begin : begin + CHUNK_BYTES] for begin in range(0, len(body), CHUNK_BYTES)]
    answer = [HEAD, *(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces), b"0\r\n\r\n"]

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _head(reader):
            length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
            await reader.readexactly(length)
            for piece in answer:
                writer.write(piece)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    there.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""
