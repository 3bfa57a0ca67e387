"""Where a server's weights come from: its own pod's trainer, or another pod's."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tandem_api.job import Phase
from tandem_api.job.pods import ElasticSpec
from tandem_api.registry import Desired, MemberRecord
from tandem_api.weights import Layout
from tandem_checkpoint.gpu_token import GpuToken
from tandem_checkpoint.registry.mirror import Mirror, mirrored
from tandem_checkpoint.segments.manifest import BrokenSegment, verify
from tandem_checkpoint.segments.store import segment_name
from tandem_checkpoint.settings import Settings
from tandem_checkpoint.stopwatch import Stopwatch
from tandem_checkpoint.switch.rollout import RolloutSide
from tandem_checkpoint.switch.side import Surroundings
from tandem_checkpoint.switch.supply import OtherPods, OwnPod
from tandem_checkpoint.transfer import exports
from tandem_checkpoint.transfer.fetch import FetchFailed
from tandem_checkpoint.transfer.mooncake import Session
from tests.fakes.registry import FakeRegistry
from tests.tandem_checkpoint.jobs import POD, job_config, settings_of
from tests.tandem_checkpoint.policies import write_config
from tests.tandem_checkpoint.transfer.pods import (
    GENERATION,
    LAYOUT,
    PORT,
    Pod,
    content,
    exporting_pod,
    mooncake_session,
    spoil,
)

pytestmark = pytest.mark.usefixtures("own_network")

ROLLOUT_POD = "toy-rollout-0"
SOON = 10.0


def settings(folder: Path, pod: str) -> Settings:
    """Return what a pod of the job reads, with a shared folder of its own."""
    (folder / pod).mkdir(parents=True, exist_ok=True)
    return replace(settings_of(job_config(folder / "policy"), folder / pod), pod=pod)


def word(seconds: float = SOON) -> Desired:
    return Desired(epoch=7, phase=Phase.INFER, generation=GENERATION, iteration=4, deadline=time.time() + seconds)


@dataclass(slots=True)
class Scene:
    """A hybrid pod that has exported, as the registry knows it, and the surroundings of another pod."""

    registry: FakeRegistry
    exporter: Pod
    folder: Path
    mirror: Mirror

    def around(self, pod: str) -> Surroundings:
        return Surroundings(settings(self.folder, pod), self.registry, self.mirror, 0, "incarnation")

    async def register(self, *, is_published: bool = True) -> None:
        """Write what a trainer and the master write once a generation is there."""
        keys, shard = self.around(POD).settings.keys, self.exporter.shard
        record = MemberRecord(
            incarnation=shard.incarnation, role="train", address=self.exporter.address, port=PORT, num_ranks=1
        )
        layout = Layout(generation=GENERATION, tensors=LAYOUT.tensors, shards=(f"{POD}/0",))
        await self.registry.put(keys.member(POD, "train"), record.model_dump_json())
        await self.registry.put(keys.layout(GENERATION), layout.model_dump_json())
        due = shard.model_copy(update={"epoch": 7})
        await self.registry.put(keys.shard(GENERATION, POD, 0), due.model_dump_json())
        if is_published:
            await self.registry.put(keys.published, str(GENERATION))


@asynccontextmanager
async def staged(folder: Path, session: Session | None = None) -> AsyncIterator[Scene]:
    registry = FakeRegistry()
    async with (
        exporting_pod(folder, POD, session=session) as exporter,
        mirrored(registry, "/tandem/v1/default/toy/") as mirror,
    ):
        yield Scene(registry, exporter, folder, mirror)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with staged(tmp_path) as scene:
        yield scene


async def test_a_rollout_only_pod_has_the_generation_in_a_segment_of_its_own(scene: Scene) -> None:
    await scene.register()
    supply, stopwatch = OtherPods(scene.around(ROLLOUT_POD), LAYOUT), Stopwatch()
    await supply.reserve()

    manifest = await supply.gather(word(), stopwatch)

    assert manifest.segment == str(scene.folder / ROLLOUT_POD / segment_name(GENERATION))
    assert content(scene.folder / ROLLOUT_POD) == content(scene.exporter.folder)
    verify(content(scene.folder / ROLLOUT_POD), manifest.pieces)
    assert [(span.stage, span.waits) for span in stopwatch.spans] == [("published", True), ("fetch", False)]


async def test_with_mooncake_the_bytes_come_one_sidedly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "MOST_STREAMS", 0)
    async with staged(tmp_path, mooncake_session("lends")) as scene:
        await scene.register()
        around = replace(scene.around(ROLLOUT_POD), mooncake=mooncake_session("reads"))
        supply = OtherPods(around, LAYOUT)
        await supply.reserve()

        await supply.gather(word(), Stopwatch())

        assert content(scene.folder / ROLLOUT_POD) == content(scene.exporter.folder)


async def test_a_server_beside_its_trainer_binds_the_trainers_segment(scene: Scene) -> None:
    await scene.register()
    supply, stopwatch = OwnPod(scene.around(POD), LAYOUT), Stopwatch()
    (scene.folder / POD / segment_name(GENERATION)).write_bytes(content(scene.exporter.folder))
    await supply.reserve()

    manifest = await supply.gather(word(), stopwatch)

    await supply.check(word(), manifest, stopwatch)

    assert manifest.segment == str(scene.folder / POD / segment_name(GENERATION))
    spans = [(span.stage, span.waits) for span in stopwatch.spans]
    assert spans == [("shards", True), ("verify", False), ("published", True)]


@pytest.mark.parametrize("change", [{"epoch": 6}, {"lineage": "another"}])
async def test_a_server_beside_its_trainer_waits_for_the_shards_of_its_own_word(
    scene: Scene, change: dict[str, int | str]
) -> None:
    await scene.register()
    keys, mine = scene.around(POD).settings.keys, scene.exporter.shard
    await scene.registry.put(keys.shard(GENERATION, POD, 0), mine.model_copy(update=change).model_dump_json())
    gathering = asyncio.create_task(OwnPod(scene.around(POD), LAYOUT).gather(word(), Stopwatch()))
    await asyncio.sleep(0.05)
    was_waiting = not gathering.done()

    await scene.registry.put(keys.shard(GENERATION, POD, 0), mine.model_copy(update={"epoch": 7}).model_dump_json())

    async with asyncio.timeout(SOON):
        manifest = await gathering
    assert was_waiting
    assert manifest.generation == GENERATION


async def test_damaged_bytes_are_found_before_they_may_be_bound(scene: Scene) -> None:
    await scene.register()
    supply = OwnPod(scene.around(POD), LAYOUT)
    (scene.folder / POD / segment_name(GENERATION)).write_bytes(content(scene.exporter.folder))
    manifest = await supply.gather(word(), Stopwatch())
    spoil(scene.folder / POD)

    with pytest.raises(BrokenSegment, match="differs from what the trainer registered"):
        await supply.check(word(), manifest, Stopwatch())


async def test_nothing_may_be_bound_before_the_master_has_published_it(scene: Scene) -> None:
    await scene.register(is_published=False)
    supply = OwnPod(scene.around(POD), LAYOUT)
    (scene.folder / POD / segment_name(GENERATION)).write_bytes(content(scene.exporter.folder))
    manifest = await supply.gather(word(), Stopwatch())
    checking = asyncio.create_task(supply.check(word(), manifest, Stopwatch()))
    await asyncio.sleep(0.2)
    was_waiting = not checking.done()

    await scene.registry.put(scene.around(POD).settings.keys.published, str(GENERATION))

    async with asyncio.timeout(SOON):
        await checking
    assert was_waiting


async def test_weights_that_are_not_published_are_not_fetched(scene: Scene) -> None:
    await scene.register(is_published=False)
    supply = OtherPods(scene.around(ROLLOUT_POD), LAYOUT)
    await supply.reserve()

    with pytest.raises(FetchFailed, match=r"generation 3: within 0\.5 s it was not published with all its pieces"):
        await supply.gather(word(seconds=0.0), Stopwatch())


async def test_what_no_pod_can_give_is_named_before_the_switchs_time_is_up(scene: Scene) -> None:
    await scene.register()
    spoil(scene.exporter.folder)
    supply = OtherPods(scene.around(ROLLOUT_POD), LAYOUT)
    await supply.reserve()

    with pytest.raises(FetchFailed, match=r"could not be fetched .*toy-hybrid-0: checksum of"):
        await supply.gather(word(seconds=2.0), Stopwatch())


def side(folder: Path, pod: str) -> RolloutSide:
    """Return the server's side of a pod, in a job with two servers in a hybrid pod and three in a rollout-only one."""
    config = job_config(write_config(folder / "policy"), num_ranks=2)
    elastic = config.spec.rollout.model_copy(update={"elastic": ElasticSpec(replicas=1, gpus_per_pod=3)})
    config = config.model_copy(update={"spec": config.spec.model_copy(update={"rollout": elastic})})
    around = Surroundings(replace(settings_of(config, folder), pod=pod), FakeRegistry(), Mirror(), 1, "incarnation")
    return RolloutSide(around, GpuToken(folder / "gpu.token"))


@pytest.mark.parametrize(("pod", "num_servers"), [(POD, 2), (ROLLOUT_POD, 3)])
def test_a_pod_has_a_server_for_each_of_its_own_devices(tmp_path: Path, pod: str, num_servers: int) -> None:
    assert len(side(tmp_path, pod).record().servers) == num_servers


@pytest.mark.parametrize(("pod", "awaited"), [(POD, True), (ROLLOUT_POD, False)])
def test_a_switch_waits_for_hybrid_pods_only(tmp_path: Path, pod: str, awaited: bool) -> None:
    assert side(tmp_path, pod).awaited is awaited
