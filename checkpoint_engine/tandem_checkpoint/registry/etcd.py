"""The registry on a real etcd, by way of etcd3aio (grpc.aio)."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from time import monotonic

import grpc  # type: ignore[import-untyped]
import grpc.aio  # type: ignore[import-untyped]
from etcd3aio import Etcd3Client, EtcdError
from etcd3aio._protobuf import Compare, LeaseKeepAliveResponse
from etcd3aio.kv import KVService, prefix_range_end
from etcd3aio.lease import LeaseService
from etcd3aio.watch import WatchService

from tandem_checkpoint.registry.addresses import resolve
from tandem_checkpoint.registry.errors import Fenced, LeaseLost, RegistryError, RegistryUnreachable
from tandem_checkpoint.registry.store import Absent, Change, Guard, Is, Put, Registry

logger = logging.getLogger(__name__)

CALL_SECONDS = 5.0
"""Deadline of one call."""
WATCH_RETRY_SECONDS = 0.5
"""Pause before a broken watch is opened again."""
PAGE_KEYS = 32
"""Keys of one page of a list; a value is far below 128 KiB (etcd takes at most 1.5 MiB a request)."""
DELETE_EVENT = 1
"""etcd's number for a deletion in a watch (mvccpb.Event.EventType)."""


@asynccontextmanager
async def connect(endpoints: Sequence[str]) -> AsyncIterator[Registry]:
    """Connect to the etcd at `host:port` endpoints; nothing is sent until the first call.

    Names are resolved here, once: a connection that is lost for good must be made anew to find etcd elsewhere.
    """
    async with Etcd3Client(list(await resolve(endpoints))) as client:
        assert client.kv is not None
        assert client.lease is not None
        assert client.watch is not None
        yield EtcdRegistry(client.kv, client.lease, client.watch)


@asynccontextmanager
async def _mapped(operation: str) -> AsyncIterator[None]:
    """Turn the client's errors and a missed deadline into the registry's own."""
    try:
        async with asyncio.timeout(CALL_SECONDS * 3):
            yield
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            raise LeaseLost(f"etcd: {operation} hangs on a lease that has expired") from error
        raise RegistryUnreachable(f"etcd: {operation} failed ({_words(error)}); see etcd's log") from error
    except (EtcdError, TimeoutError) as error:
        raise RegistryUnreachable(f"etcd: {operation} got no answer ({error}); is it running?") from error


class EtcdRegistry:
    """See Registry: this class adds nothing to the protocol."""

    def __init__(self, kv: KVService, leases: LeaseService, watches: WatchService) -> None:
        self._kv = kv
        self._leases = leases
        self._watches = watches

    async def get(self, key: str) -> str | None:
        async with _mapped(f"get {key}"):
            response = await self._kv.get(key, timeout=CALL_SECONDS)
        return response.kvs[0].value.decode() if response.kvs else None

    async def list(self, prefix: str) -> Mapping[str, str]:
        return (await self._list(prefix))[0]

    async def put(self, key: str, value: str, *, lease: int = 0) -> None:
        async with _mapped(f"put {key}"):
            await self._kv.put(key, value, lease=lease, timeout=CALL_SECONDS)

    async def transact(self, guards: Sequence[Guard], puts: Sequence[Put]) -> None:
        compare = [_compare(guard) for guard in guards]
        success = [self._kv.txn_op_put(put.key, put.value, lease=put.lease) for put in puts]
        async with _mapped(f"transact {[put.key for put in puts]}"):
            response = await self._kv.txn(compare, success, timeout=CALL_SECONDS)
        if not response.succeeded and not await self._holds(puts):
            raise Fenced(f"the registry refused to write {', '.join(put.key for put in puts)}: {guards} does not hold")

    async def delete(self, prefix: str) -> None:
        async with _mapped(f"delete {prefix}"):
            await self._kv.delete(prefix, range_end=prefix_range_end(prefix), timeout=CALL_SECONDS)

    async def watch(self, prefix: str) -> AsyncIterator[tuple[Change, ...]]:
        known: set[str] = set()
        while True:
            try:
                values, revision = await self._list(prefix)
                gone = tuple(Change(key, None) for key in sorted(known - values.keys()))
                known = set(values)
                yield gone + tuple(Change(key, value) for key, value in values.items())
                async for changes in self._changes(prefix, revision + 1):
                    for change in changes:
                        (known.discard if change.value is None else known.add)(change.key)
                    yield changes
            except RegistryUnreachable as error:
                logger.warning("watch of %s broke (%s); opening it again", prefix, error)
            await asyncio.sleep(WATCH_RETRY_SECONDS)

    @asynccontextmanager
    async def lease(self, seconds: int) -> AsyncIterator["EtcdLease"]:
        async with _mapped("lease"):
            granted = await self._leases.grant(seconds, timeout=CALL_SECONDS)
        lease = EtcdLease(self._leases, granted.ID, seconds)
        renewal = asyncio.create_task(lease.renew(), name=f"lease {granted.ID}")
        try:
            yield lease
        finally:
            renewal.cancel()
            with suppress(asyncio.CancelledError):
                await renewal
            await lease.revoke()

    async def _list(self, prefix: str) -> tuple[dict[str, str], int]:
        """Return all keys with their values at one revision, page by page: gRPC takes at most 4 MiB a message."""
        values: dict[str, str] = {}
        start, end, revision = prefix.encode(), prefix_range_end(prefix), 0
        while True:
            async with _mapped(f"list {prefix}"):
                response = await self._kv.get(start, end, revision=revision, limit=PAGE_KEYS, timeout=CALL_SECONDS)
            revision = revision or response.header.revision
            values |= {item.key.decode(): item.value.decode() for item in response.kvs}
            if not response.more:
                return values, revision
            start = response.kvs[-1].key + b"\0"

    async def _changes(self, prefix: str, revision: int) -> AsyncIterator[tuple[Change, ...]]:
        stream = self._watches.watch(prefix, prefix_range_end(prefix), start_revision=revision)
        try:
            async for response in stream:
                if response.compact_revision or response.canceled:
                    return
                if response.events:
                    yield tuple(
                        Change(event.kv.key.decode(), None if event.type == DELETE_EVENT else event.kv.value.decode())
                        for event in response.events
                    )
        except grpc.aio.AioRpcError as error:
            raise RegistryUnreachable(_words(error)) from error
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    async def _holds(self, puts: Sequence[Put]) -> bool:
        """Tell whether the writes are there already: a retried call may have been applied the first time."""
        return bool(puts) and all([await self.get(put.key) == put.value for put in puts])


class EtcdLease:
    """See Lease."""

    def __init__(self, leases: LeaseService, lease_id: int, seconds: int) -> None:
        self._leases = leases
        self._id = lease_id
        self._seconds = seconds
        self._renewed_at = monotonic()
        self._expired = False
        self._revoked = False

    @property
    def id(self) -> int:
        return self._id

    @property
    def alive(self) -> bool:
        return not self._expired and monotonic() - self._renewed_at < self._seconds

    async def renew(self) -> None:
        """Renew at a third of the time to live until the lease is gone; a missed answer is tried again."""
        while self.alive:
            await asyncio.sleep(self._seconds / 3 if monotonic() - self._renewed_at < self._seconds / 3 else 0.2)
            sent_at = monotonic()
            try:
                async with asyncio.timeout(max(1.0, self._seconds / 3)):
                    answer = await self._renew_once()
            except (EtcdError, TimeoutError, OSError, RegistryError) as error:
                logger.warning("lease %d was not renewed: %s", self._id, error)
                continue
            if answer.TTL <= 0:
                self._expired = True
            else:
                self._renewed_at = sent_at

    async def revoke(self) -> None:
        if self._revoked:
            return
        self._expired = self._revoked = True
        with suppress(EtcdError, TimeoutError, grpc.aio.AioRpcError):  # it may be gone already, or etcd itself
            await self._leases.revoke(self._id, timeout=1.0, max_attempts=1)

    async def _renew_once(self) -> LeaseKeepAliveResponse:
        stream = self._leases.keep_alive(self._id)
        try:
            async for answer in stream:
                return answer
        except grpc.aio.AioRpcError as error:
            raise RegistryUnreachable(f"etcd: {_words(error)}") from error
        finally:
            stream.cancel()
        raise RegistryUnreachable("etcd closed the stream of the lease")


def _words(error: grpc.aio.AioRpcError) -> str:
    return f"{error.code().name}: {error.details()}"


def _compare(guard: Guard) -> Compare:
    match guard:
        case Is(key, value):
            return KVService.txn_compare_value(key, value)
        case Absent(key):
            return KVService.txn_compare_create_revision(key, 0)


__all__ = ["EtcdRegistry", "connect"]
