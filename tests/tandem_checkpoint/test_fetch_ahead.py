"""A rollout-only pod brings a published generation into its idle segment before any switch asks for it."""

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from tandem_api.engine import HeldWeights
from tandem_api.job import Phase
from tandem_api.registry import CopyRecord, Desired, Keys, MemberRecord
from tandem_api.weights import Layout
from tandem_checkpoint.conflict import Conflict
from tandem_checkpoint.registry.mirror import Mirror, mirrored
from tandem_checkpoint.stopwatch import Stopwatch
from tandem_checkpoint.switch.side import Surroundings
from tandem_checkpoint.switch.supply import OtherPods
from tandem_checkpoint.transfer.fetch import FetchFailed
from tandem_checkpoint.transfer.plan import digest_of
from tests.fakes.registry import FakeRegistry
from tests.tandem_checkpoint.jobs import POD, job_config, settings_of
from tests.tandem_checkpoint.transfer.pods import GENERATION, LAYOUT, PORT, Pod, content, exporting_pod, spoil

ROLLOUT_POD, PEER = "toy-rollout-0", "toy-rollout-7"
LINEAGE = "a"
KEYS = Keys("default", "toy")


def word() -> Desired:
    return Desired(
        epoch=7,
        phase=Phase.INFER,
        generation=GENERATION,
        iteration=4,
        deadline=time.time() + 10.0,
        lineage=LINEAGE,
    )


@pytest.fixture
async def exporter(tmp_path: Path) -> AsyncIterator[Pod]:
    async with exporting_pod(tmp_path, POD) as exporter:
        yield exporter


async def publish(registry: FakeRegistry, exporter: Pod, generation: int) -> None:
    """Write what a trainer and the master write once a generation is there."""
    layout = Layout(generation=generation, lineage=LINEAGE, tensors=LAYOUT.tensors, shards=(f"{POD}/0",))
    await registry.put(KEYS.layout(generation), layout.model_dump_json())
    shard = exporter.shard.model_copy(update={"lineage": LINEAGE})
    await registry.put(KEYS.shard(generation, POD, 0), shard.model_dump_json())
    await registry.put(KEYS.published, str(generation))


@pytest.fixture
async def registry(exporter: Pod) -> FakeRegistry:
    """That of a job whose master has published what the hybrid pod exported."""
    registry = FakeRegistry()
    record = MemberRecord(
        incarnation=exporter.shard.incarnation, role="train", address=exporter.address, port=PORT, num_ranks=1
    )
    await registry.put(KEYS.member(POD, "train"), record.model_dump_json())
    await publish(registry, exporter, GENERATION)
    return registry


@pytest.fixture
async def mirror(registry: FakeRegistry) -> AsyncIterator[Mirror]:
    async with mirrored(registry, KEYS.prefix) as mirror:
        await mirror.wait(lambda mirror: mirror.values.get(KEYS.published))
        yield mirror


@pytest.fixture
async def supply(tmp_path: Path, registry: FakeRegistry, mirror: Mirror) -> OtherPods:
    """What a rollout-only pod has."""
    (tmp_path / ROLLOUT_POD).mkdir()
    settings = replace(settings_of(job_config(tmp_path / "policy"), tmp_path / ROLLOUT_POD), pod=ROLLOUT_POD)
    supply = OtherPods(Surroundings(settings, registry, mirror, 0, "incarnation"), LAYOUT)
    await supply.reserve()
    return supply


async def test_what_was_fetched_ahead_is_in_the_segment_and_told_as_one_shard(
    supply: OtherPods, exporter: Pod, tmp_path: Path
) -> None:
    fetched = await supply.fetch_ahead(GENERATION)

    held: HeldWeights = supply.exports.get(GENERATION).weights
    assert content(tmp_path / ROLLOUT_POD) == content(exporter.folder)
    assert (fetched.sources, fetched.num_bytes > 0) == ((POD,), True)
    assert [(shard.incarnation, shard.lineage) for shard in held.shards] == [("incarnation", LINEAGE)]


async def test_what_is_here_already_is_not_fetched_again(supply: OtherPods, exporter: Pod) -> None:
    await supply.fetch_ahead(GENERATION)
    await exporter.die()

    again = await supply.fetch_ahead(GENERATION)

    assert (again.num_bytes, again.sources) == (0, ())


async def test_a_switch_binds_what_was_fetched_ahead(supply: OtherPods, exporter: Pod) -> None:
    await supply.fetch_ahead(GENERATION)
    await exporter.die()

    manifest = await supply.gather(word(), Stopwatch())

    assert set(manifest.pieces) == set(exporter.shard.pieces)


async def test_a_switch_fetches_anew_what_was_spoiled_since(supply: OtherPods, exporter: Pod, tmp_path: Path) -> None:
    await supply.fetch_ahead(GENERATION)
    spoil(tmp_path / ROLLOUT_POD)

    await supply.gather(word(), Stopwatch())

    assert content(tmp_path / ROLLOUT_POD) == content(exporter.folder)


async def test_what_was_fetched_is_offered_to_others(supply: OtherPods, registry: FakeRegistry, exporter: Pod) -> None:
    await supply.fetch_ahead(GENERATION)

    raw = await registry.get(KEYS.copy(GENERATION, ROLLOUT_POD))
    assert raw is not None
    assert CopyRecord.model_validate_json(raw) == CopyRecord(
        incarnation="incarnation", digest=digest_of(exporter.shard.pieces)
    )


async def test_what_is_about_to_be_overwritten_is_offered_no_more(
    supply: OtherPods, registry: FakeRegistry, mirror: Mirror, exporter: Pod
) -> None:
    await supply.fetch_ahead(GENERATION)
    await exporter.die()
    await publish(registry, exporter, GENERATION + 2)
    await mirror.wait(lambda mirror: mirror.values.get(KEYS.published) == str(GENERATION + 2) or None)

    with pytest.raises(FetchFailed, match=r"generation 5: .* could not be fetched"):
        await supply.fetch_ahead(GENERATION + 2)

    assert await registry.get(KEYS.copy(GENERATION, ROLLOUT_POD)) is None


async def test_a_pod_that_joins_later_has_it_from_its_peers_too(
    supply: OtherPods, registry: FakeRegistry, mirror: Mirror, exporter: Pod, tmp_path: Path
) -> None:
    async with exporting_pod(tmp_path, PEER) as peer:
        engine = MemberRecord(incarnation="its own", role="rollout", address=peer.address, port=PORT)
        copy = CopyRecord(incarnation="its own", digest=digest_of(peer.shard.pieces))
        await registry.put(KEYS.member(PEER, "rollout"), engine.model_dump_json())
        await registry.put(KEYS.copy(GENERATION, PEER), copy.model_dump_json())
        await mirror.wait(lambda mirror: mirror.values.get(KEYS.copy(GENERATION, PEER)))
        await exporter.die()

        fetched = await supply.fetch_ahead(GENERATION)

    assert fetched.sources == (PEER,)
    assert content(tmp_path / ROLLOUT_POD) == content(exporter.folder)


async def test_what_is_not_published_is_not_fetched(supply: OtherPods) -> None:
    with pytest.raises(Conflict, match=f"generation {GENERATION + 1} is not published; the newest one that is: 3"):
        await supply.fetch_ahead(GENERATION + 1)


async def test_what_no_pod_has_any_more_is_not_fetched(supply: OtherPods) -> None:
    with pytest.raises(FetchFailed, match="generation 1: hybrid pods have not all its pieces any more"):
        await supply.fetch_ahead(1)
