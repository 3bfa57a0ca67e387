"""A running member with a scripted side, and the master's hand on its registry."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tandem_api.job import Phase
from tandem_api.registry import Desired, MemberRecord, MemberState, MemberStatus, Role
from tandem_checkpoint.process.child import ChildGone
from tandem_checkpoint.registry.mirror import Mirror, mirrored
from tandem_checkpoint.stopwatch import Stopwatch
from tandem_checkpoint.switch.member import Member
from tandem_checkpoint.switch.protocol import Action
from tandem_checkpoint.switch.side import Act, Announce, Held, Surroundings
from tests.fakes.registry import FakeRegistry
from tests.tandem_checkpoint.jobs import POD, job_config, settings_of

SOON = 5.0
KEYS = settings_of(job_config(Path("/policy")), Path("/shared")).keys
TRAIN_ACTS = (Action.DRAIN, Action.EXPORT, Action.OFFLOAD, Action.TAKE, Action.RELOAD, Action.TRAIN)
ROLLOUT_ACTS = (
    Action.PREPARE,
    Action.GATHER,
    Action.TAKE,
    Action.LOAD,
    Action.REVIVE,
    Action.ABORT,
    Action.STOP,
)


@dataclass(slots=True)
class ScriptedSide:
    """A side that does at once what a test says."""

    role: Role = "train"
    awaited: bool = True
    held: Held = field(default_factory=lambda: Held(device_bytes=4096))
    did: list[str] = field(default_factory=list)
    errors: dict[str, list[Exception]] = field(default_factory=dict)
    """What an action fails of, one error a try."""
    hanging: set[str] = field(default_factory=set)
    """Actions that do not end by themselves."""
    deadlines: list[float] = field(default_factory=list)
    incarnations: list[str] = field(default_factory=list)
    around: Surroundings | None = None
    ending: asyncio.Future[ChildGone] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def acts(self) -> Mapping[Action, Act]:
        return {action: self._act(action) for action in (TRAIN_ACTS if self.role == "train" else ROLLOUT_ACTS)}

    def record(self) -> MemberRecord:
        assert self.around is not None
        self.incarnations.append(self.around.incarnation)
        return MemberRecord(incarnation=self.around.incarnation, role=self.role, address="127.0.0.1", port=8701)

    async def start(self, announce: Announce) -> None:
        await self._do("start")

    async def fail(self) -> None:
        await self._do("fail")

    async def leave(self) -> None:
        await self._do("leave")

    async def restore(self) -> None:
        await self._do("restore")

    async def first_end(self) -> ChildGone:
        return await asyncio.shield(self.ending)

    async def close(self) -> None:
        await self._do("close")

    def end_child(self, error: ChildGone) -> None:
        """A process ends; the next one lives."""
        before, self.ending = self.ending, asyncio.get_running_loop().create_future()
        before.set_result(error)

    def _act(self, action: Action) -> Act:
        async def act(desired: Desired, stopwatch: Stopwatch) -> None:
            self.deadlines.append(desired.deadline)
            with stopwatch.stage(action):
                await self._do(action)

        return act

    async def _do(self, name: str) -> None:
        self.did.append(name)
        if name in self.hanging:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.did.append(f"{name} given up")
                raise
        if self.errors.get(name):
            raise self.errors[name].pop(0)


@dataclass(slots=True)
class Scene:
    """A running member, its side, and the master's hand on the registry."""

    registry: FakeRegistry
    around: Surroundings
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
            raw = mirror.values.get(KEYS.status(POD, self.side.role))
            status = MemberStatus.model_validate_json(raw) if raw else None
            return status if status and (status.state, status.epoch) == (state, epoch) else None

        async with asyncio.timeout(SOON):
            return await self.mirror.wait(find)

    async def until_did(self, name: str, times: int = 1) -> None:
        async with asyncio.timeout(SOON):
            while self.side.did.count(name) < times:  # noqa: ASYNC110 - a list tells nobody that it has grown
                await asyncio.sleep(0.01)

    async def settled(self) -> None:
        """Let everything happen that can happen."""
        await asyncio.sleep(0.05)


@asynccontextmanager
async def running_member(side: ScriptedSide) -> AsyncIterator[Scene]:
    registry = FakeRegistry()
    settings = settings_of(job_config(Path("/policy")), Path("/shared"))
    async with mirrored(registry, KEYS.prefix) as mirror:
        around = side.around = Surroundings(settings, registry, mirror)
        member = Member(side, around)
        running = asyncio.create_task(member.run())
        try:
            yield Scene(registry, around, mirror, side, member, running)
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError, BaseExceptionGroup):
                await running
