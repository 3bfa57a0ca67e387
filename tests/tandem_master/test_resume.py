"""Where a run begins."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tandem_api.job.status import Phase
from tandem_api.registry import Desired, Keys
from tandem_master.buffer.store import Buffer, open_buffer
from tandem_master.checkpoints import latest_generation, write_atomically
from tandem_master.errors import BufferStateError
from tandem_master.resume import forget_weights, last_epoch, resume_generation
from tests.fakes.registry import FakeRegistry

KEYS = Keys("default", "toy")


@pytest.fixture
def buffer(tmp_path: Path) -> Iterator[Buffer]:
    with closing(open_buffer(tmp_path / "buffer.sqlite")) as opened:
        yield opened


def keep(state: Path, name: str) -> None:
    """Make a checkpoint folder and have `latest` name it."""
    (state / "checkpoints" / name).mkdir(parents=True)
    write_atomically(state / "checkpoints" / "latest", name)


async def test_a_fresh_run_begins_with_the_initial_policy(tmp_path: Path, buffer: Buffer) -> None:
    assert await resume_generation(tmp_path, buffer) == 0


async def test_a_run_begins_at_the_newest_checkpoint(tmp_path: Path, buffer: Buffer) -> None:
    buffer.commit(1, [])
    buffer.commit(2, [])
    keep(tmp_path, "generation-000001")

    assert await resume_generation(tmp_path, buffer) == 1
    assert buffer.newest_iteration() == 1


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


async def test_weights_of_other_generations_are_forgotten() -> None:
    registry = FakeRegistry()
    await registry.put(KEYS.layout(3), "kept")
    await registry.put(KEYS.layout(4), "stale")
    await registry.put(KEYS.shard(4, "hybrid-0", 0), "stale")
    await registry.put(KEYS.published, "4")
    await registry.put(KEYS.desired, "kept")

    await forget_weights(registry, KEYS, 3)

    assert list(await registry.list(KEYS.prefix)) == [KEYS.desired, KEYS.layout(3)]
