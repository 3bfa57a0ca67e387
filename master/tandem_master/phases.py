"""Changing the phase of a job: say what is desired, publish the weights, wait until every member has followed."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic, time
from typing import Any, Literal

from tandem_api.critical_path import critical_path
from tandem_api.history import MemberStage, PhaseRecord, SwitchRecord
from tandem_api.job.operations import SwitchSpec
from tandem_api.job.status import Direction, Phase, SwitchSummary
from tandem_api.metrics import Interruption, SwitchReason
from tandem_api.registry import Desired, FailureReason, Keys, MemberState, StageSpan
from tandem_checkpoint.registry.store import Registry
from tandem_checkpoint.stopwatch import Stopwatch
from tandem_master.errors import Disagreement, GenerationLost, SwitchError
from tandem_master.journal import Journal
from tandem_master.mastership import Mastership
from tandem_master.members import MemberId, Membership, read_membership
from tandem_master.readiness import describe_pending, direction_of, missing_shards, pending_members, switch_name
from tandem_master.serving import Serving
from tandem_master.tasks import alongside, together
from tandem_master.watched import WatchedKeys

logger = logging.getLogger(__name__)

Beside = Callable[[Serving], Coroutine[Any, Any, None]]
MOST_GUARDED = 100
"""Shards whose keys a publication depends on: etcd takes 128 comparisons. What a job has beyond them was there."""
NOTICE_SECONDS = 0.01
MOST_RECENT = 10
"""Switches that are remembered for people to look at."""


@dataclass(frozen=True, slots=True)
class Parties:
    """Through what and with whom a switch is made."""

    registry: Registry
    keys: Keys
    mastership: Mastership
    members: WatchedKeys
    """The job's keys: `members/`, `status/` and `weights/` are read. One watch for the whole run: gRPC keeps a little
    memory for each stream that was ever opened."""
    wanted: tuple[MemberId, ...]
    """Members that every switch waits for."""
    journal: Journal
    pod: str = ""
    """The master's own."""
    failed: Callable[[Direction, SwitchReason], None] | None = None
    """Hears of every switch that fails."""


@dataclass(frozen=True, slots=True)
class RunningPhase:
    """The phase that the last switch led into."""

    desired: Desired
    started_at: float
    """Unix time in seconds."""


class Switcher:
    """Makes the switches of one run, one at a time, and writes their records."""

    def __init__(self, parties: Parties, spec: SwitchSpec, *, last_epoch: int, lineage: str) -> None:
        self._parties = parties
        self._spec = spec
        self._epoch = last_epoch
        self._lineage = lineage
        self._first = True
        self._recent: tuple[SwitchSummary, ...] = ()
        self._running: RunningPhase | None = None

    @property
    def epoch(self) -> int:
        """Number of the last switch that was begun."""
        return self._epoch

    @property
    def lineage(self) -> str:
        """Which run of generations the numbers of this job belong to now."""
        return self._lineage

    def begin_lineage(self) -> None:
        """From now on generation numbers that were given before mean other weights."""
        self._lineage = new_lineage()

    @property
    def recent(self) -> tuple[SwitchSummary, ...]:
        """The last ten complete switches, newest first."""
        return self._recent

    async def to_infer(self, generation: int, iteration: int, beside: Beside | None = None) -> Serving:
        """Make all members ready to sample with `generation`; return who serves it, now and as it changes.

        Rollout-only pods are not waited for: they serve as soon as they can. `beside` runs while the switch does, and
        is cancelled at its end.

        Errors: SwitchError names who failed, has gone or is missing at the deadline.
        """
        seconds = self._spec.train_to_infer_deadline_seconds
        desired = self._next(Phase.INFER, generation, iteration, seconds)
        serving = Serving(self._parties.members, self._parties.keys, desired)
        switching = self._switch(desired, seconds)
        await (switching if beside is None else alongside(switching, beside(serving)))
        return serving

    async def to_train(self, generation: int, iteration: int) -> None:
        """Make all trainers ready to train from `generation`. Errors: as to_infer."""
        seconds = self._spec.infer_to_train_deadline_seconds
        await self._switch(self._next(Phase.TRAIN, generation, iteration, seconds), seconds)

    async def end_phase(self) -> None:
        """Write the record of the phase that runs, if one does."""
        running, self._running = self._running, None
        if running is None:
            return
        record = PhaseRecord(
            phase=running.desired.phase,
            epoch=running.desired.epoch,
            iteration=running.desired.iteration,
            started_at=running.started_at,
            seconds=max(0.0, time() - running.started_at),
        )
        await self._parties.journal.write(record)

    def _next(self, phase: Phase, generation: int, iteration: int, seconds: float) -> Desired:
        self._epoch += 1
        return Desired(
            epoch=self._epoch,
            phase=phase,
            generation=generation,
            iteration=iteration,
            deadline=time() + seconds,
            lineage=self._lineage,
        )

    async def _switch(self, desired: Desired, seconds: float) -> None:
        await self.end_phase()
        parties = self._parties
        started_at, started = time(), monotonic()
        logger.info("%s: begins", switch_name(desired))
        own = Stopwatch()
        try:
            membership = await _change(parties, desired, seconds, own)
        except (SwitchError, GenerationLost, Disagreement):
            if parties.failed is not None:
                parties.failed(direction_of(desired), _why(parties, desired))
            raise
        took = monotonic() - started
        logger.info("%s: ready after %.2f s", switch_name(desired), took)
        self._running = RunningPhase(desired, time())
        stages = _stages(membership, parties.wanted)
        stages += _own_stages(parties, (*own.spans, _confirmation(stages, started_at)))
        record = _record(desired, stages, started_at, took, first=self._first)
        await parties.journal.write(record)
        self._recent = (summary_of(record), *self._recent)[:MOST_RECENT]
        self._first = False


def new_lineage() -> str:
    """Return a lineage that no other one is called."""
    return secrets.token_hex(6)


def summary_of(record: SwitchRecord) -> SwitchSummary:
    """Return a switch in one line: who was slow, and at what. A switch without stages has nobody to name."""
    seconds_by_pod: dict[str, float] = {}
    work = [stage for stage in record.stages if stage.role != "master" and not stage.waits]
    for stage in work:
        seconds_by_pod[stage.pod] = seconds_by_pod.get(stage.pod, 0.0) + stage.seconds
    slowest_pod = max(seconds_by_pod, key=seconds_by_pod.__getitem__, default="")
    of_pod = [stage for stage in work if stage.pod == slowest_pod]
    slowest = max(of_pod, key=lambda stage: stage.seconds, default=None)
    return SwitchSummary(
        epoch=record.epoch,
        direction=record.direction,
        seconds=record.seconds,
        slowest_pod=slowest_pod,
        slowest_stage=slowest.stage if slowest else "",
        at=datetime.fromtimestamp(record.started_at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    )


def _why(parties: Parties, desired: Desired) -> SwitchReason:
    """Return why a switch has failed: what its first failed member gives for a reason, else that it took too long."""
    membership = read_membership(parties.members.values, parties.keys)
    statuses = [membership.statuses[member] for member in parties.wanted if member in membership.statuses]
    of_switch = [status for status in statuses if status.epoch == desired.epoch]
    for status in of_switch:
        if status.state is MemberState.FAILED:
            return status.reason or Interruption.OTHER
    if time() < desired.deadline:
        return Interruption.OTHER
    has_gone = any(member not in membership.records for member in parties.wanted)
    return Interruption.MEMBER_GONE if has_gone else FailureReason.DEADLINE


async def _change(parties: Parties, desired: Desired, seconds: float, own: Stopwatch) -> Membership:
    """Write `desired` and return the membership in which everybody has followed."""
    try:
        async with asyncio.timeout(seconds):
            with own.stage("announce"):
                await parties.mastership.write(parties.keys.desired, desired.model_dump_json())
            waits = [_wait_for_all(parties, desired)]
            if desired.phase is Phase.INFER:
                waits.append(_publish(parties, desired, own))
            return (await together(waits, name=switch_name(desired)))[0]
    except TimeoutError:
        raise SwitchError(await _late(parties, desired, seconds)) from None


async def _wait_for_all(parties: Parties, desired: Desired) -> Membership:
    def complete(values: Mapping[str, str]) -> Membership | None:
        membership = read_membership(values, parties.keys)
        return None if pending_members(membership, parties.wanted, desired) else membership

    return await parties.members.until(complete)


async def _publish(parties: Parties, desired: Desired, own: Stopwatch) -> Membership:
    """Write `published` where every shard of the desired generation, of its lineage, is registered at that moment."""
    keys, generation = parties.keys, desired.generation

    def complete(values: Mapping[str, str]) -> list[str] | None:
        shards = [key for key in values if key.startswith(keys.shards(generation))]
        return shards[:MOST_GUARDED] if missing_shards(values, keys, desired) == () else None

    while True:
        shards = await parties.members.until(complete)
        with own.stage("publish"):
            if await parties.mastership.write_where(shards, keys.published, str(generation)):
                return read_membership(parties.members.values, keys)
        await asyncio.sleep(NOTICE_SECONDS)  # a trainer has just lost its lease: the watch will tell


async def _late(parties: Parties, desired: Desired, seconds: float) -> str:
    membership = read_membership(parties.members.values, parties.keys)
    pending = pending_members(membership, parties.wanted, desired)
    who = describe_pending(membership, pending) or "the registry answers too slowly"
    if desired.phase is Phase.INFER:
        keys, generation = parties.keys, desired.generation
        missing = missing_shards(await parties.registry.list(_weights_prefix(keys, generation)), keys, desired)
        if missing is None:
            who += "; no trainer has written the layout of the weights"
        elif missing:
            who += f"; shards not registered: {', '.join(missing)}"
    field = "trainToInferDeadlineSeconds" if desired.phase is Phase.INFER else "inferToTrainDeadlineSeconds"
    return f"spec.switch.{field}: {switch_name(desired)} took more than {seconds:g} s: {who}"


def _weights_prefix(keys: Keys, generation: int) -> str:
    return keys.layout(generation).removesuffix("layout")


def _record(
    desired: Desired, stages: tuple[MemberStage, ...], started_at: float, seconds: float, *, first: bool
) -> SwitchRecord:
    return SwitchRecord(
        epoch=desired.epoch,
        iteration=desired.iteration,
        generation=desired.generation,
        direction=direction_of(desired),
        started_at=started_at,
        seconds=seconds,
        stages=stages,
        critical_path=critical_path(stages, started_at, seconds),
        first=first,
    )


def _stages(membership: Membership, members: Sequence[MemberId]) -> tuple[MemberStage, ...]:
    return tuple(
        _stage(member.pod, member.role, span) for member in members for span in membership.statuses[member].stages
    )


def _own_stages(parties: Parties, spans: Sequence[StageSpan]) -> tuple[MemberStage, ...]:
    return tuple(_stage(parties.pod, "master", span) for span in spans)


def _confirmation(stages: Sequence[MemberStage], started_at: float) -> StageSpan:
    """Return the time from the end of the last member's last stage until the master has heard of it."""
    last = max((stage.started_at + stage.seconds for stage in stages), default=started_at)
    return StageSpan(stage="confirm", started_at=last, seconds=max(0.0, time() - last))


def _stage(pod: str, role: Literal["train", "rollout", "master"], span: StageSpan) -> MemberStage:
    return MemberStage(
        pod=pod, role=role, stage=span.stage, started_at=span.started_at, seconds=span.seconds, waits=span.waits
    )
