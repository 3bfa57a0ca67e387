"""The benchmark's own way to the API server: raw JSON, a few requests at once."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
from tests.ground.access import Access

NUM_AT_ONCE = 8
REQUEST_SECONDS = 60.0
LONGEST_LINE_BYTES = 4 << 20
WATCH_SECONDS = 290
POLL_SECONDS = 0.2


class ApiAnswerError(Exception):
    """The API server refused; `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """Requests of the administrator."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._places = asyncio.Semaphore(NUM_AT_ONCE)

    async def send(self, method: str, path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        """Return the answer to one request; ApiAnswerError, TimeoutError."""
        content = None if body is None else orjson.dumps(body)
        async with (
            self._places,
            asyncio.timeout(REQUEST_SECONDS),
            self._session.request(method, path, data=content) as answer,
        ):
            text = await answer.read()
        if answer.status >= 400:
            raise ApiAnswerError(answer.status, f"{method} {path}: {text[:500].decode(errors='replace')}")
        found: dict[str, Any] = orjson.loads(text)
        return found

    async def text(self, path: str) -> str:
        """Return an answer that is no JSON."""
        async with asyncio.timeout(REQUEST_SECONDS), self._session.get(path) as answer:
            answer.raise_for_status()
            return await answer.text()

    async def exists(self, path: str) -> bool:
        """Return whether an object is there."""
        try:
            await self.send("GET", path)
        except ApiAnswerError as error:
            if error.status == 404:
                return False
            raise
        return True

    async def watch(self, path: str, resource_version: str) -> AsyncGenerator[dict[str, Any], None]:
        """Yield events after a resourceVersion until the server ends the watch."""
        query = {"watch": "true", "resourceVersion": resource_version, "timeoutSeconds": str(WATCH_SECONDS)}
        async with self._session.get(path, params={**query, "allowWatchBookmarks": "true"}) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                yield orjson.loads(line)


@asynccontextmanager
async def open_api(access: Access) -> AsyncIterator[Api]:
    """Open a session as the administrator."""
    context = ssl.create_default_context(cafile=str(access.ca_file))
    headers = {"Authorization": f"Bearer {access.token}", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(
        access.url,
        headers=headers,
        connector=aiohttp.TCPConnector(ssl=context, limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
        read_bufsize=LONGEST_LINE_BYTES,
    ) as session:
        yield Api(session)


async def until(
    condition: Callable[[], Awaitable[bool]], seconds: float, what: str, every_seconds: float = POLL_SECONDS
) -> None:
    """Wait until the condition holds; raise TimeoutError that says what did not happen."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                if await condition():
                    return
                await asyncio.sleep(every_seconds)
    except TimeoutError:
        raise TimeoutError(f"{what}: not within {seconds:.0f} s") from None
