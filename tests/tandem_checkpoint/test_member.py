"""One member: what it acts on, what it reports, and when it must stop."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tandem_api.job import Phase
from tandem_api.registry import Desired, MemberRecord, MemberState, MemberStatus, Role
from tandem_checkpoint.gpu_token import TokenTimeout
from tandem_checkpoint.process.child import ChildGone
from tandem_checkpoint.registry.errors import LeaseLost
from tandem_checkpoint.registry.mirror import Mirror, mirrored
from tandem_checkpoint.segments.manifest import BrokenSegment
from tandem_checkpoint.switch.member import Member
from tandem_checkpoint.switch.side import Outcome, Surroundings
from tandem_checkpoint.switch.stopwatch import Stopwatch
from tandem_checkpoint.transfer.fetch import FetchFailed
from tests.fakes.registry import FakeLease, FakeRegistry
from tests.tandem_checkpoint.jobs import POD, job_config, settings_of

SOON = 5.0
KEYS = settings_of(job_config(Path("/policy")), Path("/shared")).keys


@dataclass(slots=True)
class ScriptedSide:
    """A side that does at once what a test says."""

    acts: list[tuple[str, int]] = field(default_factory=list)
    start_error: Exception | None = None
    error: Exception | None = None
    slow: bool = False
    slow_seconds: float = SOON
    awaited: bool = True
    deadlines: list[float] = field(default_factory=list)
    ending: asyncio.Future[str] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def role(self) -> Role:
        return "train"

    def record(self) -> MemberRecord:
        return MemberRecord(incarnation="incarnation", role="train", address="127.0.0.1", port=8701)

    async def start(self) -> Outcome:
        self.acts.append(("start", 0))
        if self.start_error is not None:
            raise self.start_error
        return Outcome(MemberState.IDLE, None, 4096)

    async def to_infer(self, desired: Desired, stopwatch: Stopwatch) -> Outcome:
        return await self._switch("infer", desired, stopwatch, Outcome(MemberState.SERVING, desired.generation, 0))

    async def to_train(self, desired: Desired, stopwatch: Stopwatch) -> Outcome:
        return await self._switch("train", desired, stopwatch, Outcome(MemberState.TRAINING, desired.generation, 4096))

    async def first_end(self) -> str:
        return await self.ending

    async def close(self) -> None:
        self.acts.append(("close", 0))

    async def _switch(self, name: str, desired: Desired, stopwatch: Stopwatch, outcome: Outcome) -> Outcome:
        self.acts.append((name, desired.epoch))
        self.deadlines.append(desired.deadline)
        with stopwatch.stage("export"):
            if self.slow:
                await self._sleep(desired)
            if self.error is not None:
                raise self.error
        return outcome

    async def _sleep(self, desired: Desired) -> None:
        try:
            await asyncio.sleep(self.slow_seconds)
        except asyncio.CancelledError:
            self.acts.append(("given up", desired.epoch))
            raise


@dataclass(slots=True)
class Scene:
    """A running member, its side, and the master's hand on the registry."""

    registry: FakeRegistry
    lease: FakeLease
    mirror: Mirror
    side: ScriptedSide
    member: Member
    running: asyncio.Task[None]

    async def want(self, epoch: int, phase: Phase = Phase.INFER, deadline_seconds: float = SOON) -> None:
        desired = Desired(
            epoch=epoch, phase=phase, generation=epoch, iteration=1, deadline=time.time() + deadline_seconds
        )
        await self.registry.put(KEYS.desired, desired.model_dump_json())

    async def master_appears(self) -> None:
        await self.registry.put(KEYS.master, "incarnation of the master")

    async def status(self, state: MemberState, epoch: int = 0) -> MemberStatus:
        """Return what the member reports, once it has reported this state of this epoch."""

        def find(mirror: Mirror) -> MemberStatus | None:
            raw = mirror.values.get(KEYS.status(POD, "train"))
            status = MemberStatus.model_validate_json(raw) if raw else None
            return status if status and (status.state, status.epoch) == (state, epoch) else None

        async with asyncio.timeout(SOON):
            return await self.mirror.wait(find)

    async def settled(self) -> None:
        """Let everything happen that can happen."""
        await asyncio.sleep(0.05)


@asynccontextmanager
async def running_member(side: ScriptedSide) -> AsyncIterator[Scene]:
    registry = FakeRegistry()
    settings = settings_of(job_config(Path("/policy")), Path("/shared"))
    async with registry.lease(10) as lease, mirrored(registry, KEYS.prefix) as mirror:
        member = Member(side, Surroundings(settings, registry, mirror, lease.id, "incarnation"))
        running = asyncio.create_task(member.run(lease))
        try:
            yield Scene(registry, lease, mirror, side, member, running)
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError, BaseExceptionGroup):
                await running


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with running_member(ScriptedSide()) as scene:
        yield scene


async def test_a_member_registers_under_its_lease_and_reports_what_it_holds(scene: Scene) -> None:
    status = await scene.status(MemberState.IDLE)

    assert status == MemberStatus(incarnation="incarnation", epoch=0, state=MemberState.IDLE, device_bytes=4096)
    raw = await scene.registry.get(KEYS.member(POD, "train"))
    assert raw == scene.side.record().model_dump_json()

    scene.registry.expire(scene.lease.id)

    assert await scene.registry.list(KEYS.prefix) == {}


async def test_a_member_acts_on_a_newer_epoch_of_a_living_master(scene: Scene) -> None:
    await scene.master_appears()
    await scene.want(1)

    status = await scene.status(MemberState.SERVING, epoch=1)

    assert scene.side.acts == [("start", 0), ("infer", 1)]
    assert (status.generation, status.device_bytes) == (1, 0)
    assert [span.stage for span in status.stages] == ["export"]


async def test_each_phase_has_its_direction(scene: Scene) -> None:
    await scene.master_appears()
    await scene.want(1)
    await scene.status(MemberState.SERVING, epoch=1)
    await scene.want(2, Phase.TRAIN)
    await scene.status(MemberState.TRAINING, epoch=2)

    assert scene.side.acts == [("start", 0), ("infer", 1), ("train", 2)]


async def test_nothing_is_done_for_a_dead_master(scene: Scene) -> None:
    await scene.status(MemberState.IDLE)
    await scene.want(1)
    await scene.settled()

    assert scene.side.acts == [("start", 0)]


async def test_what_a_dead_master_wanted_is_done_once_a_new_one_lives(scene: Scene) -> None:
    await scene.want(1)
    await scene.master_appears()

    await scene.status(MemberState.SERVING, epoch=1)


@pytest.mark.parametrize("epoch", [1, 2, 3])
async def test_an_epoch_that_is_not_newer_changes_nothing(scene: Scene, epoch: int) -> None:
    await scene.master_appears()
    await scene.want(3)
    await scene.status(MemberState.SERVING, epoch=3)

    await scene.want(epoch, Phase.TRAIN)
    await scene.settled()

    assert scene.side.acts == [("start", 0), ("infer", 3)]


async def test_epochs_that_were_missed_are_skipped(scene: Scene) -> None:
    await scene.master_appears()
    await scene.want(1)
    await scene.status(MemberState.SERVING, epoch=1)

    await scene.want(7)

    await scene.status(MemberState.SERVING, epoch=7)


@pytest.mark.parametrize(
    "error",
    [
        ChildGone("trainer rank 0 was ended by SIGKILL; out of memory?"),
        BrokenSegment("checksum of model.norm.weight differs from what the trainer registered"),
        TokenTimeout("the other container of the pod still holds the devices"),
    ],
)
async def test_a_switch_that_fails_is_reported_with_its_cause_and_the_time_it_took(
    scene: Scene, error: Exception
) -> None:
    await scene.master_appears()
    scene.side.error = error
    await scene.want(1)

    status = await scene.status(MemberState.FAILED, epoch=1)

    assert status.error == str(error)
    assert [span.stage for span in status.stages] == ["export"]


async def test_after_a_failed_switch_the_next_epoch_is_acted_on(scene: Scene) -> None:
    await scene.master_appears()
    scene.side.error = ChildGone("gone")
    await scene.want(1)
    await scene.status(MemberState.FAILED, epoch=1)

    scene.side.error = None
    await scene.want(2)

    await scene.status(MemberState.SERVING, epoch=2)


async def test_a_switch_past_its_deadline_has_failed(scene: Scene) -> None:
    await scene.master_appears()
    scene.side.slow = True
    await scene.want(1, deadline_seconds=0.0)

    status = await scene.status(MemberState.FAILED, epoch=1)

    assert status.error == "the deadline of the switch has passed"


async def test_a_member_that_nobody_waits_for_has_its_own_time_when_it_comes_late() -> None:
    async with running_member(ScriptedSide(awaited=False)) as scene:
        await scene.master_appears()
        await scene.want(1, deadline_seconds=-60.0)

        await scene.status(MemberState.SERVING, epoch=1)

        assert scene.side.deadlines[0] > time.time()


async def test_a_member_that_nobody_waits_for_goes_on_with_the_master() -> None:
    async with running_member(ScriptedSide(awaited=False, slow=True)) as scene:
        await scene.master_appears()
        await scene.want(1)
        await scene.status(MemberState.SWITCHING, epoch=1)
        scene.side.slow = False

        await scene.want(2, Phase.TRAIN)

        await scene.status(MemberState.TRAINING, epoch=2)
        assert scene.side.acts == [("start", 0), ("infer", 1), ("given up", 1), ("train", 2)]


async def test_a_member_that_is_waited_for_ends_its_switch_first(scene: Scene) -> None:
    await scene.master_appears()
    scene.side.slow, scene.side.slow_seconds = True, 0.2
    await scene.want(1)
    await scene.status(MemberState.SWITCHING, epoch=1)

    await scene.want(2, Phase.TRAIN)

    await scene.status(MemberState.TRAINING, epoch=2)
    assert scene.side.acts == [("start", 0), ("infer", 1), ("train", 2)]


async def test_a_fetch_that_fails_is_told_and_the_next_epoch_is_acted_on() -> None:
    error = FetchFailed("generation 1: a could not be fetched from any pod: toy-hybrid-0: answered 404")
    async with running_member(ScriptedSide(awaited=False, error=error)) as scene:
        await scene.master_appears()
        await scene.want(1)

        status = await scene.status(MemberState.FAILED, epoch=1)
        scene.side.error = None
        await scene.want(2)

        assert status.error == str(error)
        await scene.status(MemberState.SERVING, epoch=2)


async def test_a_lost_lease_ends_the_member(scene: Scene) -> None:
    await scene.status(MemberState.IDLE)

    scene.registry.expire(scene.lease.id)

    async with asyncio.timeout(SOON):
        with pytest.raises(BaseExceptionGroup) as caught:
            await scene.running
    assert caught.group_contains(LeaseLost, match="the registry has dropped this member's lease")


async def test_a_process_that_ends_by_itself_ends_the_member_with_its_cause(scene: Scene) -> None:
    await scene.status(MemberState.IDLE)

    scene.side.ending.set_result("trainer rank 1 was ended by SIGSEGV")

    status = await scene.status(MemberState.FAILED)
    assert status.error == "trainer rank 1 was ended by SIGSEGV"
    with pytest.raises(BaseExceptionGroup) as caught:
        await scene.running
    assert caught.group_contains(ChildGone, match="SIGSEGV")


async def test_a_start_that_fails_is_reported_and_ends_the_member() -> None:
    async with running_member(ScriptedSide(start_error=ChildGone("trainer rank 0 exited with code 1"))) as scene:
        status = await scene.status(MemberState.FAILED)

        assert status.error == "trainer rank 0 exited with code 1"
        with pytest.raises(BaseExceptionGroup) as caught:
            await scene.running
        assert caught.group_contains(ChildGone)
