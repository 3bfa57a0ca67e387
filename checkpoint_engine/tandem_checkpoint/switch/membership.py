"""A member's place in the registry: a lease, an incarnation, and the record that others find it by."""

import asyncio
import logging
import secrets
from contextlib import AsyncExitStack
from time import monotonic

from tandem_checkpoint.registry.errors import LeaseLost, RegistryError, RegistryUnreachable
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
        """Register under a new lease with a new incarnation. Errors: RegistryUnreachable past JOIN_SECONDS."""
        deadline = monotonic() + JOIN_SECONDS
        while True:
            await self.leave()
            try:
                await self._register()
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

    async def _put_record(self) -> None:
        settings, side = self._around.settings, self._side
        key = settings.keys.member(settings.pod, side.role)
        await self._around.registry.put(key, side.record().model_dump_json(), lease=self._around.lease)
