"""Who takes part in a job: members are waited for, and those that are missing are named meanwhile."""

import asyncio

from tandem_api.registry import Keys, MemberRecord, Role
from tandem_master.members import hybrid_members, wait_for_members
from tandem_master.watched import watched
from tests.fakes.registry import FakeRegistry

KEYS = Keys("default", "toy")
PODS = ("toy-hybrid-0", "toy-hybrid-1")
SOON = 10.0


async def register(registry: FakeRegistry, pod: str, role: Role, attempt: int = 1) -> None:
    record = MemberRecord(incarnation=f"{pod}-{role}", role=role, address="127.0.0.1", port=1, attempt=attempt)
    await registry.put(f"{KEYS.members}{pod}/{role}", record.model_dump_json())


async def until_told(told: list[str], beginning: str) -> None:
    async with asyncio.timeout(SOON):
        while not (told and told[-1].startswith(beginning)):  # noqa: ASYNC110 - a list tells nobody that it has grown
            await asyncio.sleep(0.001)


async def test_the_missing_members_are_named_until_all_are_there() -> None:
    registry, told = FakeRegistry(), list[str]()
    await register(registry, PODS[0], "train")

    async with watched(registry, [KEYS.members]) as members:
        waiting = asyncio.create_task(wait_for_members(members, KEYS, hybrid_members(PODS), 1, told.append))
        for member in hybrid_members(PODS)[1:]:
            await until_told(told, f"waiting for {member}")
            await register(registry, member.pod, member.role)
        membership = await asyncio.wait_for(waiting, SOON)

    assert set(membership.records) == set(hybrid_members(PODS))
    assert told[0] == "waiting for toy-hybrid-0/rollout, toy-hybrid-1/train, toy-hybrid-1/rollout"
    assert told[-1] == "waiting for toy-hybrid-1/rollout"


async def test_of_many_missing_members_three_are_named() -> None:
    told: list[str] = []
    many = hybrid_members([f"toy-hybrid-{number}" for number in range(4)])

    async with watched(FakeRegistry(), [KEYS.members]) as members:
        waiting = asyncio.create_task(wait_for_members(members, KEYS, many, 1, told.append))
        await until_told(told, "waiting for")
        waiting.cancel()
        await asyncio.wait([waiting])

    assert told[0] == "waiting for toy-hybrid-0/train, toy-hybrid-0/rollout, toy-hybrid-1/train and 5 more"


async def test_the_members_of_an_attempt_before_do_not_count_while_their_leases_last() -> None:
    registry = FakeRegistry()
    for member in hybrid_members(PODS[:1]):
        await register(registry, member.pod, member.role, attempt=0)

    async with watched(registry, [KEYS.members]) as members:
        waiting = asyncio.create_task(wait_for_members(members, KEYS, hybrid_members(PODS[:1]), 1, lambda text: None))
        await asyncio.sleep(0.05)
        was_waiting = not waiting.done()
        for member in hybrid_members(PODS[:1]):
            await register(registry, member.pod, member.role)
        membership = await asyncio.wait_for(waiting, SOON)

    assert was_waiting
    assert {record.attempt for record in membership.records.values()} == {1}
