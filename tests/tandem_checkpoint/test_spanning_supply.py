"""Where a model spans pods: what a pod's own trainer has not written is brought from the other pods."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tandem_api.job import Phase
from tandem_api.job.pods import TrainerParallelism
from tandem_api.registry import CopyRecord, Desired, MemberRecord
from tandem_api.weights import Layout
from tandem_checkpoint.registry.mirror import Mirror, mirrored
from tandem_checkpoint.segments.manifest import verify
from tandem_checkpoint.segments.store import segment_name
from tandem_checkpoint.settings import Settings
from tandem_checkpoint.stopwatch import Stopwatch
from tandem_checkpoint.switch.side import Surroundings
from tandem_checkpoint.switch.supply import OtherPods, OwnPod
from tandem_checkpoint.transfer import fetch as fetching
from tandem_checkpoint.transfer.fetch import FetchFailed
from tandem_checkpoint.transfer.plan import digest_of
from tandem_checkpoint.transfer.runs import runs_of, size_of
from tests.fakes.registry import FakeRegistry
from tests.tandem_checkpoint.jobs import job_config, settings_of
from tests.tandem_checkpoint.policies import write_config
from tests.tandem_checkpoint.transfer.parts import REFERENCE, WHOLE, part, part_pods, whole
from tests.tandem_checkpoint.transfer.pods import GENERATION, LAYOUT, PORT, Pod, content

pytestmark = pytest.mark.usefixtures("own_network")

PODS = ("toy-hybrid-0", "toy-hybrid-1")
ROLLOUT_POD = "toy-rollout-0"
LINEAGE = "a"
EVERYTHING = size_of(map(runs_of, WHOLE.values()))
LACKING = EVERYTHING - size_of(map(runs_of, part(0)))


def word(seconds: float = 10.0) -> Desired:
    deadline = time.time() + seconds
    return Desired(epoch=7, phase=Phase.INFER, generation=GENERATION, iteration=4, deadline=deadline, lineage=LINEAGE)


@dataclass(slots=True)
class Scene:
    """Two pods with a part each, exported and published, and the surroundings of any pod of the job."""

    registry: FakeRegistry
    mirror: Mirror
    folder: Path
    pods: list[Pod]

    def around(self, pod: str) -> Surroundings:
        (self.folder / pod).mkdir(exist_ok=True)
        return Surroundings(self.settings(pod), self.registry, self.mirror, 0, "incarnation")

    def settings(self, pod: str) -> Settings:
        config = job_config(write_config(self.folder / "policy"))
        trainer = config.spec.trainer.model_copy(update={"parallelism": TrainerParallelism(tensor=2)})
        spec = config.spec.model_copy(update={"trainer": trainer})
        config = config.model_copy(update={"spec": spec, "hybrid_pods": PODS})
        return replace(settings_of(config, self.folder / pod), pod=pod)

    async def register(self) -> None:
        keys = self.settings(PODS[0]).keys
        layout = Layout(
            generation=GENERATION, lineage=LINEAGE, tensors=LAYOUT.tensors, shards=tuple(f"{pod}/0" for pod in PODS)
        )
        await self.registry.put(keys.layout(GENERATION), layout.model_dump_json())
        for pod in self.pods:
            record = MemberRecord(
                incarnation=pod.shard.incarnation, role="train", address=pod.address, port=PORT, num_ranks=1
            )
            shard = pod.shard.model_copy(update={"lineage": LINEAGE, "epoch": 7})
            await self.registry.put(keys.member(pod.name, "train"), record.model_dump_json())
            await self.registry.put(keys.shard(GENERATION, pod.name, 0), shard.model_dump_json())
        await self.registry.put(keys.published, str(GENERATION))


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr(fetching, "PAUSE_SECONDS", 0.0)
    registry = FakeRegistry()
    async with part_pods(tmp_path, [0, 1], None) as pods, mirrored(registry, "/tandem/v1/default/toy/") as mirror:
        scene = Scene(registry, mirror, tmp_path, pods)
        await scene.register()
        yield scene


def fetched_bytes(around: Surroundings) -> float | None:
    return around.metrics.registry.get_sample_value("tandem_engine_weights_bytes_total", {"way": "fetch"})


async def test_a_hybrid_pod_has_all_of_the_generation_and_fetched_what_it_lacked(scene: Scene) -> None:
    around, stopwatch = scene.around(PODS[0]), Stopwatch()
    supply = OwnPod(around, LAYOUT)

    manifest = await supply.gather(word(), stopwatch)

    await supply.check(word(), manifest, stopwatch)
    assert content(scene.folder / PODS[0]) == whole(WHOLE.values())
    verify(content(scene.folder / PODS[0]), manifest.pieces)
    assert fetched_bytes(around) == LACKING
    spans = [(span.stage, span.waits) for span in stopwatch.spans]
    assert spans == [("shards", True), ("published", True), ("fetch", False), ("verify", False), ("published", True)]


async def test_what_is_here_already_is_not_fetched_when_the_switch_is_made_again(scene: Scene) -> None:
    around = scene.around(PODS[0])
    supply = OwnPod(around, LAYOUT)
    await supply.gather(word(), Stopwatch())
    await scene.pods[1].die()

    manifest = await supply.gather(word(), Stopwatch())

    assert set(manifest.pieces) == set(WHOLE.values())
    assert fetched_bytes(around) == LACKING


async def test_a_rollout_only_pod_has_it_from_all_pods(scene: Scene) -> None:
    around = scene.around(ROLLOUT_POD)
    supply = OtherPods(around, LAYOUT)
    await supply.reserve()

    manifest = await supply.gather(word(), Stopwatch())

    assert content(scene.folder / ROLLOUT_POD) == whole(WHOLE.values())
    assert set(manifest.pieces) == set(WHOLE.values())
    assert fetched_bytes(around) == EVERYTHING


async def test_a_rollout_only_pod_that_has_it_stands_in_for_a_trainers_pod_that_does_not_answer(scene: Scene) -> None:
    around = scene.around(ROLLOUT_POD)
    supply = OtherPods(around, LAYOUT)
    await supply.reserve()
    await supply.gather(word(), Stopwatch())
    other = scene.pods[1]
    keys, copy = around.settings.keys, CopyRecord(incarnation="giver", digest=digest_of(tuple(WHOLE.values())))
    giver = scene.pods[0]  # the same engine serves both in this test: what it holds is all there is
    (giver.folder / segment_name(GENERATION)).write_bytes(whole(WHOLE.values()))
    record = MemberRecord(incarnation="giver", role="rollout", address=giver.address, port=PORT)
    await scene.registry.put(keys.member("toy-rollout-1", "rollout"), record.model_dump_json())
    await scene.registry.put(keys.copy(GENERATION, "toy-rollout-1"), copy.model_dump_json())
    await scene.mirror.wait(lambda mirror: mirror.values.get(keys.copy(GENERATION, "toy-rollout-1")))
    await other.die()
    joining = OtherPods(scene.around("toy-rollout-2"), LAYOUT)
    await joining.reserve()

    manifest = await joining.gather(word(), Stopwatch())

    assert content(scene.folder / "toy-rollout-2") == whole(WHOLE.values())
    assert set(manifest.pieces) == set(WHOLE.values())


async def test_where_nobody_has_the_rest_the_switch_fails_in_time_and_the_old_generation_stays(scene: Scene) -> None:
    old = scene.folder / PODS[0] / segment_name(GENERATION - 1)
    old.write_bytes(REFERENCE)
    supply = OwnPod(scene.around(PODS[0]), LAYOUT)
    await scene.pods[1].die()

    with pytest.raises(FetchFailed, match=r"generation 3: .* could not be fetched .* toy-hybrid-1: "):
        await supply.gather(word(seconds=3.0), Stopwatch())

    assert old.read_bytes() == REFERENCE
    assert content(scene.folder / PODS[0]) == whole(part(0))


async def test_until_the_other_pods_have_written_theirs_nothing_is_fetched(scene: Scene) -> None:
    keys = scene.settings(PODS[0]).keys
    await scene.registry.delete(keys.published)
    await scene.mirror.wait(lambda mirror: keys.published not in mirror.values or None)
    around = scene.around(PODS[0])

    with pytest.raises(FetchFailed, match=r"within 0\.5 s it was not published with all its pieces in hybrid pods"):
        await OwnPod(around, LAYOUT).gather(word(seconds=0.0), Stopwatch())

    assert fetched_bytes(around) == 0


async def test_a_part_of_another_lineage_is_not_taken_for_the_rest(scene: Scene) -> None:
    keys, other = scene.settings(PODS[0]).keys, scene.pods[1].shard
    stale = other.model_copy(update={"lineage": "another", "epoch": 7})
    await scene.registry.put(keys.shard(GENERATION, PODS[1], 0), stale.model_dump_json())
    await scene.mirror.wait(
        lambda mirror: "another" in mirror.values.get(keys.shard(GENERATION, PODS[1], 0), "") or None
    )

    with pytest.raises(FetchFailed, match="was not published with all its pieces"):
        await OwnPod(scene.around(PODS[0]), LAYOUT).gather(word(seconds=0.0), Stopwatch())
