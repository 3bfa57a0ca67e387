"""The HTTP session that kopf is given, and what is seen on it: kopf hides bookmarks and ends of lists from handlers.

A watch that says nothing for minutes may be quiet or dead. The API server sends a bookmark about once a minute, so the
time since the last bytes of each watch tells which.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import aiohttp
import kopf
from aiohttp.client_reqrep import ClientRequest, ClientResponse
from aiohttp.connector import Connection as WireConnection
from yarl import URL

from tandem_operator.kube.credentials import Connection, Endpoint
from tandem_operator.kube.manifest import Manifest, name_of, namespace_of, sections, text, uid_of
from tandem_operator.kube.resources import RLJOB

KEEPALIVE_SECONDS = 60.0

JobKey = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A complete list of one scope."""

    namespace: str | None
    """None: every namespace."""
    uids: Mapping[JobKey, str]


class Wiretap:
    """Hears what passes between kopf and the API server about RLJobs."""

    def __init__(
        self,
        namespaces: Sequence[str],
        on_listed: Callable[[Listing], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_listed = on_listed
        self._clock = clock
        self._scopes = {RLJOB.collection_path(name): name for name in (namespaces or (None,))}
        self._heard = dict.fromkeys(self._scopes, clock())
        self._pages: dict[str, dict[JobKey, str]] = {}
        self._listed: set[str] = set()

    @property
    def complete(self) -> bool:
        """Return whether every scope has been listed at least once."""
        return self._listed == self._scopes.keys()

    def age_seconds(self) -> float:
        """Return the time since the quietest scope was heard of."""
        return self._clock() - min(self._heard.values())

    def hear(self, url: URL) -> None:
        """Note that bytes about this URL came; URLs of other kinds are none of our business."""
        path = self._path(url)
        if path is not None:
            self._heard[path] = self._clock()

    def read(self, url: URL, answer: object) -> None:
        """Take in one page of a list; the last one completes it."""
        path = self._path(url)
        if path is None or not isinstance(answer, dict):
            return
        page = cast("Manifest", answer)
        if "continue" not in url.query:
            self._pages[path] = {}
        uids = self._pages.setdefault(path, {})
        uids |= {(namespace_of(item), name_of(item)): uid_of(item) for item in sections(page, "items")}
        if not text(page, "metadata", "continue"):
            self._listed.add(path)
            self._on_listed(Listing(self._scopes[path], self._pages.pop(path)))

    def _path(self, url: URL) -> str | None:
        return next((path for path in self._scopes if url.path.endswith(path)), None)


async def open_session(connection: Connection, tap: Wiretap) -> kopf.AiohttpSession:
    """Return a session with the operator's own credentials; kopf closes it, and asks for another after a 401."""
    endpoint = connection.endpoint
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=endpoint.ssl, keepalive_timeout=KEEPALIVE_SECONDS),
        headers=await connection.authorization(),
        proxy=endpoint.proxy,
        request_class=_request_class(endpoint),
        response_class=_response_class(tap),
    )
    return kopf.AiohttpSession(server=endpoint.url, aiohttp_session=session)


class TappedStream:
    """A body whose chunks are noted as kopf reads them; everything else is the stream itself."""

    def __init__(self, stream: aiohttp.StreamReader, note: Callable[[], None]) -> None:
        self._stream = stream
        self._note = note

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def iter_chunked(self, num_bytes: int) -> AsyncIterator[bytes]:
        """Yield chunks as they come."""
        async for chunk in self._stream.iter_chunked(num_bytes):
            self._note()
            yield chunk


def _response_class(tap: Wiretap) -> type[ClientResponse]:
    """Return a class of responses that tell `tap` what they hold."""

    class TappedResponse(ClientResponse):
        async def start(self, connection: WireConnection) -> ClientResponse:
            await super().start(connection)
            if self.ok:
                tap.hear(self.url)
                self.content = cast("aiohttp.StreamReader", TappedStream(self.content, lambda: tap.hear(self.url)))
            return self

        async def json(self, **options: Any) -> Any:
            answer = await super().json(**options)
            if self.ok:
                tap.read(self.url, answer)
            return answer

    return TappedResponse


def _request_class(endpoint: Endpoint) -> type[ClientRequest]:
    """Return a class of requests that expect the right name in the server's certificate."""
    if endpoint.server_hostname is None:
        return ClientRequest

    class NamedRequest(ClientRequest):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **(options | {"server_hostname": endpoint.server_hostname}))

    return NamedRequest
