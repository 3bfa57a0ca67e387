"""At most one candidate leads at any time, and somebody leads soon."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from tandem_operator.kube.client import KubeClient
from tandem_operator.kube.lease import LeaderLease
from tandem_operator.kube.lease_record import LeaseTiming
from tandem_operator.kube.manifest import Manifest, section
from tandem_operator.kube.resources import LEASE
from tests.tandem_operator.kube.conftest import Server
from tests.tandem_operator.kube.fake_api import FakeApi, Fault
from tests.tandem_operator.kube.waiting import eventually

TIMING = LeaseTiming(duration_seconds=3.0, renew_deadline_seconds=2.0, retry_seconds=0.1)


class Clock:
    """The monotonic clock, with jumps: a process that stood still."""

    def __init__(self) -> None:
        self.jumped_seconds = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.jumped_seconds


def candidate(server: Server, identity: str, timing: LeaseTiming = TIMING) -> LeaderLease:
    """Return one operator that wants to lead."""
    return LeaderLease(server.client, namespace=server.namespace, name="leader", identity=identity, timing=timing)


@contextlib.asynccontextmanager
async def waiting(lease: LeaderLease) -> AsyncIterator[asyncio.Task[None]]:
    """Let a candidate wait for the lease; release it at the end."""
    task = asyncio.create_task(lease.acquire())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        await lease.release()


async def stored(server: Server) -> Manifest:
    """Return what the Lease says."""
    return section(await server.client.get(LEASE, server.namespace, "leader"), "spec")


async def test_the_first_one_leads_and_the_lease_says_so(server: Server) -> None:
    lease = candidate(server, "first")

    async with waiting(lease):
        await eventually(lambda: lease.is_held, "the first to lead")

        spec = await stored(server)
    assert spec["holderIdentity"] == lease.identity
    assert lease.identity.startswith("first_")
    assert spec["leaseTransitions"] == 0


async def test_the_second_one_waits_while_the_first_renews(server: Server) -> None:
    first, second = candidate(server, "first"), candidate(server, "second")

    async with waiting(first):
        await eventually(lambda: first.is_held, "the first to lead")
        async with waiting(second):
            await asyncio.sleep(1.2 * TIMING.duration_seconds)

            assert first.is_held
            assert not second.is_held
            assert second.holder == first.identity


async def test_a_released_lease_passes_to_the_next_without_waiting_for_its_term(server: Server) -> None:
    hour = LeaseTiming(duration_seconds=3600, renew_deadline_seconds=1800, retry_seconds=0.1)
    first, second = candidate(server, "first", hour), candidate(server, "second", hour)

    async with waiting(first), waiting(second):
        await eventually(lambda: first.is_held != second.is_held, "one to lead")
        before, after = (first, second) if first.is_held else (second, first)
        await before.release()
        await eventually(lambda: after.is_held, "the other to lead")

        spec = await stored(server)
    assert spec["holderIdentity"] == after.identity
    assert not before.is_held
    assert not before.lost.is_set()


async def test_a_holder_that_died_is_followed_after_its_term(server: Server) -> None:
    await server.client.create(abandoned(server.namespace))
    next_one = candidate(server, "next")

    async with waiting(next_one):
        await eventually(lambda: next_one.is_held, "the next to lead")

        spec = await stored(server)
    assert spec["leaseTransitions"] == 8


async def test_a_clock_that_is_wrong_by_years_gives_nobody_the_lease_early(fake_server: Server) -> None:
    hour = LeaseTiming(duration_seconds=3600, renew_deadline_seconds=1800, retry_seconds=0.05)
    await fake_server.client.create(abandoned(fake_server.namespace))  # its renewTime is years ago
    next_one = candidate(fake_server, "next", hour)

    async with waiting(next_one):
        await eventually(lambda: next_one.holder == "dead", "a look at the lease")
        await asyncio.sleep(0.3)

        assert not next_one.is_held


async def test_a_holder_that_cannot_renew_stops_leading_before_its_term_ends(
    fake_server: Server, fake: FakeApi
) -> None:
    lease = candidate(fake_server, "first")

    async with waiting(lease):
        await eventually(lambda: lease.is_held, "it to lead")
        fake.faults.extend([Fault(status=503)] * 10_000)
        await eventually(lease.lost.is_set, "it to notice")

        assert not lease.is_held
        fake.faults.clear()


async def test_a_holder_outlives_failures_that_pass(fake_server: Server, fake: FakeApi) -> None:
    lease = candidate(fake_server, "first")

    async with waiting(lease):
        await eventually(lambda: lease.is_held, "it to lead")
        fake.faults.extend([Fault(status=503), Fault(), Fault(carried_out=True), Fault(status=429)])
        await asyncio.sleep(1.5 * TIMING.renew_deadline_seconds)

        assert not fake.faults
        assert lease.is_held


async def test_a_holder_whose_lease_another_one_took_stops_leading(server: Server) -> None:
    lease = candidate(server, "first")

    async with waiting(lease):
        await eventually(lambda: lease.is_held, "it to lead")
        await server.client.merge_patch(LEASE, server.namespace, "leader", {"spec": {"holderIdentity": "thief"}})
        await eventually(lease.lost.is_set, "it to notice")

        assert not lease.is_held
        assert lease.holder == "thief"


async def test_a_deleted_lease_is_written_anew_by_its_holder(server: Server) -> None:
    first, second = candidate(server, "first"), candidate(server, "second")

    async with waiting(first):
        await eventually(lambda: first.is_held, "the first to lead")
        async with waiting(second):
            await eventually(lambda: second.holder == first.identity, "the second to see the first")
            await server.client.delete(LEASE, server.namespace, "leader")
            await asyncio.sleep(TIMING.duration_seconds)

            assert first.is_held
            assert not second.is_held
            assert (await stored(server))["holderIdentity"] == first.identity


async def test_a_process_that_stood_still_past_its_deadline_does_not_lead_when_it_goes_on(fake_server: Server) -> None:
    clock = Clock()
    lease = LeaderLease(
        fake_server.client, namespace="research", name="leader", identity="first", timing=TIMING, clock=clock
    )

    async with waiting(lease):
        await eventually(lambda: lease.is_held, "it to lead")
        clock.jumped_seconds = 60

        assert not lease.is_held
        await eventually(lease.lost.is_set, "it to notice")


@pytest.mark.parametrize("seed", range(3))
async def test_two_that_fight_for_the_lease_never_both_lead(fake_server: Server, fake: FakeApi, seed: int) -> None:
    chance = random.Random(seed)
    timing = LeaseTiming(duration_seconds=1.0, renew_deadline_seconds=0.5, retry_seconds=0.03)
    both: list[float] = []
    terms: list[str] = []

    async def compete(identity: str) -> None:
        """Lead again and again, each time for a short while or until it is lost."""
        while True:
            lease = LeaderLease(
                KubeClient(fake_server.connection),
                namespace="research",
                name="leader",
                identity=identity,
                timing=timing,
            )
            leading[identity] = lease
            await lease.acquire()
            terms.append(identity)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(chance.uniform(0.05, 0.6)):
                    await lease.lost.wait()
            await lease.release()
            await asyncio.sleep(chance.uniform(0, 0.2))

    async def disturb() -> None:
        """Fail a few requests, cut some whose effect stays, and look who leads."""
        while True:
            await asyncio.sleep(0.002)
            fake.faults.extend([Fault(status=503), Fault(), Fault(carried_out=True)] if chance.random() < 0.02 else [])
            both.extend([time.monotonic()] if all(lease.is_held for lease in leading.values()) else [])

    leading: dict[str, LeaderLease] = {"a": candidate(fake_server, "a"), "b": candidate(fake_server, "b")}
    tasks = [asyncio.create_task(work) for work in (compete("a"), compete("b"), disturb())]
    await eventually(lambda: min(terms.count("a"), terms.count("b")) >= 3, "three terms of each", seconds=60)
    await stop(tasks)
    fake.faults.clear()
    await leading["a"].release()
    await leading["b"].release()

    assert both == []


@pytest.mark.api_server
@pytest.mark.parametrize("server", ["real"], indirect=True)
async def test_two_that_fight_on_a_real_api_server_never_both_lead(server: Server) -> None:
    both: list[bool] = []
    first, second = candidate(server, "first"), candidate(server, "second")

    async def look() -> None:
        while True:
            both.extend([True] if first.is_held and second.is_held else [])
            await asyncio.sleep(0.002)

    looking = asyncio.create_task(look())
    async with waiting(first), waiting(second):
        await eventually(lambda: first.is_held or second.is_held, "one to lead")
        before, after = (first, second) if first.is_held else (second, first)
        await asyncio.sleep(TIMING.duration_seconds)
        await before.release()
        await eventually(lambda: after.is_held, "the other to lead")
    await stop([looking])

    assert both == []


def test_a_timing_in_which_two_might_lead_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lease: duration 10 s, renew deadline 10 s and retry 2 s do not fall; give"):
        LeaseTiming(duration_seconds=10, renew_deadline_seconds=10, retry_seconds=2)


async def stop(tasks: list[asyncio.Task[None]]) -> None:
    """End tasks."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def abandoned(namespace: str) -> Manifest:
    """Return a Lease whose holder died years ago by its own clock."""
    long_ago = datetime(2001, 1, 1, tzinfo=UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"namespace": namespace, "name": "leader"},
        "spec": {
            "holderIdentity": "dead",
            "leaseDurationSeconds": 1,
            "acquireTime": long_ago,
            "renewTime": long_ago,
            "leaseTransitions": 7,
        },
    }
