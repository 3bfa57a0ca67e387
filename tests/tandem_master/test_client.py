"""The client that speaks to pods: whatever befalls a request is an error of httpx, and connections are not rationed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from tandem_master.client import pod_client

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
MORE_THAN_A_POOL = 150
"""Connections; libraries stop at 100 where nobody says otherwise."""


@asynccontextmanager
async def listening(handle: Handle) -> AsyncIterator[str]:
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def answering(content: bytes) -> Handle:
    """Return what answers a request so, whatever it is, and closes the connection."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(content)
        writer.close()

    return handle


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"this is no HTTP\r\n\r\n", id="no HTTP"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", id="half an answer"),
        pytest.param(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", id="a broken chunk"),
    ],
)
async def test_an_answer_that_is_none_is_an_error_of_the_transport(content: bytes) -> None:
    async with listening(answering(content)) as url, pod_client("token") as client:
        with pytest.raises(httpx.TransportError):
            await client.get(url)


async def test_a_server_that_is_not_there_is_an_error_of_the_connection() -> None:
    async with listening(answering(b"")) as url:
        pass

    async with pod_client("token") as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(url)


async def test_a_server_that_hangs_up_is_an_error_of_the_protocol() -> None:
    async with listening(answering(b"")) as url, pod_client("token") as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(url)


async def test_as_many_requests_as_there_are_samples_wait_at_once() -> None:
    waiting, all_there = 0, asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal waiting
        await reader.readuntil(b"\r\n\r\n")
        waiting += 1
        if waiting == MORE_THAN_A_POOL:
            all_there.set()
        await all_there.wait()
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    async with listening(handle) as url, pod_client("token") as client, asyncio.timeout(60):
        answers = await asyncio.gather(*(client.get(url) for _ in range(MORE_THAN_A_POOL)))

    assert {answer.status_code for answer in answers} == {204}


async def test_a_stream_that_is_left_ends_at_the_server() -> None:
    gone = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\none\r\n\r\n")
        if not await reader.read():
            gone.set()
        writer.close()

    async with listening(handle) as url, pod_client("token") as client, asyncio.timeout(60):
        async with client.stream("GET", url) as response:
            assert await anext(response.aiter_lines()) == "one"
        await gone.wait()
