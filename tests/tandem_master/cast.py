"""Members that react to `desired` as the engine's shims do, without processes and devices."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import time
from uuid import uuid4

from tandem_api.job.status import Phase
from tandem_api.registry import (
    Desired,
    FailureReason,
    Keys,
    MemberRecord,
    MemberState,
    MemberStatus,
    Role,
    StageSpan,
)
from tandem_api.weights import Layout, Shard
from tests.fakes.registry import FakeRegistry

NUM_RANKS = 2

Holds = Callable[[int], bool]
"""Whether the trainers hold, or can restore, a generation."""


@dataclass(slots=True)
class Script:
    """What members do wrong: `<role>/<epoch>`."""

    failures: Mapping[str, str] = field(default_factory=dict)
    """Reports Failed with this error."""
    losses: frozenset[str] = frozenset()
    """Reports that nobody has the generation of the word."""
    silences: frozenset[str] = frozenset()
    """Does nothing."""
    departures: frozenset[str] = frozenset()
    """Leaves."""
    restarts: frozenset[str] = frozenset()
    """Ends at the word and comes back as another incarnation, once."""
    delays: Mapping[str, float] = field(default_factory=dict)
    """Acts only after so many seconds."""
    mismatches: Mapping[str, str] = field(default_factory=dict)
    """Reports that its self-test has failed with this error."""
    self_tests: Mapping[str, int] = field(default_factory=dict)
    """Says that it has found so many tensors equal."""
    servers_wait: bool = False
    """Says that its servers take connections before they serve. Those of these tests answer at once."""


def _shares(pod: str) -> tuple[int, ...]:
    """Return the shares of a batch that a pod's ranks are given: each its own."""
    first = int(pod.rpartition("-")[2]) * NUM_RANKS
    return tuple(range(first, first + NUM_RANKS))


class FakeMember:
    """One shim of one pod."""

    def __init__(
        self,
        registry: FakeRegistry,
        keys: Keys,
        pod: str,
        role: Role,
        script: Script,
        holds: Holds = lambda generation: True,
    ) -> None:
        self._registry = registry
        self._keys = keys
        self._pod = pod
        self._role = role
        self._script = script
        self._holds = holds
        self._incarnation = ""
        self._lease = 0
        self._following: asyncio.Task[None] | None = None
        self._acts_of_last_lives: set[str] = set()

    async def act(self, port: int, pods: Sequence[str]) -> None:
        """Register, then follow the newest `desired` until cancelled or told to leave, in as many lives as scripted."""
        comes_back = True
        while comes_back:
            self._incarnation = uuid4().hex
            async with self._registry.lease(10) as lease:
                self._lease = lease.id
                await self._register(port)
                await self._tell(MemberStatus(incarnation=self._incarnation, epoch=0, state=MemberState.IDLE))
                try:
                    comes_back = await self._follow_newest(pods)
                finally:
                    await self._drop()

    async def _follow_newest(self, pods: Sequence[str]) -> bool:
        """Return whether this member comes back after its end."""
        async for changes in self._registry.watch(self._keys.desired):
            for desired in [Desired.model_validate_json(change.value) for change in changes if change.value]:
                act = f"{self._role}/{desired.epoch}"
                if act in self._script.departures:
                    return False
                if act in self._script.restarts - self._acts_of_last_lives:
                    self._acts_of_last_lives.add(act)
                    return True
                await self._drop()
                self._following = asyncio.create_task(self._follow(desired, pods), name=f"{self._pod}/{self._role}")
        return False

    async def _drop(self) -> None:
        """Give up what a newer word, or the end, has made pointless."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    async def _register(self, port: int) -> None:
        base = (f"http://127.0.0.1:{port}",)
        record = MemberRecord(
            incarnation=self._incarnation,
            role=self._role,
            address="127.0.0.1",
            port=port,
            servers=base if self._role == "rollout" else (),
            num_ranks=NUM_RANKS if self._role == "train" else 0,
            shares=_shares(self._pod) if self._role == "train" else (),
        )
        await self._put(self._keys.member(self._pod, self._role), record.model_dump_json())

    async def _follow(self, desired: Desired, pods: Sequence[str]) -> None:
        act = f"{self._role}/{desired.epoch}"
        if act in self._script.silences:
            return
        await asyncio.sleep(self._script.delays.get(act, 0.0))
        if act in self._script.failures:
            await self._report(desired, MemberState.FAILED, error=self._script.failures[act])
            return
        if act in self._script.mismatches:
            error, reason = self._script.mismatches[act], FailureReason.SELF_TEST
            await self._report(desired, MemberState.FAILED, error=error, reason=reason)
            return
        if act in self._script.losses or (self._role == "train" and not self._holds(desired.generation)):
            lost = FailureReason.GENERATION_LOST
            await self._report(desired, MemberState.FAILED, error="nobody has it", reason=lost)
            return
        match desired.phase, self._role:
            case Phase.INFER, "train":
                await self._export(desired, pods)
                await self._report(desired, MemberState.IDLE)
            case Phase.INFER, "rollout":
                if self._script.servers_wait:
                    await self._report(desired, MemberState.SWITCHING, stage="Gathering")
                await self._wait_for_publication(desired.generation)
                await self._report(desired, MemberState.SERVING)
            case Phase.TRAIN, "train":
                await self._report(desired, MemberState.TRAINING)
            case _:
                await self._report(desired, MemberState.IDLE)

    async def _export(self, desired: Desired, pods: Sequence[str]) -> None:
        generation, lineage = desired.generation, desired.lineage
        shards = tuple(f"{pod}/0" for pod in pods)
        layout = Layout(generation=generation, lineage=lineage, tensors=(), shards=shards)
        await self._registry.put(self._keys.layout(generation), layout.model_dump_json())
        shard = Shard(
            generation=generation,
            incarnation=self._incarnation,
            lineage=lineage,
            epoch=desired.epoch,
            segment="segment",
            segment_bytes=0,
            pieces=(),
        )
        await self._put(self._keys.shard(generation, self._pod, 0), shard.model_dump_json())

    async def _wait_for_publication(self, generation: int) -> None:
        async with asyncio.timeout(5):
            async for changes in self._registry.watch(self._keys.published):
                if any(change.value == str(generation) for change in changes):
                    return

    async def _report(
        self,
        desired: Desired,
        state: MemberState,
        error: str | None = None,
        reason: FailureReason | None = None,
        stage: str = "",
    ) -> None:
        status = MemberStatus(
            incarnation=self._incarnation,
            epoch=desired.epoch,
            state=state,
            stage=stage,
            generation=desired.generation,
            lineage=desired.lineage,
            stages=(StageSpan(stage="ready", started_at=time(), seconds=0.0),),
            equal_tensors=self._script.self_tests.get(f"{self._role}/{desired.epoch}"),
            error=error,
            reason=reason,
        )
        await self._tell(status)

    async def _tell(self, status: MemberStatus) -> None:
        await self._put(self._keys.status(self._pod, self._role), status.model_dump_json())

    async def _put(self, key: str, value: str) -> None:
        await self._registry.put(key, value, lease=self._lease)


@asynccontextmanager
async def on_stage(
    registry: FakeRegistry,
    keys: Keys,
    pods: Sequence[str],
    port: int,
    script: Script,
    holds: Holds = lambda generation: True,
) -> AsyncIterator[None]:
    """Run a trainer and a server for each pod while the context is open."""
    roles: tuple[Role, Role] = ("train", "rollout")
    tasks = [
        asyncio.create_task(FakeMember(registry, keys, pod, role, script, holds).act(port, pods), name=f"{pod}/{role}")
        for pod in pods
        for role in roles
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
