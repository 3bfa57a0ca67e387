"""What a member tells the registry about itself: the newest status, written beside its work."""

import asyncio
import logging
from contextlib import suppress

from tandem_api.registry import MemberStatus, Role
from tandem_checkpoint.registry.errors import LeaseLost, RegistryError
from tandem_checkpoint.switch.side import Surroundings

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.5


class Reporter:
    """Writes the newest status under the member's lease; what was overtaken before it was written is not."""

    def __init__(self, around: Surroundings, role: Role) -> None:
        self._around = around
        self._key = around.settings.keys.status(around.settings.pod, role)
        self._newest: MemberStatus | None = None
        self._written: MemberStatus | None = None
        self._changed = asyncio.Condition()

    async def tell(self, status: MemberStatus) -> None:
        """Have a status written soon."""
        async with self._changed:
            self._newest = status
            self._changed.notify_all()

    async def flush(self, seconds: float) -> None:
        """Wait until the newest status is written, but not longer than `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: self._written is self._newest)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._written is not self._newest)
                status = self._newest
            assert status is not None
            if await self._write(status):
                async with self._changed:
                    self._written = status
                    self._changed.notify_all()

    async def _write(self, status: MemberStatus) -> bool:
        """Tell whether this status needs no further try: it is written, or no lease is left to write it under."""
        if not status.incarnation or status.incarnation != self._around.incarnation:
            return True  # this member is not registered, or not as the one that it was
        try:
            await self._around.registry.put(self._key, status.model_dump_json(), lease=self._around.lease)
        except LeaseLost:
            return True
        except RegistryError as error:
            logger.warning("the status is written again: %s", error)
            await asyncio.sleep(RETRY_SECONDS)
            return False
        return True
