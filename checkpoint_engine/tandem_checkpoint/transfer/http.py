"""Ranges of segments by plain HTTP from the engines that hold them: works wherever pods reach each other.

By aiohttp and not httpx: taking in a GiB costs a fifth of the processor's time.
"""  # noqa: A005 - always imported by its full name

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

import aiohttp
from pydantic import ValidationError

from tandem_api.engine import ByteRuns, SegmentAddress, SegmentRuns
from tandem_checkpoint.tls import Trust
from tandem_checkpoint.transfer.plan import Source
from tandem_checkpoint.transfer.reader import SourceBusy, SourceFailed
from tandem_checkpoint.transfer.runs import Runs

CONNECT_SECONDS = 5.0
BUFFER_BYTES = 1 << 20
"""Bytes that a connection takes in before they are written to their place."""
OK, PARTIAL_CONTENT, NOT_FOUND, SERVICE_UNAVAILABLE = 200, 206, 404, 503
NOT_OFFERED = "urn:tandem:problem:not-offered"
MOST_ADDRESS_BYTES = 4096


class HttpReader:
    """See SegmentReader."""

    def __init__(self, session: aiohttp.ClientSession, server_name: str | None = None) -> None:
        """`server_name`: what sources' certificates must hold for, since they are reached by their addresses."""
        self._session = session
        self._server_name = server_name

    async def read(self, source: Source, generation: int, runs: Sequence[Runs], into: memoryview) -> None:
        wanted = _wanted(runs)
        url = f"{source.url}/v1/weights/{generation}/{wanted.route}"
        request = self._session.request(
            wanted.method, url, headers=wanted.headers, data=wanted.body, server_hostname=self._server_name
        )
        try:
            async with request as response:
                if response.status == SERVICE_UNAVAILABLE:
                    raise SourceBusy(await _refusal(response))
                if response.status != wanted.status:
                    raise SourceFailed(await _refusal(response))
                at = await _take(response.content, into)
        except aiohttp.ClientError as error:
            raise SourceFailed(f"{type(error).__name__} {error}".rstrip()) from error
        if at != len(into):
            raise SourceFailed(f"sent {at} of {len(into)} bytes")

    async def address(self, source: Source, generation: int) -> SegmentAddress | None:
        """Return where a source lends a generation for one-sided reads; None where it lends nothing.

        Errors: SourceFailed.
        """
        url = f"{source.url}/v1/weights/{generation}/address"
        try:
            async with self._session.get(url, server_hostname=self._server_name) as response:
                body = await response.content.read(MOST_ADDRESS_BYTES)
                if response.status == NOT_FOUND and NOT_OFFERED.encode() in body:
                    return None
                if response.status != OK:
                    raise SourceFailed(f"answered {response.status}: {body[:200].decode(errors='replace')}")
                return SegmentAddress.model_validate_json(body)
        except (aiohttp.ClientError, ValidationError) as error:
            raise SourceFailed(f"{type(error).__name__} {error}".rstrip()) from error


@dataclass(frozen=True, slots=True)
class Wanted:
    """How bytes of a segment are asked for."""

    method: str
    route: str
    headers: Mapping[str, str]
    body: str | None
    status: int
    """Of a good answer."""


def _wanted(runs: Sequence[Runs]) -> Wanted:
    """Return a range where bytes lie together, else the body that tells how they lie."""
    if len(runs) == 1 and runs[0].num_runs == 1:
        header = {"Range": f"bytes={runs[0].offset_bytes}-{runs[0].stop_bytes - 1}"}
        return Wanted("GET", "segment", header, None, PARTIAL_CONTENT)
    rows = tuple(ByteRuns(**asdict(row)) for row in runs)
    body = SegmentRuns(runs=rows).model_dump_json(exclude_defaults=True)
    return Wanted("POST", "runs", {"Content-Type": "application/json"}, body, OK)


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
