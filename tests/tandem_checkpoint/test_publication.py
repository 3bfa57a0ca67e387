"""A trainer that is asked to publish says what the registry has of its export, and refuses what it does not hold."""

import time
from pathlib import Path

import pytest

from tandem_api.job import Phase
from tandem_api.registry import Desired
from tandem_api.weights import Layout, Piece, Shard
from tandem_checkpoint.conflict import Conflict
from tandem_checkpoint.gpu_token import GpuToken
from tandem_checkpoint.registry.mirror import Mirror, mirrored
from tandem_checkpoint.segments.record import ExportRecord
from tandem_checkpoint.switch.publication import published_weights, word_epoch
from tandem_checkpoint.switch.side import Surroundings
from tandem_checkpoint.switch.train import TrainSide
from tests.fakes.registry import FakeRegistry
from tests.tandem_checkpoint.jobs import POD, job_config, settings_of
from tests.tandem_checkpoint.policies import write_config

LINEAGE = "a"
SHARD = Shard(
    generation=3,
    incarnation="i",
    lineage=LINEAGE,
    segment="weights-1.segment",
    segment_bytes=64,
    pieces=(Piece(tensor="w", start=(0,), stop=(4,), offset_bytes=0, num_bytes=16, xxh3=1),),
)
RECORD = ExportRecord(generation=3, lineage=LINEAGE, shards=(SHARD,))


def around(folder: Path, registry: FakeRegistry, mirror: Mirror | None = None) -> Surroundings:
    settings = settings_of(job_config(write_config(folder / "policy")), folder)
    return Surroundings(settings, registry, mirror or Mirror(), 1, "i")


async def register(around: Surroundings, *, shards: tuple[str, ...], lineage: str = LINEAGE) -> None:
    """Write what an exporter writes: the layout, with these shards in it, and this pod's own shard."""
    keys = around.settings.keys
    layout = Layout(generation=3, lineage=lineage, tensors=(), shards=shards)
    await around.registry.put(keys.layout(3), layout.model_dump_json())
    await around.registry.put(keys.shard(3, POD, 0), SHARD.model_dump_json())


async def test_a_generation_is_complete_once_the_shards_of_all_pods_are_registered(tmp_path: Path) -> None:
    member = around(tmp_path, FakeRegistry())
    await register(member, shards=(f"{POD}/0",))

    published = await published_weights(member, RECORD)

    assert (published.num_shards, published.num_bytes, published.is_complete) == (1, 16, True)


async def test_a_generation_is_not_complete_while_another_pods_shard_is_missing(tmp_path: Path) -> None:
    member = around(tmp_path, FakeRegistry())
    await register(member, shards=(f"{POD}/0", "toy-hybrid-1/0"))

    published = await published_weights(member, RECORD)

    assert (published.num_shards, published.is_complete) == (1, False)


async def test_a_number_that_means_other_weights_in_the_registry_is_a_conflict(tmp_path: Path) -> None:
    member = around(tmp_path, FakeRegistry())
    await register(member, shards=(f"{POD}/0",), lineage="b")

    with pytest.raises(Conflict, match="generation 3 is registered of another run of generations"):
        await published_weights(member, RECORD)


@pytest.mark.parametrize(("generation", "lineage", "epoch"), [(3, LINEAGE, 9), (4, LINEAGE, 0), (3, "b", 0)])
async def test_shards_carry_the_epoch_of_the_word_that_is_about_them(
    tmp_path: Path, generation: int, lineage: str, epoch: int
) -> None:
    registry = FakeRegistry()
    keys = around(tmp_path, registry).settings.keys
    word = Desired(
        epoch=9, phase=Phase.INFER, generation=generation, iteration=4, deadline=time.time(), lineage=lineage
    )
    await registry.put(keys.desired, word.model_dump_json())

    async with mirrored(registry, keys.prefix) as mirror:
        await mirror.wait(lambda mirror: mirror.values.get(keys.desired))

        assert word_epoch(around(tmp_path, registry, mirror), RECORD) == epoch


async def test_a_trainer_does_not_publish_what_it_does_not_hold(tmp_path: Path) -> None:
    side = TrainSide(around(tmp_path, FakeRegistry()), GpuToken(tmp_path / "gpu.token"))

    with pytest.raises(Conflict, match="this trainer holds generation None now"):
        await side.publish(3)
