"""Where a run begins: where the trainers are, if all of them hold what was committed last; else at a checkpoint."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_api.job.status import Phase
from tandem_api.registry import Desired, Keys, MemberState, MemberStatus
from tandem_api.weights import Layout, Shard
from tandem_checkpoint.registry.errors import LeaseLost
from tandem_master.buffer.store import Buffer, open_buffer
from tandem_master.checkpoints import count_complete, latest_generation, write_atomically
from tandem_master.errors import BufferStateError
from tandem_master.mastership import elected
from tandem_master.resume import (
    Start,
    find_start,
    forget_weights,
    held_lineage,
    last_epoch,
    resume_generation,
    stale_weights,
)
from tandem_master.retention import Retention
from tandem_master.watched import watched
from tests.fakes.registry import FakeRegistry

KEYS = Keys("default", "toy")
PODS = ("hybrid-0", "hybrid-1")
GENERATION = 3
SOON = 10.0


@pytest.fixture
def buffer(tmp_path: Path) -> Iterator[Buffer]:
    with closing(open_buffer(tmp_path / "buffer.sqlite")) as opened:
        yield opened


def keep(state: Path, name: str) -> None:
    """Make a checkpoint folder and have `latest` name it."""
    (state / "checkpoints" / name).mkdir(parents=True)
    write_atomically(state / "checkpoints" / "latest", name)


def in_ranks(
    pod: str, generation: int | None = GENERATION, lineage: str = "ours", state: MemberState = MemberState.IDLE
) -> dict[str, str]:
    """What the registry has of a trainer whose ranks hold a generation."""
    status = MemberStatus(incarnation="one", epoch=4, state=state, generation=generation, lineage=lineage)
    return {KEYS.status(pod, "train"): status.model_dump_json()}


def in_segment(pod: str, generation: int = GENERATION, lineage: str = "ours") -> dict[str, str]:
    """What the registry has of a trainer whose segment holds a generation."""
    shard = Shard(
        generation=generation, incarnation="one", lineage=lineage, segment="a", segment_bytes=0, pieces=()
    ).model_dump_json()
    return {KEYS.shard(generation, pod, index): shard for index in range(2)}


def starting(pod: str) -> dict[str, str]:
    """What the registry has of a trainer that has not yet looked into its segments."""
    return in_ranks(pod, None, "", MemberState.STARTING)


def laid_out(generation: int, lineage: str = "ours") -> dict[str, str]:
    """What the registry has of a generation as a whole."""
    layout = Layout(generation=generation, lineage=lineage, tensors=(), shards=())
    return {KEYS.layout(generation): layout.model_dump_json()}


async def start_found(
    state: Path, buffer: Buffer, values: Mapping[str, str], later: Mapping[str, str] | None = None
) -> Start:
    """Return where a master begins that finds `values` in the registry, and `later` a little after."""
    registry = FakeRegistry()
    await put_all(registry, values)
    async with watched(registry, [KEYS.statuses, KEYS.weights]) as weights, asyncio.timeout(SOON):
        finding = asyncio.create_task(find_start(state, buffer, weights, KEYS, PODS))
        await asyncio.sleep(0.1)
        await put_all(registry, later or {})
        return await finding


async def put_all(registry: FakeRegistry, values: Mapping[str, str]) -> None:
    async with asyncio.TaskGroup() as group:
        _ = [group.create_task(registry.put(key, value)) for key, value in values.items()]


async def test_a_fresh_run_begins_with_the_initial_policy(tmp_path: Path, buffer: Buffer) -> None:
    assert await resume_generation(tmp_path, buffer) == 0


async def test_a_run_begins_at_the_newest_checkpoint(tmp_path: Path, buffer: Buffer) -> None:
    buffer.commit(1, [])
    buffer.commit(2, [])
    keep(tmp_path, "generation-000001")

    assert await resume_generation(tmp_path, buffer) == 1
    assert buffer.newest_iteration() == 1


def test_a_checkpoint_that_was_complete_as_the_master_was_killed_counts(tmp_path: Path, buffer: Buffer) -> None:
    buffer.commit(1, [])
    buffer.commit(2, [])
    keep(tmp_path, "generation-000001")
    (tmp_path / "checkpoints" / "generation-000002").mkdir()
    (tmp_path / "checkpoints" / "generation-000003").mkdir()

    found = count_complete(tmp_path / "checkpoints", buffer)

    assert (found, latest_generation(tmp_path / "checkpoints")) == (2, 2)
    assert buffer.forget_checkpoints(Retention(keep_last=1)) == ()


def test_a_checkpoint_that_is_gone_is_named(tmp_path: Path) -> None:
    write_atomically(tmp_path / "latest", "generation-000004")

    with pytest.raises(BufferStateError, match=r"latest: names 'generation-000004', which is no checkpoint here"):
        latest_generation(tmp_path)


async def test_epochs_go_on_after_those_of_an_earlier_master() -> None:
    registry = FakeRegistry()
    before = await last_epoch(registry, KEYS)
    desired = Desired(epoch=9, phase=Phase.TRAIN, generation=4, iteration=5, deadline=0.0)
    await registry.put(KEYS.desired, desired.model_dump_json())

    assert (before, await last_epoch(registry, KEYS)) == (0, 9)


@pytest.mark.parametrize(
    ("values", "lineage"),
    [
        (in_ranks("hybrid-0") | in_ranks("hybrid-1"), "ours"),
        (in_segment("hybrid-0") | in_segment("hybrid-1"), "ours"),
        (in_ranks("hybrid-0") | in_segment("hybrid-1"), "ours"),
        (in_ranks("hybrid-0", 0, "") | in_segment("hybrid-0") | in_ranks("hybrid-1"), "ours"),
        (starting("hybrid-0") | in_segment("hybrid-0") | in_ranks("hybrid-1"), "ours"),
        (in_ranks("hybrid-0"), None),
        (in_ranks("hybrid-0") | starting("hybrid-1"), None),
        ({}, None),
        (in_ranks("hybrid-0") | in_ranks("hybrid-1", 2), ""),
        (in_ranks("hybrid-0") | in_ranks("hybrid-1", None, ""), ""),
        (in_ranks("hybrid-0") | in_segment("hybrid-1", 2) | in_ranks("hybrid-1", 2), ""),
        (in_ranks("hybrid-0") | in_ranks("hybrid-1", lineage="before"), ""),
        (in_segment("hybrid-0") | in_segment("hybrid-1", lineage="before"), ""),
        (in_ranks("hybrid-0", lineage="") | in_ranks("hybrid-1", lineage=""), ""),
        (starting("hybrid-0") | in_ranks("hybrid-1", 2), ""),
    ],
    ids=[
        "all in ranks",
        "all in segments",
        "one in ranks, one in a segment",
        "a segment counts where the ranks hold something else",
        "a segment counts while the ranks start",
        "one is silent",
        "one is starting",
        "nobody says anything yet",
        "one holds an older generation",
        "one holds nothing",
        "one has only an older generation in its segment",
        "ranks of two lineages",
        "segments of two lineages",
        "from a checkpoint, which is there",
        "one holds another generation, whatever the one that starts will say",
    ],
)
def test_weights_are_held_where_every_trainer_has_them_of_one_lineage(
    values: Mapping[str, str], lineage: str | None
) -> None:
    assert held_lineage(values, KEYS, PODS, GENERATION) == lineage


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["ours", "before"])), min_size=1, max_size=6))
def test_a_lineage_is_held_exactly_where_all_trainers_name_it(trainers: list[tuple[bool, str]]) -> None:
    pods = [f"hybrid-{index}" for index in range(len(trainers))]
    values = dict[str, str]()
    for pod, (is_in_segment, lineage) in zip(pods, trainers, strict=True):
        values |= in_segment(pod, lineage=lineage) if is_in_segment else in_ranks(pod, lineage=lineage)
    named = {lineage for _, lineage in trainers}

    assert held_lineage(values, KEYS, pods, GENERATION) == (named.pop() if len(named) == 1 else "")


async def test_a_run_goes_on_where_every_trainer_holds_what_was_committed_last(tmp_path: Path, buffer: Buffer) -> None:
    buffer.commit(1, [])
    buffer.commit(2, [])
    buffer.commit(3, [])
    keep(tmp_path, "generation-000001")

    start = await start_found(tmp_path, buffer, in_ranks("hybrid-0") | in_segment("hybrid-1"))

    assert start == Start(3, "ours")
    assert buffer.newest_iteration() == 3


async def test_a_trainer_that_starts_is_waited_for(tmp_path: Path, buffer: Buffer) -> None:
    buffer.commit(3, [])
    now = in_ranks("hybrid-0") | starting("hybrid-1")

    start = await start_found(tmp_path, buffer, now, later=in_segment("hybrid-1"))

    assert start == Start(3, "ours")


async def test_a_run_goes_back_under_another_lineage_where_a_trainer_does_not(tmp_path: Path, buffer: Buffer) -> None:
    buffer.commit(1, [])
    buffer.commit(2, [])
    buffer.commit(3, [])
    keep(tmp_path, "generation-000001")

    start = await start_found(tmp_path, buffer, in_ranks("hybrid-0") | in_ranks("hybrid-1", 1, ""))

    assert start.generation == 1
    assert start.lineage not in {"", "ours"}
    assert buffer.newest_iteration() == 1


async def test_nobody_is_asked_where_the_checkpoint_is_of_the_newest_iteration(tmp_path: Path, buffer: Buffer) -> None:
    buffer.commit(1, [])
    keep(tmp_path, "generation-000001")

    start = await start_found(tmp_path, buffer, {})

    assert start.generation == 1
    assert start.lineage


@pytest.mark.parametrize(
    ("found", "stale"),
    [
        ({}, ()),
        ({KEYS.published: "3"}, (KEYS.published,)),
        (laid_out(3) | in_segment("hybrid-0"), ()),
        (laid_out(2) | in_segment("hybrid-0", 2) | laid_out(3), ()),
        (laid_out(3) | laid_out(4), (f"{KEYS.weights}4/",)),
        (laid_out(2) | laid_out(3, "before"), (f"{KEYS.weights}3/",)),
        (laid_out(3) | in_segment("hybrid-0", 10), (f"{KEYS.weights}10/",)),
        (laid_out(4) | {KEYS.published: "4"}, (KEYS.published, f"{KEYS.weights}4/")),
    ],
    ids=[
        "nothing",
        "what was published is published again",
        "the generation itself stays",
        "generations that led up to it stay",
        "newer generations go",
        "other lineages go",
        "shards without a layout go",
        "both",
    ],
)
def test_weights_are_stale_that_the_run_does_not_go_on_from(found: Mapping[str, str], stale: tuple[str, ...]) -> None:
    assert stale_weights(found, KEYS, Start(3, "ours")) == stale


async def test_stale_weights_are_forgotten_and_nothing_else() -> None:
    registry = FakeRegistry()
    kept = laid_out(3) | in_segment("hybrid-0") | {KEYS.desired: "a word"}
    await put_all(registry, kept | laid_out(4) | in_segment("hybrid-0", 4) | {KEYS.published: "4"})

    async with elected(registry, KEYS, "toy-master") as mastership:
        await forget_weights(registry, mastership, KEYS, Start(3, "ours"))

    assert set(await registry.list(KEYS.prefix)) == set(kept)


async def test_a_master_whose_lease_is_lost_forgets_nothing() -> None:
    registry = FakeRegistry()
    await put_all(registry, laid_out(4))

    async with elected(registry, KEYS, "toy-master") as mastership:
        registry.expire_owner(KEYS.master)
        with pytest.raises(LeaseLost):
            await forget_weights(registry, mastership, KEYS, Start(3, "ours"))

    assert set(await registry.list(KEYS.prefix)) == set(laid_out(4))
