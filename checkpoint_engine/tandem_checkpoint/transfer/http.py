"""Ranges of segments by plain HTTP from the engines that hold them: works wherever pods reach each other.

By aiohttp and not httpx: taking in a GiB costs a fifth of the processor's time.
"""  # noqa: A005 - always imported by its full name

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from tandem_checkpoint.tls import Trust
from tandem_checkpoint.transfer.plan import Source
from tandem_checkpoint.transfer.reader import SourceFailed

CONNECT_SECONDS = 5.0
BUFFER_BYTES = 1 << 20
"""Bytes that a connection takes in before they are written to their place."""
PARTIAL_CONTENT = 206


class HttpReader:
    """See SegmentReader."""

    def __init__(self, session: aiohttp.ClientSession, server_name: str | None = None) -> None:
        """`server_name`: what sources' certificates must hold for, since they are reached by their addresses."""
        self._session = session
        self._server_name = server_name

    async def read(self, source: Source, generation: int, start: int, into: memoryview) -> None:
        url = f"{source.url}/v1/weights/{generation}/segment"
        wanted = {"Range": f"bytes={start}-{start + len(into) - 1}"}
        try:
            async with self._session.get(url, headers=wanted, server_hostname=self._server_name) as response:
                if response.status != PARTIAL_CONTENT:
                    raise SourceFailed(await _refusal(response))
                at = await _take(response.content, into)
        except aiohttp.ClientError as error:
            raise SourceFailed(f"{type(error).__name__} {error}".rstrip()) from error
        if at != len(into):
            raise SourceFailed(f"sent {at} of {len(into)} bytes")


@asynccontextmanager
async def http_reader(token: str, trust: Trust | None = None) -> AsyncIterator[HttpReader]:
    """Open a reader that shows the job's token; no proxy of the environment, no deadline of its own but to connect.

    With `trust`, sources that speak TLS are believed.
    """
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=trust.context) if trust else None,
        headers={"Authorization": f"Bearer {token}"},
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        read_bufsize=BUFFER_BYTES,
        auto_decompress=False,
    ) as session:
        yield HttpReader(session, trust.name if trust else None)


async def _take(received: aiohttp.StreamReader, into: memoryview) -> int:
    """Write what comes to its place; return how many bytes came."""
    at = 0
    async for data in received.iter_any():
        if at + len(data) > len(into):
            raise SourceFailed(f"sent more than the {len(into)} bytes that it was asked for")
        into[at : at + len(data)] = data
        at += len(data)
    return at


async def _refusal(response: aiohttp.ClientResponse) -> str:
    """Return what a source said instead of sending bytes."""
    body = await response.content.read(200)
    return f"answered {response.status}: {body.decode(errors='replace')}"
