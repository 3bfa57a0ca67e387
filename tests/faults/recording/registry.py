"""Follows all keys of a job in etcd, revision by revision, through outages and through databases that begin anew."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import grpc  # type: ignore[import-untyped]
import grpc.aio  # type: ignore[import-untyped]
from etcd3aio._protobuf import KVStub, RangeRequest, WatchCreateRequest, WatchRequest, WatchStub
from etcd3aio.kv import prefix_range_end

from tests.faults.history import Change
from tests.faults.values import Value, parse_value

logger = logging.getLogger(__name__)

T = TypeVar("T")
RETRY_SECONDS = 0.1
ASK_SECONDS = 0.5
"""How often the registry is asked for its revision: a lower one than the known one is another database."""
DELETED = 1
OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 300),
    ("grpc.enable_http_proxy", 0),
)


class RegistryRecorder:
    """All changes of the keys under one prefix, and the keys as they are now."""

    def __init__(self, endpoint: str, prefix: str) -> None:
        self._endpoint = endpoint
        self._prefix = prefix
        self._changed = asyncio.Event()
        self._reopen = asyncio.Event()
        self._revision = 0
        self.life = 0
        self.changes: list[Change] = []
        self.values: dict[str, Value] = {}
        self.leases: dict[str, int] = {}
        """Lease of every key that has one."""
        self.listeners: list[Callable[[Change], None]] = []

    def begin_life(self) -> None:
        """Take what comes from now on for another database, from its first revision."""
        self.life += 1
        self._revision = 0
        self.values.clear()
        self.leases.clear()
        self._reopen.set()

    async def run(self) -> None:
        """Record until cancelled."""
        while True:
            self._reopen.clear()
            async with grpc.aio.insecure_channel(self._endpoint, options=OPTIONS) as channel:
                tasks = [
                    asyncio.create_task(work, name=name)
                    for work, name in (
                        (self._follow(channel), "registry events"),
                        (self._ask(channel), "registry revision"),
                        (self._reopen.wait(), "registry begins anew"),
                    )
                ]
                try:
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(RETRY_SECONDS)

    async def wait(self, find: Callable[[Mapping[str, Value]], T | None], seconds: float) -> T:
        """Return the first value of `find` that is not None. Errors: TimeoutError."""
        async with asyncio.timeout(seconds):
            while (found := find(self.values)) is None:
                changed = self._changed
                await changed.wait()
            return found

    async def _follow(self, channel: grpc.aio.Channel) -> None:
        """Take in events after the last known revision, until the stream breaks or another database takes its place."""
        life = self.life
        start, end = self._prefix.encode(), prefix_range_end(self._prefix)
        create = WatchCreateRequest(key=start, range_end=end, start_revision=self._revision + 1)
        call = WatchStub(channel).Watch(wait_for_ready=True)
        try:
            await call.write(WatchRequest(create_request=create))
            async for response in call:
                if self.life != life:
                    return  # the last words of the database before
                for event in response.events:
                    self._take(event)
        except grpc.aio.AioRpcError as error:
            logger.debug("the stream of events broke: %s", error.code())
        finally:
            call.cancel()

    def _take(self, event: object) -> None:
        kv = event.kv  # type: ignore[attr-defined]
        key = kv.key.decode().removeprefix(self._prefix)
        value = None if event.type == DELETED else parse_value(key, kv.value.decode())  # type: ignore[attr-defined]
        self._revision = max(self._revision, kv.mod_revision)
        change = Change(time.time(), self.life, kv.mod_revision, key, value)
        self.changes.append(change)
        if value is None:
            self.values.pop(key, None)
            self.leases.pop(key, None)
        else:
            self.values[key] = value
            self.leases[key] = kv.lease
        for listener in self.listeners:
            listener(change)
        self._changed.set()
        self._changed = asyncio.Event()

    async def _ask(self, channel: grpc.aio.Channel) -> None:
        """Notice a database that has begun anew without a word."""
        while True:
            await asyncio.sleep(ASK_SECONDS)
            known = self._revision
            request = RangeRequest(key=self._prefix.encode(), count_only=True)
            try:
                answer = await KVStub(channel).Range(request, timeout=ASK_SECONDS)
            except grpc.aio.AioRpcError:
                continue
            if answer.header.revision < known:
                logger.info("the registry has begun anew")
                self.begin_life()
