"""A member's place in the registry: a lease, an incarnation, and the record that others find it by."""

import asyncio
import logging
import secrets
from contextlib import AsyncExitStack
from time import monotonic

from tandem_api.registry import MemberRecord
from tandem_checkpoint.registry.errors import LeaseLost, RegistryError, RegistryUnreachable
from tandem_checkpoint.registry.mirror import Mirror
from tandem_checkpoint.registry.store import Lease
from tandem_checkpoint.switch.side import Side, Surroundings

logger = logging.getLogger(__name__)

LEASE_SECONDS = 10
JOIN_SECONDS = 600.0
"""Time that the registry may be away for before a member gives up and its container is started again."""
RETRY_SECONDS = 0.5


class Membership:
    """Joins, and joins again under a new lease and a new incarnation."""

    def __init__(self, side: Side, around: Surroundings) -> None:
        self._side = side
        self._around = around
        self._stack = AsyncExitStack()
        self._lease: Lease | None = None

    @property
    def lost(self) -> bool:
        """Whether the registry has dropped this member; False while it joins."""
        return self._lease is not None and not self._lease.alive

    @property
    def joined(self) -> bool:
        """Whether others may take this member for alive."""
        return self._lease is not None and self._lease.alive

    async def join(self) -> None:
        """Register under a new lease with a new incarnation; return once this member's copy of the registry shows it.

        An older copy may still be that of an etcd which has come back empty since: its word would have a higher epoch
        than all that follow. Errors: RegistryUnreachable past JOIN_SECONDS.
        """
        deadline = monotonic() + JOIN_SECONDS
        while True:
            await self.leave()
            try:
                await self._register()
                await self._appear(deadline - monotonic())
            except (RegistryUnreachable, LeaseLost) as error:
                if monotonic() > deadline:
                    raise
                logger.warning("not registered yet: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    async def announce(self) -> None:
        """Write the record again: it has changed."""
        try:
            await self._put_record()
        except RegistryError as error:
            logger.warning("the record is written when this member rejoins: %s", error)

    def drop(self) -> None:
        """Forget a lease that is lost."""
        self._lease = None

    async def leave(self) -> None:
        """Revoke the lease: nobody shall ask anything of this member any more."""
        lease, self._lease = self._lease, None
        if lease is not None:
            await lease.revoke()
        await self._stack.aclose()

    async def _register(self) -> None:
        self._lease = await self._stack.enter_async_context(self._around.registry.lease(LEASE_SECONDS))
        self._around.lease = self._lease.id
        self._around.incarnation = secrets.token_hex(8)
        await self._put_record()

    async def _appear(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._around.mirror.wait(self._shown)
        except TimeoutError:
            raise RegistryUnreachable(f"etcd: {self._key} was written and never seen; see etcd's log") from None

    def _shown(self, mirror: Mirror) -> bool | None:
        raw = mirror.values.get(self._key)
        record = MemberRecord.model_validate_json(raw) if raw else None
        return True if record and record.incarnation == self._around.incarnation else None

    async def _put_record(self) -> None:
        await self._around.registry.put(self._key, self._side.record().model_dump_json(), lease=self._around.lease)

    @property
    def _key(self) -> str:
        settings = self._around.settings
        return settings.keys.member(settings.pod, self._side.role)
