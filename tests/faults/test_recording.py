"""What is recorded is what happened: on a real etcd and a real buffer."""

import asyncio
import fcntl
import mmap
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from xxhash import xxh3_64_intdigest

from tandem_api.registry import Keys
from tandem_api.trajectory import TokenSegment, Trajectory, TrajectoryState
from tandem_checkpoint.registry.etcd import connect
from tandem_master.buffer.outcome import Outcome
from tandem_master.buffer.store import Buffer, open_buffer
from tandem_master.sampling.state import Draw
from tests.faults.recording.buffer import BufferReader
from tests.faults.recording.devices import DeviceSampler, has_weights
from tests.faults.recording.processes import ProcessTable, left_behind
from tests.faults.recording.registry import RegistryRecorder
from tests.faults.recording.segments import compare_segment
from tests.faults.sleeper import start_sleeper
from tests.faults.values import PieceValue, ShardValue, Value
from tests.tandem_checkpoint.etcd_process import EtcdProcess

KEYS = Keys("default", "recorded")
WAIT_SECONDS = 20.0


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[EtcdProcess]:
    process = EtcdProcess(tmp_path / "etcd")
    process.start()
    yield process
    process.kill()


@pytest.fixture
async def recorder(own_etcd: EtcdProcess) -> AsyncIterator[RegistryRecorder]:
    recorder = RegistryRecorder(own_etcd.endpoint, KEYS.prefix)
    running = asyncio.create_task(recorder.run(), name="record")
    yield recorder
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def put(etcd: EtcdProcess, *values: str) -> None:
    async with connect([etcd.endpoint]) as registry:
        await asyncio.gather(*(registry.put(KEYS.published, value) for value in values))


async def seen(recorder: RegistryRecorder, generation: int) -> None:
    await recorder.wait(
        lambda values: True if getattr(values.get("weights/published"), "generation", None) == generation else None,
        WAIT_SECONDS,
    )


@pytest.mark.etcd
async def test_every_change_is_recorded_with_its_revision(own_etcd: EtcdProcess, recorder: RegistryRecorder) -> None:
    await put(own_etcd, "1")
    await put(own_etcd, "2")
    await seen(recorder, 2)

    assert [change.key for change in recorder.changes] == ["weights/published"] * 2
    assert [change.revision for change in recorder.changes] == [2, 3]
    assert {change.life for change in recorder.changes} == {0}


@pytest.mark.etcd
async def test_nothing_is_missed_or_repeated_where_etcd_dies_and_comes_back(
    own_etcd: EtcdProcess, recorder: RegistryRecorder
) -> None:
    await put(own_etcd, "1")
    await seen(recorder, 1)
    await asyncio.to_thread(own_etcd.kill)
    await asyncio.to_thread(own_etcd.start)
    await put(own_etcd, "2")
    await put(own_etcd, "3")
    await seen(recorder, 3)

    assert [change.revision for change in recorder.changes] == [2, 3, 4]


@pytest.mark.etcd
async def test_an_etcd_that_comes_back_empty_is_another_life(own_etcd: EtcdProcess, recorder: RegistryRecorder) -> None:
    await put(own_etcd, "1")
    await put(own_etcd, "2")
    await seen(recorder, 2)
    await asyncio.to_thread(own_etcd.kill)
    await asyncio.to_thread(shutil.rmtree, own_etcd.data)
    await asyncio.to_thread(own_etcd.start)
    await put(own_etcd, "7")
    await seen(recorder, 7)

    assert [(change.life, change.revision) for change in recorder.changes] == [(0, 2), (0, 3), (1, 2)]


@pytest.fixture
def buffer(tmp_path: Path) -> Iterator[Buffer]:
    buffer = open_buffer(tmp_path / "buffer.sqlite")
    yield buffer
    buffer.close()


def trajectory(key: str) -> Trajectory:
    return Trajectory(id=key, group="g", problem_id="p", prompt_token_ids=(1, 2))


def test_a_snapshot_holds_what_has_changed_since_the_last_one(buffer: Buffer, tmp_path: Path) -> None:
    reader = BufferReader(tmp_path / "buffer.sqlite")
    drawn = (trajectory("a"), trajectory("b"))
    buffer.begin(1, Draw(problem_ids=("p",), positions={}), drawn)
    first = reader.snapshot()
    sampled = TokenSegment(generation=0, token_ids=(3, 4), logprobs=(-0.5, -0.25))
    finished = drawn[0].model_copy(
        update={"segments": (sampled,), "state": TrajectoryState.FINISHED, "finish_reason": "stop", "reward": 1.0}
    )
    buffer.record(1, [Outcome(finished, True)])
    second = reader.snapshot()

    assert first is not None
    assert second is not None
    assert [row.id for row in first.changed] == ["a", "b"]
    assert [(row.id, row.state, row.finished_iteration) for row in second.changed] == [("a", "Finished", 1)]
    [segment] = second.changed[0].segments
    assert (segment.num_tokens, segment.num_token_ids, segment.num_logprobs, segment.num_bad_logprobs) == (2, 2, 2, 0)


def test_a_rollback_shows_as_what_has_vanished(buffer: Buffer, tmp_path: Path) -> None:
    reader = BufferReader(tmp_path / "buffer.sqlite")
    buffer.begin(1, Draw(problem_ids=("p",), positions={}), [trajectory("a")])
    buffer.commit(1, [])
    buffer.begin(2, Draw(problem_ids=("p",), positions={}), [trajectory("b")])
    before = reader.snapshot()
    buffer.rollback(0)
    after = reader.snapshot()

    assert before is not None
    assert after is not None
    assert (before.committed, after.committed) == ((1,), ())
    assert after.vanished == ("b",)


def shards(content: bytes) -> dict[str, Value]:
    piece = PieceValue(tensor="w", offset_bytes=4, num_bytes=4, xxh3=xxh3_64_intdigest(content[4:8]))
    value = ShardValue(generation=0, incarnation="x", segment="weights-0.segment", pieces=(piece,))
    return {"weights/0/shards/pod/0": value}


def test_flipped_bytes_are_told_by_the_tensor(tmp_path: Path) -> None:
    (tmp_path / "weights-0.segment").write_bytes(b"....abcd")
    right = compare_segment(shards(b"....abcd"), tmp_path, "pod", "pod", 0)
    wrong = compare_segment(shards(b"....abcx"), tmp_path, "pod", "pod", 0)

    assert right is not None
    assert wrong is not None
    assert (right.num_pieces, right.broken, wrong.broken) == (1, (), ("w",))


def test_the_kernel_tells_who_holds_the_token(tmp_path: Path) -> None:
    (tmp_path / "pod" / "shared").mkdir(parents=True)
    sampler = DeviceSampler(tmp_path, ["pod"], lambda: 0)
    sampler.follow(os.getpid())
    sampler.start()
    with (tmp_path / "pod" / "shared" / "gpu.token").open("w") as token:
        fcntl.flock(token, fcntl.LOCK_EX)
        wait_for(sampler, ("unknown",))
        fcntl.flock(token, fcntl.LOCK_UN)
        wait_for(sampler, ())
    sampler.stop()

    assert ("unknown",) in [sample.holders for sample in sampler.samples]


def test_a_server_holds_device_memory_once_it_has_the_weights_in_its_memory(tmp_path: Path) -> None:
    segment = tmp_path / "weights-1.segment"
    segment.write_bytes(bytes(4096))
    before = has_weights(os.getpid())
    with segment.open("r+b") as file, mmap.mmap(file.fileno(), 4096, flags=mmap.MAP_PRIVATE):
        meanwhile = has_weights(os.getpid())

    assert (before, meanwhile, has_weights(os.getpid())) == (False, True, False)


def wait_for(sampler: DeviceSampler, holders: tuple[str, ...]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not sampler.samples or sampler.samples[-1].holders != holders:
        assert time.monotonic() < deadline, sampler.samples
        time.sleep(0.01)


async def test_a_process_is_known_by_its_words_and_its_pod() -> None:
    table = ProcessTable()
    process = await start_sleeper("/somewhere/tandem-engine", "--role", "train", POD_NAME="pod-0")
    found = [one for one in table.scan(os.getpid()) if one.pid == process.pid]
    process.kill()
    await process.communicate()

    assert [(one.kind, one.pod) for one in found] == [("engine-train", "pod-0")]
    assert table.kinds[process.pid] == "engine-train"


async def test_what_a_command_has_left_running_is_found_by_its_folder(tmp_path: Path) -> None:
    process = await start_sleeper(STATE=str(tmp_path / "run"))
    found = left_behind(str(tmp_path / "run"))
    process.kill()
    await process.communicate()

    assert list(found) == [process.pid]
    assert left_behind(str(tmp_path / "run")) == {}
