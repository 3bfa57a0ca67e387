"""One member: it executes the switch protocol (switch/protocol.py) under a lease, and reports what came of it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from tandem_api.engine import MemberPhase
from tandem_api.job import Phase
from tandem_api.registry import Desired, FailureReason, MemberState, MemberStatus
from tandem_checkpoint.gpu_token import TokenTimeout
from tandem_checkpoint.metrics import Child
from tandem_checkpoint.process.backoff import Backoff
from tandem_checkpoint.process.child import ChildGone
from tandem_checkpoint.process.ranks import CommandRefused
from tandem_checkpoint.registry.errors import RegistryError
from tandem_checkpoint.registry.mirror import Mirror
from tandem_checkpoint.segments.holdings import SelfTestFailed
from tandem_checkpoint.segments.manifest import BrokenSegment
from tandem_checkpoint.segments.store import SegmentError
from tandem_checkpoint.status_meter import StatusMeter
from tandem_checkpoint.stopwatch import Stopwatch
from tandem_checkpoint.switch.membership import Membership
from tandem_checkpoint.switch.protocol import (
    RESTING,
    TABLES,
    Action,
    Event,
    State,
    Transition,
    next_transition,
    public_state,
)
from tandem_checkpoint.switch.reporter import Reporter
from tandem_checkpoint.switch.side import CrewChanged, GenerationLost, Side, Surroundings
from tandem_checkpoint.transfer.fetch import FetchFailed

logger = logging.getLogger(__name__)

CHECK_SECONDS = 0.5
"""A lease that has expired is noticed within this time."""
FAIL_SECONDS = 30.0
"""Time to clean up after a switch that failed."""
FLUSH_SECONDS = 2.0
"""Time for the last words of a member that ends."""
FRESH_SECONDS = 5.0
"""A word that is older has not been waited for: the member itself came late."""
REASONS: dict[type[Exception], FailureReason] = {
    ChildGone: FailureReason.CHILD,
    CommandRefused: FailureReason.REFUSED,
    TokenTimeout: FailureReason.TOKEN,
    BrokenSegment: FailureReason.BROKEN_SEGMENT,
    FetchFailed: FailureReason.FETCH,
    SegmentError: FailureReason.SEGMENT,
    GenerationLost: FailureReason.GENERATION_LOST,
    SelfTestFailed: FailureReason.SELF_TEST,
    RegistryError: FailureReason.REGISTRY,
    TimeoutError: FailureReason.DEADLINE,
}
"""What can go wrong in a switch without being a bug of ours."""


class MemberEnded(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """The member cannot go on; its container is started again. The message is the cause."""


class Member:
    """The loop of one shim."""

    def __init__(self, side: Side, around: Surroundings) -> None:
        self._side = side
        self._around = around
        self._table = TABLES[side.role]
        self._membership = Membership(side, around)
        self._reporter = Reporter(around, side.role)
        self._meter = StatusMeter(around.metrics)
        self._state = State.STARTING
        self._word: Desired | None = None
        self._epoch = 0
        self._stopwatch = Stopwatch()
        self._error: Exception | None = None
        self._running: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[ChildGone] | None = None
        self._backoff = Backoff()
        self._pause_seconds = 0.0
        self._has_started = False
        self._since = time.time()
        self.status = self._status()

    def phase(self) -> MemberPhase:
        """Return what this member is in the middle of."""
        word, published = self._word, self._around.mirror.values.get(self._around.settings.keys.published)
        is_switching = self.status.state is MemberState.SWITCHING
        return MemberPhase(
            epoch=self._epoch,
            phase=word.phase if word else None,
            generation=self._side.held.generation,
            state=self.status.state,
            since=self._since,
            deadline=word.deadline if word and is_switching else None,
            published=None if published is None else int(published),
        )

    async def run(self) -> None:
        """Register, start, then follow the protocol until cancelled. Errors: MemberEnded, RegistryUnreachable."""
        async with asyncio.TaskGroup() as tasks:
            reporting = tasks.create_task(self._reporter.run(), name="report")
            try:
                await self._enter(None, Transition(Action.RESTART, State.STARTING))
                while self._state is not State.ENDED:
                    event = await self._next_event()
                    await self._enter(event, next_transition(self._table, self._state, event))
                await self._reporter.flush(FLUSH_SECONDS)
                raise MemberEnded(_cause(self._error))
            except asyncio.CancelledError:
                self._state = next_transition(self._table, self._state, Event.TERMINATED).state
                raise
            finally:
                await self._membership.leave()  # from now on nobody shall ask anything of us
                await _end(self._ending)
                await _end(self._running)
                reporting.cancel()

    async def _next_event(self) -> Event:
        """Return the next event that the table has something for; events that it puts off stay, and come again."""
        while (event := self._due()) is None:
            word = asyncio.create_task(self._around.mirror.wait(self._fresh_word), name="next word")
            others = {task for task in (self._running, self._ending) if task is not None and not task.done()}
            try:
                await asyncio.wait({word, *others}, timeout=self._check_seconds(), return_when=asyncio.FIRST_COMPLETED)
            finally:
                await _end(word)
        return event

    def _due(self) -> Event | None:
        """Return what has happened, the gravest first."""
        if self._membership.lost and self._heeds(Event.LEASE_LOST):
            return Event.LEASE_LOST
        if self._running is not None and self._running.done():
            return self._result(self._running)
        if self._ending is not None and self._ending.done() and self._heeds(Event.CHILD_ENDED):
            return self._child_ended(self._ending.result())
        word = self._fresh_word(self._around.mirror)
        if word is not None:
            return word
        if self._word is not None and self._is_late() and self._heeds(Event.DEADLINE):
            self._error = TimeoutError("the deadline of the switch has passed")
            return Event.DEADLINE
        return None

    def _result(self, task: "asyncio.Task[None]") -> Event:
        """Return what the end of an action means; errors that are none of REASONS are bugs, and are raised."""
        self._running = None
        error = task.exception()
        if error is None:
            return Event.DONE
        if not isinstance(error, Exception) or _reason(error) is None:
            raise error
        if isinstance(error, ChildGone) and self._heeds(Event.CHILD_ENDED):
            return self._child_ended(error)
        self._error = error
        return Event.ERROR

    def _child_ended(self, error: ChildGone) -> Event:
        self._ending = None
        self._error = error
        logger.error("%s", error)
        if isinstance(error, CrewChanged):
            return Event.CHILD_ENDED
        self._around.metrics.child_ended(self._kind_of_child(error))
        if self._state is State.STARTING and not self._has_started:
            return Event.ERROR  # what it lacks now, it will lack again
        pause_seconds = self._backoff.note_end(time.monotonic())
        if pause_seconds is None:
            return Event.CRASH_LOOP
        self._pause_seconds = pause_seconds
        return Event.CHILD_ENDED

    def _kind_of_child(self, error: ChildGone) -> Child:
        if self._side.role == "train":
            return "rank"
        return "zygote" if "zygote" in str(error) else "server"

    def _heeds(self, event: Event) -> bool:
        """Tell whether the table has more to say to an event than to keep on."""
        row = self._table.get((self._state, event))
        return row is not None and row.action is not Action.KEEP_ON

    def _fresh_word(self, mirror: Mirror) -> Event | None:
        """Return the event that the master's word is, if it is due: stale ones change nothing (invariants 5 and 7)."""
        event = self._classify(self._read_word(mirror))
        return event if event is not Event.STALE and self._heeds(event) else None

    def _read_word(self, mirror: Mirror) -> Desired | None:
        raw = mirror.values.get(self._around.settings.keys.desired)
        return None if raw is None else Desired.model_validate_json(raw)

    def _classify(self, word: Desired | None) -> Event:
        has_master = self._around.settings.keys.master in self._around.mirror.values
        if word is None or not has_master or word.epoch <= self._epoch:
            return Event.STALE
        return Event.INFER if word.phase is Phase.INFER else Event.TRAIN

    def _is_late(self) -> bool:
        return self._word is not None and time.time() > self._word.deadline

    def _check_seconds(self) -> float:
        if self._word is None or self._state in RESTING[self._side.role] or self._is_late():
            return CHECK_SECONDS
        return min(CHECK_SECONDS, max(0.001, self._word.deadline - time.time()))

    async def _enter(self, event: Event | None, transition: Transition) -> None:
        """Carry out one row of the table: end what runs, then begin the action in the next state."""
        await _end(self._running)
        await _end(self._ending)
        self._running = self._ending = None
        if event in (Event.INFER, Event.TRAIN):
            self._take_up()
        elif transition.action in (Action.RESTART, Action.REJOIN):
            self._epoch, self._word = 0, None  # whatever the registry says afterwards is newer
            if self._membership.lost:
                self._membership.drop()
        elif transition.action is Action.REVIVE:
            self._prolong()
        self._state = transition.state
        if self._state in RESTING[self._side.role]:
            await self._settle(transition.action)
        await self._tell()
        if self._state is not State.ENDED:
            self._begin(transition.action)

    async def _settle(self, action: Action) -> None:
        """Do what takes no time, before others are told that this member rests here."""
        act, word = self._side.acts.get(action), self._word
        if action is Action.FAIL:
            await self._fail()
        elif act is not None and word is not None:
            await act(word, self._stopwatch)

    def _take_up(self) -> None:
        """Act on the master's word from now on."""
        word = self._read_word(self._around.mirror)
        assert word is not None
        began = word.deadline - self._direction_seconds(word)
        self._word, self._epoch, self._stopwatch, self._error = self._own_terms(word), word.epoch, Stopwatch(), None
        if time.time() - began < FRESH_SECONDS:
            self._stopwatch.since(began, "word")
        logger.info("epoch %d: switching to %s, generation %d", word.epoch, word.phase, word.generation)

    def _own_terms(self, word: Desired) -> Desired:
        """Return the master's word, for a member that nobody waits for with the time that it takes from now on."""
        if self._side.awaited:
            return word
        return word.model_copy(update={"deadline": time.time() + self._direction_seconds(word)})

    def _prolong(self) -> None:
        """Give the servers that take the place of others as much time as the first ones had."""
        assert self._word is not None
        deadline = time.time() + self._direction_seconds(self._word)
        self._word = self._word.model_copy(update={"deadline": deadline})

    def _direction_seconds(self, word: Desired) -> float:
        spec = self._around.settings.config.spec.switch
        is_infer = word.phase is Phase.INFER
        return spec.train_to_infer_deadline_seconds if is_infer else spec.infer_to_train_deadline_seconds

    def _begin(self, action: Action) -> None:
        work = self._work(action)
        if work is not None:
            self._running = asyncio.create_task(self._after_a_pause(work), name=action)
        if self._state not in (State.STARTING, State.REJOINING):
            self._ending = asyncio.create_task(self._side.first_end(), name="watch the children")

    def _work(self, action: Action) -> Callable[[], Awaitable[None]] | None:
        """Return what an action is; None where there is nothing to do."""
        if action is Action.RESTART:
            return self._start
        if action is Action.REJOIN:
            return self._rejoin
        if self._state in RESTING[self._side.role]:
            return None
        act, word, stopwatch = self._side.acts[action], self._word, self._stopwatch
        assert word is not None
        return lambda: act(word, stopwatch)

    async def _after_a_pause(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do some work, in a crash loop not at once."""
        pause_seconds, self._pause_seconds = self._pause_seconds, 0.0
        if pause_seconds:
            logger.warning("trying again in %.1f s", pause_seconds)
            await asyncio.sleep(pause_seconds)
        await work()

    async def _start(self) -> None:
        if not self._membership.joined:
            await self._join()
        await self._side.start(self._membership.announce)
        await self._side.restore()
        self._has_started = True

    async def _join(self) -> None:
        """Register, and only then say anything about this member: under the new lease, as the new incarnation."""
        await self._membership.join()
        await self._tell()

    async def _rejoin(self) -> None:
        logger.error("the registry has dropped this member's lease; it rejoins with another incarnation")
        await self._side.leave()
        await self._join()
        await self._side.restore()

    async def _fail(self) -> None:
        """Clean up behind a switch that failed; what goes wrong in that is told too."""
        logger.error("epoch %d: %s", self._epoch, _cause(self._error))
        try:
            async with asyncio.timeout(FAIL_SECONDS):
                await self._side.fail()
        except tuple(REASONS) as error:
            logger.error("epoch %d: not cleaned up: %s", self._epoch, _cause(error))

    async def _tell(self) -> None:
        """Report the state that has been entered."""
        before, self.status = self.status, self._status()
        if self.status.state is not before.state:
            self._since = time.time()
        self._meter.told(self.status, self._word.phase if self._word else None)
        await self._reporter.tell(self.status)
        if self._state in (State.SERVING, State.TRAINING, State.IDLE) and self._word is not None:
            held = self.status.device_bytes or 0
            logger.info("epoch %d: %s, %d bytes of device memory", self._epoch, self._state, held)

    def _status(self) -> MemberStatus:
        held, state = self._side.held, public_state(self._state)
        failed = state is MemberState.FAILED
        return MemberStatus(
            incarnation=self._around.incarnation,
            epoch=self._epoch,
            state=state,
            stage=self._state,
            generation=held.generation,
            lineage=held.lineage,
            device_bytes=held.device_bytes,
            equal_tensors=held.equal_tensors,
            stages=self._stopwatch.spans,
            error=_cause(self._error) if failed else None,
            reason=_reason(self._error) if failed else None,
        )


async def _end(task: "asyncio.Task[Any] | None") -> None:
    """Cancel a task and have it clean up behind itself; what goes wrong in that is only logged."""
    if task is None:
        return
    task.cancel()
    await asyncio.wait({task})
    error = None if task.cancelled() else task.exception()
    if error is not None:
        logger.warning("what was given up did not end cleanly: %s", _cause(error))


def _cause(error: BaseException | None) -> str:
    return (str(error) or "the deadline of the switch has passed") if error else ""


def _reason(error: Exception | None) -> FailureReason | None:
    return next((reason for kind, reason in REASONS.items() if isinstance(error, kind)), None)
