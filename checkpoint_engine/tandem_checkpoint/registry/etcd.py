"""The registry on a real etcd, by way of etcd3aio (grpc.aio)."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import grpc.aio  # type: ignore[import-untyped]
from etcd3aio._protobuf import Compare, RangeResponse, RequestOp
from etcd3aio.kv import KVService, prefix_range_end

from tandem_checkpoint.registry.connection import PATIENCE_SECONDS, EtcdConnection, open_connection, words
from tandem_checkpoint.registry.credentials import NOBODY, EtcdCredentials
from tandem_checkpoint.registry.errors import Fenced, RegistryRefused, RegistryUnreachable
from tandem_checkpoint.registry.lease import EtcdLease
from tandem_checkpoint.registry.store import Absent, Change, Guard, Is, Present, Put, Registry

logger = logging.getLogger(__name__)

WATCH_RETRY_SECONDS = 0.5
"""Pause before a broken watch is opened again."""
PAGE_KEYS = 32
"""Keys of one page of a list; a value is far below 128 KiB (etcd takes at most 1.5 MiB a request)."""
DELETE_EVENT = 1
"""etcd's number for a deletion in a watch (mvccpb.Event.EventType)."""


@asynccontextmanager
async def connect(
    endpoints: Sequence[str], credentials: EtcdCredentials = NOBODY, *, patience_seconds: float = PATIENCE_SECONDS
) -> AsyncIterator[Registry]:
    """Connect to the etcd at `host:port` endpoints; nothing is sent until the first call.

    A call is made again for `patience_seconds` while etcd is away. Names are resolved here, once: a connection that is
    lost for good must be made anew to find etcd elsewhere.
    """
    async with open_connection(endpoints, credentials, patience_seconds) as connection:
        yield EtcdRegistry(connection)


class EtcdRegistry:
    """See Registry: this class adds nothing to the protocol."""

    def __init__(self, connection: EtcdConnection) -> None:
        self._connection = connection
        self._kv = connection.kv

    async def get(self, key: str) -> str | None:
        response = await self._connection.call(f"get {key}", lambda seconds: self._kv.get(key, timeout=seconds))
        return response.kvs[0].value.decode() if response.kvs else None

    async def list(self, prefix: str) -> Mapping[str, str]:
        return (await self._list(prefix))[0]

    async def put(self, key: str, value: str, *, lease: int = 0) -> None:
        await self._connection.call(
            f"put {key}", lambda seconds: self._kv.put(key, value, lease=lease, timeout=seconds)
        )

    async def transact(self, guards: Sequence[Guard], puts: Sequence[Put]) -> None:
        operations = [self._kv.txn_op_put(put.key, put.value, lease=put.lease) for put in puts]
        done = await self._where(guards, operations, f"transact {[put.key for put in puts]}")
        if not done and not await self._holds(puts):
            raise Fenced(f"the registry refused to write {', '.join(put.key for put in puts)}: {guards} does not hold")

    async def delete(self, prefix: str, guards: Sequence[Guard] = ()) -> None:
        operation = self._kv.txn_op_delete(prefix, range_end=prefix_range_end(prefix))
        done = await self._where(guards, [operation], f"delete {prefix}")
        if not done and await self.list(prefix):
            raise Fenced(f"the registry refused to delete {prefix}: {guards} does not hold")

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
            except (RegistryUnreachable, RegistryRefused) as error:
                logger.warning("watch of %s broke (%s); opening it again", prefix, error)
            await asyncio.sleep(WATCH_RETRY_SECONDS)

    @asynccontextmanager
    async def lease(self, seconds: int) -> AsyncIterator[EtcdLease]:
        granted = await self._connection.call(
            "lease", lambda deadline: self._connection.leases.grant(seconds, timeout=deadline)
        )
        lease = EtcdLease(self._connection, granted.ID, seconds)
        renewal = asyncio.create_task(lease.renew(), name=f"lease {granted.ID}")
        try:
            yield lease
        finally:
            renewal.cancel()
            await asyncio.wait({renewal})  # and not on itself: that would swallow a cancellation of ours
            await lease.revoke()

    async def _where(self, guards: Sequence[Guard], operations: Sequence[RequestOp], operation: str) -> bool:
        """Do all `operations` where all `guards` hold, at once; tell whether they held."""
        compare = [_compare(guard) for guard in guards]
        response = await self._connection.call(
            operation, lambda seconds: self._kv.txn(compare, operations, timeout=seconds)
        )
        return bool(response.succeeded)

    async def _list(self, prefix: str) -> tuple[dict[str, str], int]:
        """Return all keys with their values at one revision, page by page: gRPC takes at most 4 MiB a message."""
        values: dict[str, str] = {}
        start, revision = prefix.encode(), 0
        while True:
            response = await self._page(start, prefix, revision)
            revision = revision or response.header.revision
            values |= {item.key.decode(): item.value.decode() for item in response.kvs}
            if not response.more:
                return values, revision
            start = response.kvs[-1].key + b"\0"

    async def _page(self, start: bytes, prefix: str, revision: int) -> RangeResponse:
        end = prefix_range_end(prefix)
        return await self._connection.call(
            f"list {prefix}",
            lambda seconds: self._kv.get(start, end, revision=revision, limit=PAGE_KEYS, timeout=seconds),
        )

    async def _changes(self, prefix: str, revision: int) -> AsyncIterator[tuple[Change, ...]]:
        """Yield what changes from a revision on, until etcd ends the watch. Errors: RegistryUnreachable."""
        try:
            stream = await self._connection.open_watch(prefix.encode(), prefix_range_end(prefix), revision)
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            raise RegistryUnreachable(f"etcd: the watch of {prefix} could not be opened ({error})") from error
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
            raise RegistryUnreachable(words(error)) from error
        finally:
            stream.cancel()

    async def _holds(self, puts: Sequence[Put]) -> bool:
        """Tell whether the writes are there already: a retried call may have been applied the first time."""
        return bool(puts) and all([await self.get(put.key) == put.value for put in puts])


def _compare(guard: Guard) -> Compare:
    match guard:
        case Is(key, value):
            return KVService.txn_compare_value(key, value)
        case Absent(key):
            return KVService.txn_compare_create_revision(key, 0)
        case Present(key):
            return KVService.txn_compare_create_revision(key, 0, result=Compare.GREATER)


__all__ = ["EtcdRegistry", "connect"]
