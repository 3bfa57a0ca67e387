"""Injectors do what they say: on real processes, a real etcd and real files."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from xxhash import xxh3_64_intdigest

from tandem_checkpoint.registry.etcd import connect
from tandem_checkpoint.registry.store import Lease, Registry
from tests.faults.conftest import KEYS, POD
from tests.faults.injections.clock import MoveClock
from tests.faults.injections.injector import Injector
from tests.faults.injections.registry import EmptyEtcd, LoseLease, RepeatWord
from tests.faults.injections.scene import NoTarget, Scene
from tests.faults.injections.signals import Freeze, Kill, KillEtcd
from tests.faults.injections.storage import CorruptSegment, FillSharedMemory
from tests.faults.injections.strangers import StalePublication, StaleStatus, StaleWord
from tests.faults.recording.segments import compare_segment
from tests.faults.sleeper import start_sleeper
from tests.faults.values import ShardValue

WAIT_SECONDS = 20.0
WORD = '{"epoch": 3, "phase": "Infer", "generation": 1, "deadline": 5.0}'


@pytest.fixture
async def registry(scene: Scene) -> AsyncIterator[Registry]:
    """A real etcd whose changes the scene's recorder takes in."""
    await scene.etcd.ensure()
    recording = asyncio.create_task(scene.recorder.registry.run(), name="record")
    async with connect([scene.place.endpoint]) as registry:
        yield registry
    recording.cancel()
    await asyncio.gather(recording, return_exceptions=True)


@asynccontextmanager
async def registered(registry: Registry, key: str, value: str, scene: Scene) -> AsyncIterator[Lease]:
    """Have a key under a lease while the context is open."""
    async with registry.lease(30) as lease:
        await registry.put(key, value, lease=lease.id)
        short = key.removeprefix(KEYS.prefix)
        await scene.recorder.registry.wait(lambda values: values.get(short), WAIT_SECONDS)
        yield lease


@asynccontextmanager
async def running_engine() -> AsyncIterator[asyncio.subprocess.Process]:
    process = await start_sleeper("/x/tandem-engine", "--role", "rollout", POD_NAME=POD)
    yield process
    if process.returncode is None:
        process.kill()
    await process.communicate()


def state_of(process: asyncio.subprocess.Process) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


async def reaches(process: asyncio.subprocess.Process, states: str) -> None:
    """Wait until the kernel says that a process is in one of these states."""
    async with asyncio.timeout(WAIT_SECONDS):
        while state_of(process) not in states:  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.01)


async def test_a_killed_process_is_gone(scene: Scene) -> None:
    async with running_engine() as process:
        await Kill("engine-rollout").inject(scene)

        assert await process.wait() == -signal.SIGKILL


async def test_a_process_that_stands_still_goes_on_when_that_is_undone(scene: Scene) -> None:
    freeze = Freeze("engine-rollout", 1.0)
    async with running_engine() as process:
        await freeze.inject(scene)
        await reaches(process, "T")
        await freeze.undo(scene)
        await reaches(process, "SR")


async def test_there_must_be_something_to_hurt(scene: Scene) -> None:
    with pytest.raises(NoTarget, match="no rank runs"):
        await Kill("rank").inject(scene)


@pytest.mark.etcd
@pytest.mark.parametrize("stale", [StaleWord(), StalePublication()], ids=["desired", "published"])
async def test_a_stale_masters_write_is_refused_and_noted(stale: Injector, scene: Scene, registry: Registry) -> None:
    await registry.put(KEYS.master, '{"incarnation": "real", "pod": "x"}')
    await registry.put(KEYS.desired, WORD)
    await registry.put(KEYS.published, "1")

    await stale.inject(scene)

    assert [one.accepted for one in scene.recorder.intrusions] == [False]
    assert (await registry.get(KEYS.desired), await registry.get(KEYS.published)) == (WORD, "1")


@pytest.mark.etcd
async def test_a_status_without_a_lease_is_refused_and_noted(scene: Scene, registry: Registry) -> None:
    await registry.put(KEYS.status(POD, "train"), '{"incarnation": "real", "epoch": 1, "state": "Idle"}')

    await StaleStatus().inject(scene)

    assert [one.accepted for one in scene.recorder.intrusions] == [False]


@pytest.mark.etcd
async def test_a_lease_that_is_ended_takes_its_keys_with_it(scene: Scene, registry: Registry) -> None:
    key = KEYS.member(POD, "train")
    async with registered(registry, key, '{"incarnation": "x"}', scene):
        await LoseLease("train").inject(scene)

        assert await registry.get(key) is None


@pytest.mark.etcd
async def test_a_word_that_is_repeated_stays_the_same(scene: Scene, registry: Registry) -> None:
    await registry.put(KEYS.desired, WORD)
    await RepeatWord().inject(scene)
    await scene.recorder.registry.wait(lambda _: True if len(scene.recorder.registry.changes) == 4 else None, 20.0)

    assert len({json.dumps(str(change.value)) for change in scene.recorder.registry.changes}) == 1


@pytest.mark.etcd
async def test_a_killed_etcd_comes_back_with_its_data_and_an_empty_one_without(
    scene: Scene, registry: Registry
) -> None:
    await registry.put(KEYS.desired, WORD)
    await hurt(KillEtcd(), scene)
    after_kill = await registry.get(KEYS.desired)
    await hurt(EmptyEtcd(), scene)
    after_loss = await registry.get(KEYS.desired)

    assert (after_kill, after_loss) == (WORD, None)
    assert scene.recorder.registry.life == 1


async def hurt(injector: Injector, scene: Scene) -> None:
    await injector.inject(scene)
    await injector.undo(scene)


@pytest.mark.etcd
async def test_a_segment_is_corrupted_between_its_export_and_its_binding(scene: Scene, registry: Registry) -> None:
    segment = scene.place.shared(POD) / "weights-1.segment"
    segment.write_bytes(bytes(64))
    piece = {"tensor": "w", "offsetBytes": 0, "numBytes": 64, "xxh3": xxh3_64_intdigest(bytes(64))}
    shard = {"generation": 1, "incarnation": "x", "segment": segment.name, "pieces": [piece]}
    await registry.put(KEYS.desired, WORD)
    await scene.recorder.registry.wait(lambda values: values.get("desired"), WAIT_SECONDS)
    async with running_engine() as engine:
        corrupting = asyncio.create_task(CorruptSegment().inject(scene), name="corrupt")
        await reaches(engine, "T")
        await registry.put(KEYS.shard(1, POD, 0), json.dumps(shard))
        await corrupting

    values = {f"weights/1/shards/{POD}/0": ShardValue.model_validate(shard)}
    check = compare_segment(values, segment.parent, POD, POD, 1)
    assert check is not None
    assert check.broken == ("w",)
    assert sum(byte != 0 for byte in segment.read_bytes()) == 8


async def test_a_clock_is_put_right_again(scene: Scene) -> None:
    control = scene.controls[POD, "trainer"]
    move = MoveClock("trainer", 3600.0, 1.0)
    await move.inject(scene)
    moved = control.offset_seconds
    await move.undo(scene)

    assert (moved, control.offset_seconds) == (3600.0, 0.0)


async def test_the_machines_own_shared_memory_is_never_filled(scene: Scene) -> None:
    with pytest.raises(NoTarget, match="not here"):
        await FillSharedMemory(1.0).inject(scene)
