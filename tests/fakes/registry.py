"""A registry in memory that keeps etcd's promises: transactions, leases, watches without a gap."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

from tandem_checkpoint.registry.errors import Fenced, LeaseLost, RegistryUnreachable
from tandem_checkpoint.registry.store import Absent, Change, Guard, Is, Present, Put


@dataclass(slots=True)
class FakeLease:
    """A lease that lasts until a test expires it."""

    id: int
    end: Callable[[int], None]
    alive: bool = True

    async def revoke(self) -> None:
        if self.alive:
            self.end(self.id)


@dataclass(slots=True, eq=False)
class Watcher:
    """One open watch."""

    prefix: str
    queue: asyncio.Queue[tuple[Change, ...]] = field(default_factory=asyncio.Queue)


class FakeRegistry:
    """See tandem_checkpoint.registry.store.Registry. `reachable = False` makes every call fail."""

    def __init__(self) -> None:
        self.reachable = True
        self.leases: dict[int, FakeLease] = {}
        self._values: dict[str, str] = {}
        self._owners: dict[str, int] = {}
        self._watchers: set[Watcher] = set()
        self._numbers = count(1)

    async def get(self, key: str) -> str | None:
        await self._arrive()
        return self._values.get(key)

    async def list(self, prefix: str) -> Mapping[str, str]:
        await self._arrive()
        return {key: self._values[key] for key in sorted(self._values) if key.startswith(prefix)}

    async def put(self, key: str, value: str, *, lease: int = 0) -> None:
        await self.transact([], [Put(key, value, lease)])

    async def transact(self, guards: Sequence[Guard], puts: Sequence[Put]) -> None:
        await self._arrive()
        if not all(self._holds(guard) for guard in guards):
            if puts and all(self._values.get(put.key) == put.value for put in puts):
                return
            raise Fenced(f"{guards} does not hold")
        if any(put.lease and not self.leases[put.lease].alive for put in puts):
            raise LeaseLost("a key cannot hang on a lease that has expired")
        for put in puts:
            self._values[put.key] = put.value
            self._owners[put.key] = put.lease
        self._tell([Change(put.key, put.value) for put in puts])

    async def delete(self, prefix: str, guards: Sequence[Guard] = ()) -> None:
        await self._arrive()
        found = [key for key in self._values if key.startswith(prefix)]
        if found and not all(self._holds(guard) for guard in guards):
            raise Fenced(f"{guards} does not hold")
        self._remove(found)

    async def watch(self, prefix: str) -> AsyncIterator[tuple[Change, ...]]:
        watcher = Watcher(prefix)
        self._watchers.add(watcher)
        try:
            yield tuple(Change(key, value) for key, value in self._values.items() if key.startswith(prefix))
            while True:
                yield await watcher.queue.get()
        finally:
            self._watchers.discard(watcher)

    @asynccontextmanager
    async def lease(self, seconds: int) -> AsyncIterator[FakeLease]:
        await self._arrive()
        lease = FakeLease(next(self._numbers), self.expire)
        self.leases[lease.id] = lease
        try:
            yield lease
        finally:
            self.expire(lease.id)

    def expire(self, lease_id: int) -> None:
        """End a lease: its keys vanish."""
        self.leases[lease_id].alive = False
        self._remove([key for key, owner in self._owners.items() if owner == lease_id])

    def expire_owner(self, key: str) -> None:
        """End the lease that `key` hangs on."""
        self.expire(self._owners[key])

    def _holds(self, guard: Guard) -> bool:
        match guard:
            case Is(key, value):
                return self._values.get(key) == value
            case Absent(key):
                return key not in self._values
            case Present(key):
                return key in self._values

    def _remove(self, keys: Sequence[str]) -> None:
        for key in keys:
            del self._values[key]
            del self._owners[key]
        self._tell([Change(key, None) for key in keys])

    def _tell(self, changes: Sequence[Change]) -> None:
        for watcher in self._watchers:
            mine = tuple(change for change in changes if change.key.startswith(watcher.prefix))
            if mine:
                watcher.queue.put_nowait(mine)

    async def _arrive(self) -> None:
        await asyncio.sleep(0)
        if not self.reachable:
            raise RegistryUnreachable("the registry is down")
