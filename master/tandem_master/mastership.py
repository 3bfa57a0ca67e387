"""Being the one master of a job: the election, and writes that only its holder can make."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic
from uuid import uuid4

from tandem_api.registry import Keys, MasterRecord
from tandem_checkpoint.registry.errors import Fenced, LeaseLost, RegistryUnreachable
from tandem_checkpoint.registry.store import Absent, Guard, Is, Lease, Present, Put, Registry
from tandem_master.errors import ElectionError

logger = logging.getLogger(__name__)

LEASE_SECONDS = 10
"""Time after which a dead master's place is free."""
ELECTION_SECONDS = 30.0
"""Time to wait for the place of a dead master, or for a registry that is still starting."""
WRITE_SECONDS = 20.0
"""Time in which a write must succeed while the registry comes and goes."""
RETRY_SECONDS = 0.5


class Unmet(Fenced):
    """This master is the job's master still; what else a write depends on does not hold."""


class Mastership:
    """Proof of being the master: every write carries it as its guard."""

    def __init__(self, registry: Registry, keys: Keys, record: str, lease: Lease) -> None:
        self._registry = registry
        self._guard = Is(keys.master, record)
        self._lease = lease

    async def write(self, key: str, value: str, *, leased: bool = False) -> None:
        """Write one key as the master; `leased`: it vanishes with this master.

        Errors: Fenced where somebody else is the master, LeaseLost, RegistryUnreachable past WRITE_SECONDS.
        """
        put = Put(key, value, self._lease.id if leased else 0)
        await self._insist(key, lambda: self._registry.transact([self._guard], [put]))

    async def write_where(self, present: Iterable[str], key: str, value: str) -> bool:
        """Write one key as the master where at that moment all keys `present` exist; tell whether they did.

        Errors: as write.
        """
        guards: list[Guard] = [self._guard, *map(Present, present)]
        try:
            await self._insist(key, lambda: self._registry.transact(guards, [Put(key, value)]))
        except Unmet:
            return False
        return True

    async def delete(self, prefix: str) -> None:
        """Delete every key under a prefix as the master. Errors: as write."""
        await self._insist(prefix, lambda: self._registry.delete(prefix, [self._guard]))

    def check(self) -> None:
        """Raise LeaseLost where this master's lease has expired."""
        if not self._lease.alive:
            raise LeaseLost("the master's lease has expired; another master may have the job")

    async def keep_checking(self) -> None:
        """Never return; raise LeaseLost soon after the lease has expired."""
        while True:
            self.check()
            await asyncio.sleep(RETRY_SECONDS)

    async def _insist(self, key: str, attempt: Callable[[], Awaitable[None]]) -> None:
        """Try for WRITE_SECONDS, as long as this master's lease lives."""
        deadline = monotonic() + WRITE_SECONDS
        while True:
            self.check()
            try:
                return await attempt()
            except Fenced as error:
                holder = await self._registry.get(self._guard.key)
                if holder is None:
                    raise LeaseLost("the registry has dropped this master, and has no other one") from None
                if holder == self._guard.value:
                    raise Unmet(str(error)) from None
                raise
            except RegistryUnreachable as error:
                if monotonic() > deadline:
                    raise
                logger.warning("%s is written again: %s", key, error)
                await asyncio.sleep(RETRY_SECONDS)


@asynccontextmanager
async def elected(
    registry: Registry, keys: Keys, pod: str, patience_seconds: float = ELECTION_SECONDS
) -> AsyncIterator[Mastership]:
    """Become the job's master while the context is open. Errors: ElectionError past `patience_seconds`."""
    record = MasterRecord(incarnation=uuid4().hex, pod=pod).model_dump_json()
    deadline = monotonic() + patience_seconds
    async with AsyncExitStack() as stack:
        lease = await _lease(registry, stack, deadline)
        await _take(registry, keys, Put(keys.master, record, lease.id), deadline)
        logger.info("master of %s/%s: %s", keys.namespace, keys.job, record)
        yield Mastership(registry, keys, record, lease)


async def _lease(registry: Registry, stack: AsyncExitStack, deadline: float) -> Lease:
    while True:
        try:
            return await stack.enter_async_context(registry.lease(LEASE_SECONDS))
        except RegistryUnreachable as error:
            if monotonic() > deadline:
                raise ElectionError(f"registry: {error}; check TANDEM_ETCD") from error
        await asyncio.sleep(RETRY_SECONDS)


async def _take(registry: Registry, keys: Keys, own: Put, deadline: float) -> None:
    while True:
        try:
            await registry.transact([Absent(own.key)], [own])
        except Fenced:
            if monotonic() > deadline:
                raise ElectionError(await _name_holder(registry, keys)) from None
        except RegistryUnreachable as error:
            if monotonic() > deadline:
                raise ElectionError(f"registry: {error}; check TANDEM_ETCD") from error
        else:
            return
        await asyncio.sleep(RETRY_SECONDS)


async def _name_holder(registry: Registry, keys: Keys) -> str:
    value = await registry.get(keys.master)
    holder = MasterRecord.model_validate_json(value) if value else None
    who = f"incarnation {holder.incarnation} in pod {holder.pod}" if holder else "one that has just gone"
    return f"job {keys.namespace}/{keys.job}: it already has a master, {who}; stop that one first"
