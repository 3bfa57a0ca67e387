"""One member: registered under a lease, acting on the master's word, reporting what came of it.

* A `desired` with a newer epoch than ours, while the master is alive: Switching -> Serving, Training or Idle.
* Where that goes wrong: Failed, with the cause.
* A member that nobody waits for (rollout-only) has its own time for it, and gives up once the master has gone on.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine

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
from tandem_checkpoint.transfer.fetch import FetchFailed

logger = logging.getLogger(__name__)

LEASE_SECONDS = 10
LEASE_CHECK_SECONDS = 0.5
SWITCH_ERRORS = (
    ChildGone,
    CommandRefused,
    TokenTimeout,
    BrokenSegment,
    FetchFailed,
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

    async def _switch(self, word: Desired) -> None:
        desired = self._own_terms(word)
        stopwatch = Stopwatch()
        logger.info("epoch %d: switching to %s, generation %d", desired.epoch, desired.phase, desired.generation)
        await self._report(desired.epoch, MemberState.SWITCHING)
        act = self._side.to_infer if desired.phase is Phase.INFER else self._side.to_train
        try:
            async with asyncio.timeout(max(1.0, desired.deadline - time.time())):
                outcome = await self._unless_overtaken(act(desired, stopwatch))
        except SWITCH_ERRORS as error:
            logger.error("epoch %d: %s", desired.epoch, _cause(error))
            await self._report(desired.epoch, MemberState.FAILED, stopwatch=stopwatch, error=_cause(error))
            return
        if outcome is None:
            logger.info("epoch %d: given up, since the master has gone on", desired.epoch)
            return
        await self._report(desired.epoch, outcome.state, outcome, stopwatch)
        logger.info("epoch %d: %s, %d bytes of device memory", desired.epoch, outcome.state, outcome.device_bytes or 0)

    def _own_terms(self, desired: Desired) -> Desired:
        """Return the master's word, for a member that nobody waits for with the time that it takes from now on."""
        if self._side.awaited:
            return desired
        spec = self._around.settings.config.spec.switch
        is_infer = desired.phase is Phase.INFER
        seconds = spec.train_to_infer_deadline_seconds if is_infer else spec.infer_to_train_deadline_seconds
        return desired.model_copy(update={"deadline": time.time() + seconds})

    async def _unless_overtaken(self, work: Coroutine[None, None, Outcome]) -> Outcome | None:
        """Return what `work` leads to; None where nobody waits for this member and a newer word came first."""
        if self._side.awaited:
            return await work
        acting = asyncio.create_task(work, name="switch")
        newer = asyncio.create_task(self._around.mirror.wait(self._newer), name="newer word")
        try:
            await asyncio.wait({acting, newer}, return_when=asyncio.FIRST_COMPLETED)
            return acting.result() if acting.done() else None
        finally:
            newer.cancel()
            await _end(acting)

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


async def _end(acting: "asyncio.Task[Outcome]") -> None:
    """Have a switch that was given up clean up behind itself; what goes wrong in that is only logged."""
    if acting.done():
        return
    acting.cancel()
    await asyncio.wait({acting})
    error = None if acting.cancelled() else acting.exception()
    if error is not None:
        logger.warning("a switch that was given up did not end cleanly: %s", _cause(error))


async def _watch_lease(lease: Lease) -> None:
    """Raise LeaseLost as soon as the lease is gone: from then on others may hold us for dead."""
    while lease.alive:  # noqa: ASYNC110 - a lease also ends by the clock alone
        await asyncio.sleep(LEASE_CHECK_SECONDS)
    raise LeaseLost("the registry has dropped this member's lease; it starts anew with another incarnation")


def _cause(error: BaseException) -> str:
    return str(error) or "the deadline of the switch has passed"
