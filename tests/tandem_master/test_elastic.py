"""Rollout-only pods: they help where they can, and nothing that they do or leave undone hurts the job."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from tandem_api.job.status import Phase
from tandem_api.registry import Desired, Keys, MemberRecord, MemberState, MemberStatus
from tandem_master.serving import Serving
from tandem_master.watched import watched
from tests.fakes.registry import FakeRegistry
from tests.tandem_master.cast import FakeMember, Script
from tests.tandem_master.conftest import PODS, PROBLEMS, Job
from tests.tandem_master.engine_stub import EngineStub, serving

SOON = 10.0
POD = "toy-rollout-0"
KEYS = Keys("default", "toy")
INFER = Desired(epoch=3, phase=Phase.INFER, generation=1, iteration=2, deadline=0.0)


@asynccontextmanager
async def rollout_only(job: Job, port: int, script: Script | None = None) -> AsyncIterator[asyncio.Task[None]]:
    """Run the engine of a rollout-only pod whose server listens on `port`; cancel the task to end it."""
    member = FakeMember(job.registry, job.settings.keys, POD, "rollout", script or Script())
    task = asyncio.create_task(member.act(port, PODS), name=POD)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def stub() -> EngineStub:
    """The server of the rollout-only pod."""
    return EngineStub(dict(PROBLEMS))


def slow_servers() -> Script:
    """Hybrid pods whose servers come to serve a little after everybody else's."""
    return Script(delays={f"rollout/{epoch}": 0.2 for epoch in (1, 3, 5)})


async def test_a_rollout_only_pod_that_serves_is_asked_too(job: Job, stub: EngineStub) -> None:
    job.script = slow_servers()
    async with serving(stub) as port, rollout_only(job, port):
        exit_code = await job.run()

    assert exit_code == 0
    assert stub.answered
    assert job.stub.answered


async def test_a_pod_that_leaves_in_the_middle_has_its_requests_answered_by_others(job: Job, stub: EngineStub) -> None:
    job.script = slow_servers()
    stub.num_before_holding = 0
    async with serving(stub) as port, rollout_only(job, port) as member:
        running = asyncio.create_task(job.run())
        async with asyncio.timeout(SOON):
            await stub.held.wait()

        member.cancel()
        exit_code = await running
        async with asyncio.timeout(SOON):
            await stub.disconnected.wait()

    assert exit_code == 0
    assert [record.iteration for record in job.iterations()] == [1, 2, 3]
    assert stub.answered == []


async def test_a_pod_that_dies_with_all_its_connections_hurts_nobody(job: Job) -> None:
    job.script = slow_servers()
    async with rollout_only(job, port=9):
        exit_code = await job.run()

    assert exit_code == 0
    assert [record.iteration for record in job.iterations()] == [1, 2, 3]


@pytest.mark.parametrize(
    "script",
    [
        Script(failures={f"rollout/{epoch}": "the weights could not be fetched" for epoch in (1, 2, 3, 5)}),
        Script(silences=frozenset(f"rollout/{epoch}" for epoch in range(1, 7))),
        Script(departures=frozenset({"rollout/2"})),
        Script(delays={f"rollout/{epoch}": 60.0 for epoch in range(1, 7)}),
    ],
    ids=["fails", "does nothing", "leaves in a switch", "is slow"],
)
async def test_whatever_a_rollout_only_pod_does_no_switch_waits_for_it(job: Job, script: Script) -> None:
    async with rollout_only(job, job.port, script), asyncio.timeout(SOON):
        exit_code = await job.run()

    assert exit_code == 0


@dataclass(slots=True)
class Members:
    """Rollout members as the registry knows them."""

    registry: FakeRegistry
    lease: int
    incarnations: dict[str, str] = field(default_factory=dict)

    async def join(self, pod: str, *servers: str, incarnation: str = "one") -> None:
        self.incarnations[pod] = incarnation
        record = MemberRecord(incarnation=incarnation, role="rollout", address="10.0.0.1", port=1, servers=servers)
        await self.registry.put(KEYS.member(pod, "rollout"), record.model_dump_json(), lease=self.lease)

    async def report(
        self, pod: str, state: MemberState = MemberState.SERVING, epoch: int = 3, generation: int | None = 1
    ) -> None:
        status = MemberStatus(incarnation=self.incarnations[pod], epoch=epoch, state=state, generation=generation)
        await self.registry.put(KEYS.status(pod, "rollout"), status.model_dump_json(), lease=self.lease)


@pytest.fixture
async def members() -> AsyncIterator[Members]:
    registry = FakeRegistry()
    async with registry.lease(10) as lease:
        yield Members(registry, lease.id)


@pytest.fixture
async def phase(members: Members) -> AsyncIterator[Serving]:
    """The Infer phase with epoch 3 and generation 1, in which one hybrid pod serves."""
    await members.join("hybrid-0", "http://a", "http://b")
    await members.report("hybrid-0")
    async with watched(members.registry, [KEYS.members, KEYS.statuses]) as keys:
        await keys.until(lambda values: True if len(values) == 2 else None)
        yield Serving(keys, KEYS, INFER)


async def changed(phase: Serving) -> dict[str, str]:
    """Return who serves once that is not the hybrid pod alone."""
    async with asyncio.timeout(SOON):
        return dict(await phase.changed({"http://a": "one", "http://b": "one"}))


async def test_every_server_of_a_serving_member_serves(phase: Serving) -> None:
    assert phase.servers() == {"http://a": "one", "http://b": "one"}


async def test_a_member_that_comes_to_serve_is_seen(members: Members, phase: Serving) -> None:
    waiting = asyncio.create_task(changed(phase))
    await members.join(POD, "http://c", incarnation="two")
    await members.report(POD)

    assert await waiting == {"http://a": "one", "http://b": "one", "http://c": "two"}


async def test_a_member_whose_lease_ends_is_seen_to_go(members: Members, phase: Serving) -> None:
    waiting = asyncio.create_task(changed(phase))
    await asyncio.sleep(0)
    members.registry.expire(members.lease)

    assert await waiting == {}


@pytest.mark.parametrize(
    ("state", "epoch", "generation"),
    [
        (MemberState.SWITCHING, 3, 1),
        (MemberState.FAILED, 3, 1),
        (MemberState.SERVING, 1, 1),
        (MemberState.SERVING, 3, 0),
    ],
    ids=["on its way", "failed", "of an earlier epoch", "of another generation"],
)
async def test_who_does_not_serve_this_generation_now_is_not_asked(
    members: Members, phase: Serving, state: MemberState, epoch: int, generation: int
) -> None:
    await members.join(POD, "http://c")
    await members.report(POD, state, epoch, generation)
    await members.join("hybrid-1", "http://d")
    await members.report("hybrid-1")

    assert await changed(phase) == {"http://a": "one", "http://b": "one", "http://d": "one"}
