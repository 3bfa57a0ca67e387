"""Events tell what happened once, with a count."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tandem_operator.kube.client import Selection
from tandem_operator.kube.manifest import Manifest, name_of, number, section, text
from tandem_operator.kube.recorder import EventRecorder, ObjectReference, cut
from tandem_operator.kube.resources import EVENT, RLJOB
from tests.tandem_operator.kube.conftest import Server
from tests.tandem_operator.kube.fake_api import FakeApi, Fault
from tests.tandem_operator.kube.waiting import eventually


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def job(server: Server, name: str = "math") -> ObjectReference:
    """Return a job to tell of."""
    return ObjectReference(RLJOB, server.namespace, name, "5d1c2d5e-0000-4000-8000-000000000001", "17")


@contextlib.asynccontextmanager
async def recording(server: Server, clock: Clock) -> AsyncIterator[EventRecorder]:
    """Run a recorder."""
    recorder = EventRecorder(server.client, instance="pod-1", clock=clock)
    task = asyncio.create_task(recorder.run())
    try:
        yield recorder
    finally:
        task.cancel()
        await asyncio.wait([task])


def storm(recorder: EventRecorder, about: list[ObjectReference], messages: list[str]) -> None:
    """Record many Events at once."""
    for reference, message in zip(about, messages, strict=True):
        recorder.record(reference, "Normal", "Restarted", message)


async def written(server: Server, num_events: int, count: int = 1) -> list[Manifest]:
    """Return the Events of the namespace once there are so many, the first with a count."""
    async with asyncio.timeout(20):
        while True:
            events = [event async for event in server.client.objects(Selection(EVENT, server.namespace))]
            if len(events) == num_events and number(events[0], "count") == count:
                return events
            await asyncio.sleep(0.02)


async def test_an_event_says_what_happened_to_which_object_and_who_says_so(server: Server) -> None:
    async with recording(server, Clock()) as recorder:
        recorder.record(job(server), "Warning", "Unschedulable", "0/3 nodes: 1 cannot allocate all claims")
        (event,) = await written(server, 1)

    assert name_of(event).startswith("math.")
    assert text(event, "type") == "Warning"
    assert text(event, "reason") == "Unschedulable"
    assert text(event, "message") == "0/3 nodes: 1 cannot allocate all claims"
    assert section(event, "involvedObject") == job(server).manifest()
    assert text(event, "reportingComponent") == "tandem-operator"
    assert text(event, "reportingInstance") == "pod-1"
    assert text(event, "firstTimestamp") == text(event, "lastTimestamp")


async def test_a_repeat_within_ten_minutes_raises_the_count(server: Server) -> None:
    clock = Clock()
    async with recording(server, clock) as recorder:
        recorder.record(job(server), "Normal", "Restarted", "gang restarted")
        await written(server, 1)
        clock.now += 30
        recorder.record(job(server), "Normal", "Restarted", "gang restarted")

        events = await written(server, 1, count=2)

    assert text(events[0], "message") == "gang restarted"


async def test_a_repeat_after_ten_minutes_is_a_new_event(server: Server) -> None:
    clock = Clock()
    async with recording(server, clock) as recorder:
        recorder.record(job(server), "Normal", "Restarted", "gang restarted")
        await written(server, 1)
        clock.now += 601
        recorder.record(job(server), "Normal", "Restarted", "gang restarted")

        assert len(await written(server, 2)) == 2


async def test_a_storm_of_repeats_is_two_requests(fake_server: Server, fake: FakeApi) -> None:
    clock = Clock()
    async with recording(fake_server, clock) as recorder:
        storm(recorder, [job(fake_server)] * 500, ["gang restarted"] * 500)
        await written(fake_server, 1)
        await eventually(lambda: recorder.num_queued == 0, "the queue to empty")
        clock.now += 21
        recorder.record(job(fake_server), "Normal", "Restarted", "gang restarted")
        await written(fake_server, 1, count=501)

    assert fake.num_requests("POST") + fake.num_requests("PATCH") == 2


async def test_a_count_to_an_event_that_was_forgotten_is_a_new_event(fake_server: Server, fake: FakeApi) -> None:
    clock = Clock()
    async with recording(fake_server, clock) as recorder:
        recorder.record(job(fake_server), "Normal", "Restarted", "gang restarted")
        (event,) = await written(fake_server, 1)
        await fake_server.client.delete(EVENT, fake_server.namespace, name_of(event))
        clock.now += 30
        recorder.record(job(fake_server), "Normal", "Restarted", "gang restarted")

        (again,) = await written(fake_server, 1)

    assert name_of(again) != name_of(event)


async def test_an_event_that_is_refused_stops_nothing(fake_server: Server, fake: FakeApi) -> None:
    fake.faults.append(Fault(status=403, method="POST"))

    async with recording(fake_server, Clock()) as recorder:
        recorder.record(job(fake_server), "Normal", "Lost", "this one is refused")
        recorder.record(job(fake_server), "Normal", "Kept", "this one is not")
        (event,) = await written(fake_server, 1)

    assert text(event, "reason") == "Kept"
    assert recorder.num_dropped == 1


async def test_what_is_queued_when_the_recorder_ends_is_still_written(fake_server: Server) -> None:
    async with recording(fake_server, Clock()) as recorder:
        await asyncio.sleep(0)
        storm(recorder, [job(fake_server, f"job-{ordinal}") for ordinal in range(5)], ["bye"] * 5)

    assert len(await written(fake_server, 5)) == 5


async def test_more_events_than_can_wait_are_counted_as_dropped(fake_server: Server) -> None:
    recorder = EventRecorder(fake_server.client, instance="pod-1")

    storm(recorder, [job(fake_server)] * 1030, [str(ordinal) for ordinal in range(1030)])

    assert recorder.num_dropped == 6


@pytest.mark.parametrize("message", ["x" * 2000, "ü" * 2000, "𝕏" * 2000])
def test_a_long_message_is_cut_to_a_kibibyte_of_whole_characters(message: str) -> None:
    shortened = cut(message)

    assert 1020 <= len(shortened.encode()) <= 1024
    assert shortened.endswith("…")
    assert message.startswith(shortened[:-1])
