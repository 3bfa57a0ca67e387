"""One HTTP request to the API server: its deadline, its repetition and its turn."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field

import aiohttp
import orjson

from tandem_operator.kube.credentials import Connection
from tandem_operator.kube.errors import ApiError, StaleError, UnreachableError, error_of_response
from tandem_operator.kube.limits import WriteLimit
from tandem_operator.kube.manifest import Manifest
from tandem_operator.kube.retry import RetryPolicy

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
USER_AGENT = "tandem-operator"
MAX_LINE_BYTES = 16 * 1024 * 1024
"""An event of a watch is one line; an object is at most 1.5 MiB in etcd."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of the API server."""

    verb: str
    """As RBAC writes it: get, list, watch, create, update, patch, delete."""
    method: str
    path: str
    plural: str
    """Kind of the objects, for metrics."""
    query: tuple[tuple[str, str], ...] = ()
    body: Manifest | None = field(default=None, repr=False)
    content_type: str = JSON

    @property
    def is_write(self) -> bool:
        """Return whether it changes anything."""
        return self.method != "GET"

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class StreamDeadline:
    """How long a stream may last."""

    idle_seconds: float
    """Longest silence; past it StaleError."""
    total_seconds: float
    """Longest time in all; past it the stream ends."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One attempt of a request, for metrics."""

    verb: str
    plural: str
    status: int
    """HTTP status; 0 where no answer came."""
    seconds: float


Observer = Callable[[Sample], None]


def ignore_sample(sample: Sample) -> None:
    """Observe nothing."""


class Transport:
    """Sends requests over one connection."""

    def __init__(
        self,
        connection: Connection,
        *,
        limit: WriteLimit | None,
        retry: RetryPolicy,
        observe: Observer = ignore_sample,
    ) -> None:
        self._connection = connection
        self._limit = limit
        self._retry = retry
        self._observe = observe

    def with_policy(self, *, limit: WriteLimit | None, retry: RetryPolicy) -> "Transport":
        """Return a transport over the same connection with another limit and other deadlines."""
        return Transport(self._connection, limit=limit, retry=retry, observe=self._observe)

    async def send(self, request: Request) -> Manifest:
        """Return the answer; transient failures are tried again until the deadline, then raised as ApiError.

        A write that met UnreachableError may have been carried out: a repeated create may then say AlreadyExistsError.
        """
        spent_seconds = 0.0
        num_attempts = 0
        while True:
            num_attempts += 1
            async with self._turn(request):
                started_at = time.monotonic()
                try:
                    return await self._attempt(request, self._retry.deadline_seconds - spent_seconds)
                except ApiError as error:
                    spent_seconds += time.monotonic() - started_at
                    pause_seconds = self._retry.pause_seconds(error, num_attempts, random.random())
                    if pause_seconds is None or spent_seconds + pause_seconds >= self._retry.deadline_seconds:
                        raise
            await asyncio.sleep(pause_seconds)
            spent_seconds += pause_seconds

    @contextlib.asynccontextmanager
    async def lines(self, request: Request, deadline: StreamDeadline) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a stream and give its lines as they come. Nothing is repeated here."""
        async with contextlib.AsyncExitStack() as stack:
            response = await self._stream(request, stack)
            async with contextlib.aclosing(_lines(response, request, deadline)) as lines:
                yield lines

    async def _stream(self, request: Request, stack: contextlib.AsyncExitStack) -> aiohttp.ClientResponse:
        """Return an opened stream, which `stack` closes."""
        started_at = time.monotonic()
        status = 0
        try:
            async with asyncio.timeout(self._retry.attempt_seconds):
                response = await stack.enter_async_context(await self._response(request))
                status = response.status
                if status >= 400:
                    raise _refusal(response, await response.read(), request)
                return response
        except (aiohttp.ClientError, OSError) as error:
            status = 0
            raise _no_answer(request, error) from error
        finally:
            self._observe(Sample(request.verb, request.plural, status, time.monotonic() - started_at))

    def _turn(self, request: Request) -> contextlib.AbstractAsyncContextManager[None]:
        """Return what holds a turn to write; nothing for a request that only reads."""
        return contextlib.nullcontext() if self._limit is None or not request.is_write else self._limit.turn()

    async def _attempt(self, request: Request, left_seconds: float) -> Manifest:
        """Return the answer to one attempt."""
        started_at = time.monotonic()
        status = 0
        try:
            async with asyncio.timeout(min(self._retry.attempt_seconds, left_seconds)):
                async with await self._response(request) as response:
                    status = response.status
                    payload = await response.read()
        except (aiohttp.ClientError, OSError) as error:
            status = 0
            raise _no_answer(request, error) from error
        finally:
            self._observe(Sample(request.verb, request.plural, status, time.monotonic() - started_at))
        if status >= 400:
            raise _refusal(response, payload, request)
        return _decoded(payload, request)

    async def _response(self, request: Request) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Return the opened response, its body unread."""
        endpoint = self._connection.endpoint
        headers = {
            **await self._connection.authorization(),
            "Accept": JSON,
            "Accept-Encoding": "identity",  # within a cluster compression costs both sides more than the bytes
            "User-Agent": USER_AGENT,
        }
        if request.body is not None:
            headers["Content-Type"] = request.content_type
        return self._connection.session.request(
            request.method,
            endpoint.url + request.path,
            params=request.query,
            data=None if request.body is None else orjson.dumps(request.body),
            headers=headers,
            proxy=endpoint.proxy,
            server_hostname=endpoint.server_hostname,
            allow_redirects=False,
        )


def _refusal(response: aiohttp.ClientResponse, payload: bytes, request: Request) -> ApiError:
    """Return the error of a response whose status is one."""
    return error_of_response(
        payload,
        http_status=response.status,
        request=str(request),
        retry_after_seconds=retry_after_seconds(response.headers.get("Retry-After")),
    )


def retry_after_seconds(header: str | None) -> float | None:
    """Return the wait of a Retry-After header in seconds; None where it has none that counts seconds."""
    return float(header) if header is not None and header.strip().isdecimal() else None


def _no_answer(request: Request, error: Exception) -> UnreachableError:
    """Return the error of a request to which nothing, or only a part, came back."""
    reason = "Timeout" if isinstance(error, TimeoutError) else "ConnectionFailed"
    told = " ".join(str(error).split()) or ("no answer in time" if reason == "Timeout" else type(error).__name__)
    return UnreachableError(0, reason, f"{request}: {told}")


def _decoded(payload: bytes, request: Request) -> Manifest:
    """Return the object in a body."""
    try:
        manifest = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise ApiError(0, "NotJson", f"{request}: the answer is not JSON ({error})") from error
    if not isinstance(manifest, dict):
        raise ApiError(0, "NotJson", f"{request}: the answer is no JSON object")
    return manifest


async def _lines(
    response: aiohttp.ClientResponse, request: Request, deadline: StreamDeadline
) -> AsyncGenerator[bytes, None]:
    """Yield the complete lines of a body as they come; a torn last one is dropped."""
    ends_at = time.monotonic() + deadline.total_seconds
    rest = b""
    while (left_seconds := ends_at - time.monotonic()) > 0:
        chunk = await _chunk(response, request, min(deadline.idle_seconds, left_seconds))
        if not chunk:
            return
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line
        if len(rest) > MAX_LINE_BYTES:
            raise ApiError(0, "LineTooLong", f"{request}: an event is longer than {MAX_LINE_BYTES} bytes")


async def _chunk(response: aiohttp.ClientResponse, request: Request, idle_seconds: float) -> bytes:
    """Return the next bytes of a body; none at its end."""
    try:
        async with asyncio.timeout(idle_seconds):
            return await response.content.readany()
    except TimeoutError:
        raise StaleError(0, "Stale", f"{request}: nothing came for {idle_seconds:.0f} s") from None
    except (aiohttp.ClientError, OSError) as error:
        raise _no_answer(request, error) from error
