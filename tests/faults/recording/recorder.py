"""Everything that is recorded of one job, over all its sessions."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.faults.history import (
    BufferSnapshot,
    Change,
    Disturbance,
    History,
    Intrusion,
    JobFacts,
    SegmentCheck,
    Session,
)
from tests.faults.job import JobPlace
from tests.faults.recording.buffer import BufferReader
from tests.faults.recording.devices import DeviceSampler
from tests.faults.recording.diary import DiaryRecorder
from tests.faults.recording.registry import RegistryRecorder
from tests.faults.recording.segments import compare_segment
from tests.faults.values import StatusValue


class Recorder:
    """Watches a job from outside."""

    def __init__(self, place: JobPlace, facts: JobFacts) -> None:
        self._place = place
        self.facts = facts
        self.registry = RegistryRecorder(place.endpoint, place.prefix)
        self.diary = DiaryRecorder(place.run / "metrics.jsonl")
        self.devices = DeviceSampler(
            place.memory,
            [pod for pod in place.addresses if pod != place.master_pod],
            lambda: len(self.registry.changes),
        )
        self._buffer = BufferReader(place.run / "buffer.sqlite")
        self._snapshots: list[BufferSnapshot] = []
        self._segments: list[SegmentCheck] = []
        self.disturbances: list[Disturbance] = []
        self.intrusions: list[Intrusion] = []
        self.sessions: list[Session] = []
        self.registry.listeners.append(self._check_segment)

    async def snapshot(self) -> None:
        """Look at the buffer; only while no master is on its way up, since it rolls back before it says so."""
        taken = await asyncio.to_thread(self._buffer.snapshot)
        if taken is not None:
            self._snapshots.append(taken)

    def history(self) -> History:
        """Return all that was seen so far."""
        return History(
            job=self.facts,
            changes=tuple(self.registry.changes),
            samples=tuple(self.devices.samples),
            segments=tuple(self._segments),
            diary=tuple(self.diary.entries),
            snapshots=tuple(self._snapshots),
            disturbances=tuple(self.disturbances),
            intrusions=tuple(self.intrusions),
            sessions=tuple(self.sessions),
        )

    def _check_segment(self, change: Change) -> None:
        value = change.value
        if not isinstance(value, StatusValue) or value.state != "Serving" or value.generation is None:
            return
        pod = change.key.split("/")[1]
        source = pod if pod in self.facts.hybrid_pods else self.facts.hybrid_pods[0]
        folder = self._place.shared(pod)
        check = compare_segment(self.registry.values, folder, pod, source, value.generation)
        if check is not None:
            self._segments.append(check)


@asynccontextmanager
async def recording(place: JobPlace, facts: JobFacts) -> AsyncIterator[Recorder]:
    """Record while the context is open."""
    recorder = Recorder(place, facts)
    tasks = [
        asyncio.create_task(recorder.registry.run(), name="record the registry"),
        asyncio.create_task(recorder.diary.run(), name="record the diary"),
    ]
    recorder.devices.start()
    try:
        yield recorder
    finally:
        recorder.devices.stop()
        recorder.diary.read()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
