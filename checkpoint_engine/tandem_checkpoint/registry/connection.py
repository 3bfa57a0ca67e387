"""One connection to etcd: a channel that finds etcd again soon, the login, and calls that outlast a short absence."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import TypeVar

import grpc  # type: ignore[import-untyped]
import grpc.aio  # type: ignore[import-untyped]
from etcd3aio._protobuf import WatchCreateRequest, WatchRequest, WatchStub
from etcd3aio.auth import AuthService
from etcd3aio.connections import ConnectionManager
from etcd3aio.errors import (
    EtcdConnectionError,
    EtcdPermissionDeniedError,
    EtcdTransientError,
    EtcdUnauthenticatedError,
)
from etcd3aio.kv import KVService
from etcd3aio.lease import LeaseService

from tandem_checkpoint.registry.addresses import resolve
from tandem_checkpoint.registry.credentials import NOBODY, PASSWORD_FILE, USER, EtcdCredentials
from tandem_checkpoint.registry.errors import LeaseLost, RegistryRefused, RegistryUnreachable

CALL_SECONDS = 5.0
"""Deadline of one try of a call."""
LEAST_CALL_SECONDS = 0.5
"""Deadline of the last try, however little of the time is left."""
PATIENCE_SECONDS = 8.0
"""How long a call is tried again while etcd is away: less than a member's lease lasts."""
PAUSE_SECONDS = 0.2
"""Pause between two tries."""
MAX_LOGINS = 2
"""Logins of one call: one for the token that has expired, one for the one that expires meanwhile."""
CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),  # gRPC's own two minutes would outlast every deadline here
    ("grpc.min_reconnect_backoff_ms", 3000),  # deadline of one attempt to connect, in spite of its name
)
AWAY = (EtcdConnectionError, EtcdTransientError, TimeoutError)
"""Errors that pass once etcd is back."""
REFUSED = (EtcdUnauthenticatedError, EtcdPermissionDeniedError, grpc.aio.AioRpcError)
"""Errors that trying again does not mend, but for those of an old login."""
STALE_AUTH = "revision of auth store is old"
"""What etcd says where its users have changed since we logged in."""
ABOUT_USERS = re.compile(r"\b(user|auth|authentication)\b")
"""Refusals that have to do with who we are, among etcd's other errors."""

T = TypeVar("T")


class EtcdConnection:
    """What speaks to etcd over one channel."""

    def __init__(self, channel: grpc.aio.Channel, credentials: EtcdCredentials, patience_seconds: float) -> None:
        self.kv = KVService(channel, max_attempts=1)
        self.leases = LeaseService(channel, max_attempts=1)
        self._auth = AuthService(channel, max_attempts=1)
        self._watches = WatchStub(channel)
        self._credentials = credentials
        self._patience_seconds = patience_seconds
        self._token: str | None = None
        self._logging_in = asyncio.Lock()

    async def call(self, operation: str, attempt: Callable[[float], Awaitable[T]]) -> T:
        """Return what `attempt` does, given its deadline in seconds; while etcd is away it is made again.

        An attempt must be safe to repeat: one that got no answer may have been carried out.
        Errors: RegistryUnreachable, RegistryRefused, LeaseLost.
        """
        give_up_at = monotonic() + self._patience_seconds
        logins = 0
        while True:
            token = self._token
            try:
                return await self._try(attempt, give_up_at - monotonic())
            except AWAY as error:
                if monotonic() + PAUSE_SECONDS >= give_up_at:
                    raise RegistryUnreachable(f"etcd: {operation} got no answer ({error}); is it running?") from error
                await asyncio.sleep(PAUSE_SECONDS)
            except REFUSED as error:
                logins += 1
                if not _token_is_old(error) or token is None or logins > MAX_LOGINS:
                    raise _as_ours(operation, error) from error
                self._forget(token)

    async def open_watch(self, first: bytes, end: bytes, revision: int) -> grpc.aio.StreamStreamCall:
        """Return a stream of etcd's WatchResponses from a revision on: no reconnection, since etcd may come back empty.

        Errors: grpc.aio.AioRpcError, TimeoutError.
        """
        stream = self._watches.Watch(metadata=(("token", self._token),) if self._token else None)
        create = WatchCreateRequest(key=first, range_end=end, start_revision=revision)
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await stream.write(WatchRequest(create_request=create))
        except BaseException:  # also a cancelled one; it is raised again
            stream.cancel()
            raise
        return stream

    @property
    def token(self) -> str | None:
        """What stands for our login; None before it and where no user is named."""
        return self._token

    async def log_in_again(self, token: str | None) -> None:
        """Log in anew where `token`, which etcd does not know any more, is still the one in use."""
        self._forget(token)
        await self._log_in()

    async def _try(self, attempt: Callable[[float], Awaitable[T]], seconds_left: float) -> T:
        seconds = max(LEAST_CALL_SECONDS, min(CALL_SECONDS, seconds_left))
        async with asyncio.timeout(seconds):
            await self._log_in()
            return await attempt(seconds)

    def _forget(self, token: str | None) -> None:
        if self._token == token:
            self._token = None

    async def _log_in(self) -> None:
        """Log in where a user is named and no token is at hand; several calls at once share one login."""
        user = self._credentials.user
        if user is None or self._token is not None:
            return
        async with self._logging_in:
            if self._token is not None:
                return
            password = await asyncio.to_thread(self._credentials.password)
            answer = await self._auth.authenticate(user, password, timeout=CALL_SECONDS)
            for service in (self.kv, self.leases):
                service.set_token(answer.token)
            self._token = answer.token


@asynccontextmanager
async def open_connection(
    endpoints: Sequence[str], credentials: EtcdCredentials = NOBODY, patience_seconds: float = PATIENCE_SECONDS
) -> AsyncIterator[EtcdConnection]:
    """Open a channel to the etcd at `host:port` endpoints; nothing is sent until the first call.

    With TLS, etcd's certificate must hold for the host of the first endpoint: they are reached by their addresses, and
    gRPC checks one name for all of them.
    """
    manager = ConnectionManager(await resolve(endpoints))
    manager.grpc_options.extend(CHANNEL_OPTIONS)
    tls = await asyncio.to_thread(credentials.tls)
    if tls is None:
        channel = manager.get_channel()
    else:
        authority, key, certificate = tls
        channel = manager.get_channel(authority, key, certificate, tls_server_name=endpoints[0].rpartition(":")[0])
    async with channel:
        yield EtcdConnection(channel, credentials, patience_seconds)


def words(error: grpc.aio.AioRpcError) -> str:
    """Return an error of gRPC for people."""
    return f"{error.code().name}: {error.details()}"


def _token_is_old(error: BaseException) -> bool:
    """Tell whether another login can help."""
    if isinstance(error, grpc.aio.AioRpcError):
        return STALE_AUTH in (error.details() or "")
    return isinstance(error, EtcdUnauthenticatedError)


def _as_ours(operation: str, error: BaseException) -> Exception:
    """Return the registry's own error for one that trying again does not mend."""
    details = str(error)
    if isinstance(error, grpc.aio.AioRpcError):
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return LeaseLost(f"etcd: {operation} hangs on a lease that has expired")
        details = error.details() or ""
        if not ABOUT_USERS.search(details):
            return RegistryUnreachable(f"etcd: {operation} failed ({words(error)}); see etcd's log")
    return RegistryRefused(
        f"etcd: {operation} was refused ({details}); look at {USER}, {PASSWORD_FILE} and the user's role in etcd"
    )
