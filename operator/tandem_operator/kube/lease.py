"""Who of several operators leads: the one that holds a Lease.

Safe whatever the clocks say: times in the Lease are only compared for change, and each side measures with its own
monotonic clock. The holder counts from before it asked for its renewal, the others from after they saw it, and the
holder's term is the shorter.
"""

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from tandem_operator.kube.client import KubeClient
from tandem_operator.kube.errors import AlreadyExistsError, ApiError, ConflictError
from tandem_operator.kube.lease_record import (
    LeaseRecord,
    LeaseTiming,
    new_lease,
    record_of,
    released,
    renewed,
    taken,
)
from tandem_operator.kube.manifest import Manifest
from tandem_operator.kube.resources import LEASE

logger = logging.getLogger(__name__)

USUAL_TIMING = LeaseTiming()


class LeaderLease:
    """One candidate for one Lease. Acquire it once; after it was lost, end the process or make a new one."""

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        timing: LeaseTiming = USUAL_TIMING,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.identity = f"{identity}_{uuid.uuid4().hex[:12]}"
        """The given one with a part that no other process has, so that a restart never takes itself for its past."""
        self.lost = asyncio.Event()
        """Set once the lease was held and is so no more, except by `release`."""
        self._client = client.urgent()
        self._namespace = namespace
        self._name = name
        self._timing = timing
        self._clock = clock
        self._lease: Manifest | None = None
        self._record: LeaseRecord | None = None
        self._record_seen_at = 0.0
        self._renewed_at: float | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._told = ""

    @property
    def is_held(self) -> bool:
        """Return whether this one leads now; False too where the process stood still past its renew deadline."""
        return self._renewed_at is not None and not self.lost.is_set() and self._left_seconds() > 0

    @property
    def holder(self) -> str:
        """Return who led when last seen; empty for nobody."""
        return "" if self._record is None else self._record.holder

    async def acquire(self) -> None:
        """Wait until the lease is held, however long another one lives, and then renew it in the background."""
        while True:
            asked_at = self._clock()
            if await self._taken():
                break
            await asyncio.sleep(self._timing.retry_seconds * random.uniform(0.9, 1.1))
        self._renewed_at = asked_at
        self._renewing = asyncio.create_task(self._renew_for_ever(), name=f"renew the lease {self._name}")
        logger.info("lease %s/%s: held by %s", self._namespace, self._name, self.identity)

    async def release(self) -> None:
        """Stop renewing and let the next one lead at once; where that fails it waits for the term to end."""
        if self._renewing is None:
            return
        self._renewing.cancel()
        await asyncio.wait([self._renewing])
        self._renewing = None
        if not self.is_held:
            return
        self._renewed_at = None
        try:
            lease = self._lease or await self._own_lease()
            if lease is None:
                return
            await self._client.replace(released(lease, datetime.now(UTC)))
        except ApiError as error:
            logger.warning("lease %s/%s: not released (%s)", self._namespace, self._name, error)
        else:
            logger.info("lease %s/%s: released", self._namespace, self._name)

    async def _taken(self) -> bool:
        """Try to take the lease once; return whether it is held now."""
        try:
            lease = await self._client.find(LEASE, self._namespace, self._name)
            self._look(lease)
            if not self._is_free():
                return False
            await self._write(lease)
        except (ConflictError, AlreadyExistsError):
            return False  # another candidate was quicker
        except ApiError as error:
            self._tell_once(str(error))
            return False
        self._told = ""
        return True

    async def _write(self, lease: Manifest | None) -> None:
        """Write this one as the holder of the lease as it was read."""
        now = datetime.now(UTC)
        if lease is None:
            self._lease = await self._client.create(
                new_lease(self._namespace, self._name, self.identity, self._timing, now)
            )
        else:
            self._lease = await self._client.replace(taken(lease, self.identity, self._timing, now))
        self._record = record_of(self._lease)

    def _look(self, lease: Manifest | None) -> None:
        """Note what the lease says, and when it last said something new. A deleted lease says nothing new."""
        record = None if lease is None else record_of(lease)
        if record is not None and (self._record is None or record.mark != self._record.mark):
            self._record = record
            self._record_seen_at = self._clock()
            self._tell_once(f"held by {record.holder}" if record.holder else "free")

    def _is_free(self) -> bool:
        """Return whether the holder has gone, or its term has passed since it was last seen to renew."""
        if self._record is None or self._record.holder in ("", self.identity):
            return True
        term_seconds = max(self._timing.duration_seconds, self._record.duration_seconds)
        return self._clock() - self._record_seen_at >= term_seconds

    async def _renew_for_ever(self) -> None:
        """Renew until the lease is lost."""
        while self._left_seconds() > 0:
            await asyncio.sleep(min(self._timing.retry_seconds, self._left_seconds()))
            asked_at = self._clock()
            try:
                async with asyncio.timeout(self._left_seconds()):
                    still_held = await self._renewed()
            except TimeoutError:
                continue
            except ApiError as error:
                self._tell_once(f"not renewed ({error})")
                continue
            if not still_held:
                break
            if self._left_seconds() > 0:  # an answer past the deadline comes too late: the term may have been given up
                self._renewed_at = asked_at
                self._told = ""
        self.lost.set()
        logger.error("lease %s/%s: lost by %s to %s", self._namespace, self._name, self.identity, self.holder)

    async def _renewed(self) -> bool:
        """Renew the lease once; return False where another one holds it. ApiError says nothing about who does."""
        lease, self._lease = self._lease, None  # read again after anything but success
        if lease is None:
            lease = await self._own_lease()
        if lease is None:
            return False
        self._lease = await self._client.replace(renewed(lease, datetime.now(UTC)))
        return True

    async def _own_lease(self) -> Manifest | None:
        """Read the lease; return None where another one holds it. A deleted one is written anew."""
        lease = await self._client.find(LEASE, self._namespace, self._name)
        if lease is None:
            now = datetime.now(UTC)
            return await self._client.create(new_lease(self._namespace, self._name, self.identity, self._timing, now))
        self._record = record_of(lease)
        return lease if self._record.holder == self.identity else None

    def _left_seconds(self) -> float:
        """Return the seconds until this one must have renewed; at most 0 once it is too late."""
        if self._renewed_at is None:
            return 0.0
        return self._renewed_at + self._timing.renew_deadline_seconds - self._clock()

    def _tell_once(self, message: str) -> None:
        """Log a state of the lease unless it is the last one told."""
        if message != self._told:
            logger.info("lease %s/%s: %s", self._namespace, self._name, message)
            self._told = message
