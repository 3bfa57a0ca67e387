"""One member: registered under a lease, acting on the master's word, reporting what came of it.

* A `desired` with a newer epoch than ours, while the master is alive: Switching -> Serving, Training or Idle.
* Where that goes wrong: Failed, with the cause.
"""

import asyncio
import logging
import time

from tandem_api.job import Phase
from tandem_api.registry import Desired, MemberState, MemberStatus
from tandem_checkpoint.gpu_token import TokenTimeout
from tandem_checkpoint.process.child import ChildGone
from tandem_checkpoint.process.ranks import CommandRefused
from tandem_checkpoint.registry.errors import LeaseLost, RegistryError
from tandem_checkpoint.registry.mirror import Mirror
from tandem_checkpoint.registry.store import Lease
from tandem_checkpoint.segments.manifest import BrokenSegment
from tandem_checkpoint.segments.store import SegmentError
from tandem_checkpoint.switch.side import Outcome, Side, Surroundings
from tandem_checkpoint.switch.stopwatch import Stopwatch

logger = logging.getLogger(__name__)

LEASE_SECONDS = 10
LEASE_CHECK_SECONDS = 0.5
SWITCH_ERRORS = (
    ChildGone,
    CommandRefused,
    TokenTimeout,
    BrokenSegment,
    SegmentError,
    RegistryError,
    TimeoutError,
)
"""What can go wrong in a switch without being a bug of ours."""


class Member:
    """The loop of one shim."""

    def __init__(self, side: Side, surroundings: Surroundings) -> None:
        self._side = side
        self._around = surroundings
        self.status = MemberStatus(incarnation=surroundings.incarnation, epoch=0, state=MemberState.STARTING)

    async def run(self, lease: Lease) -> None:
        """Register, start, then follow the master until cancelled. Raises LeaseLost, ChildGone."""
        settings, side = self._around.settings, self._side
        await self._around.registry.put(
            settings.keys.member(settings.pod, side.role), side.record().model_dump_json(), lease=lease.id
        )
        await self._report(0, MemberState.STARTING)
        async with asyncio.TaskGroup() as tasks:
            watchdog = tasks.create_task(_watch_lease(lease), name="lease watchdog")
            following = tasks.create_task(self._follow(), name="follow the master")
            del watchdog, following

    async def _follow(self) -> None:
        try:
            outcome = await self._side.start()
        except SWITCH_ERRORS as error:
            await self._report(0, MemberState.FAILED, error=_cause(error))
            raise
        await self._report(0, outcome.state, outcome)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._guard_children(), name="watch the children")
            while True:
                await self._switch(await self._around.mirror.wait(self._newer))

    async def _guard_children(self) -> None:
        ending = await self._side.first_end()
        await self._report(self.status.epoch, MemberState.FAILED, error=ending)
        raise ChildGone(ending)

    def _newer(self, mirror: Mirror) -> Desired | None:
        """Return the master's word if it is newer than ours and the master is alive (invariant 5)."""
        keys = self._around.settings.keys
        raw = mirror.values.get(keys.desired)
        if raw is None or keys.master not in mirror.values:
            return None
        desired = Desired.model_validate_json(raw)
        return desired if desired.epoch > self.status.epoch else None

    async def _switch(self, desired: Desired) -> None:
        stopwatch = Stopwatch()
        logger.info("epoch %d: switching to %s, generation %d", desired.epoch, desired.phase, desired.generation)
        await self._report(desired.epoch, MemberState.SWITCHING)
        act = self._side.to_infer if desired.phase is Phase.INFER else self._side.to_train
        try:
            async with asyncio.timeout(max(1.0, desired.deadline - time.time())):
                outcome = await act(desired, stopwatch)
        except SWITCH_ERRORS as error:
            logger.error("epoch %d: %s", desired.epoch, _cause(error))
            await self._report(desired.epoch, MemberState.FAILED, stopwatch=stopwatch, error=_cause(error))
            return
        await self._report(desired.epoch, outcome.state, outcome, stopwatch)
        logger.info("epoch %d: %s, %d bytes of device memory", desired.epoch, outcome.state, outcome.device_bytes or 0)

    async def _report(
        self,
        epoch: int,
        state: MemberState,
        outcome: Outcome | None = None,
        stopwatch: Stopwatch | None = None,
        error: str | None = None,
    ) -> None:
        settings = self._around.settings
        self.status = MemberStatus(
            incarnation=self._around.incarnation,
            epoch=epoch,
            state=state,
            generation=outcome.generation if outcome else None,
            device_bytes=outcome.device_bytes if outcome else None,
            stages=stopwatch.spans if stopwatch else (),
            error=error,
        )
        await self._around.registry.put(
            settings.keys.status(settings.pod, self._side.role),
            self.status.model_dump_json(),
            lease=self._around.lease,
        )


async def _watch_lease(lease: Lease) -> None:
    """Raise LeaseLost as soon as the lease is gone: from then on others may hold us for dead."""
    while lease.alive:  # noqa: ASYNC110 - a lease also ends by the clock alone
        await asyncio.sleep(LEASE_CHECK_SECONDS)
    raise LeaseLost("the registry has dropped this member's lease; it starts anew with another incarnation")


def _cause(error: BaseException) -> str:
    return str(error) or "the deadline of the switch has passed"
