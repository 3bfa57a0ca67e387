"""Which checkpoints stay: the newest, and one of every so many iterations for good."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_master.checkpoints import remove_leftovers, sweep_uncounted
from tandem_master.retention import Retention


@pytest.mark.parametrize(
    ("retention", "generations", "forgotten"),
    [
        (Retention(keep_last=2), [10, 20, 30], (10,)),
        (Retention(keep_last=3), [10, 20], ()),
        (Retention(keep_last=1, keep_every=20), [10, 20, 30, 40, 50], (30, 10)),
        (Retention(keep_last=1, keep_every=25), [10, 20, 30, 40, 50, 60], (40, 20, 10)),
        (Retention(keep_last=1, keep_every=5), [10, 20, 30], ()),
        (Retention(keep_last=1, keep_every=100), [10, 20, 101, 110], (20, 10)),
    ],
    ids=str,
)
def test_what_is_forgotten(retention: Retention, generations: list[int], forgotten: tuple[int, ...]) -> None:
    assert retention.forgotten(generations) == forgotten


@given(
    steps=st.lists(st.integers(1, 9), min_size=1, max_size=60),
    keep_last=st.integers(1, 4),
    keep_every=st.integers(0, 25),
)
def test_forgetting_after_each_checkpoint_is_forgetting_once(steps: list[int], keep_last: int, keep_every: int) -> None:
    retention = Retention(keep_last, keep_every)
    every = [sum(steps[: number + 1]) for number in range(len(steps))]

    kept = forget_after_each(retention, every)

    assert kept == [generation for generation in every if generation not in retention.forgotten(every)]
    assert kept[-min(keep_last, len(every)) :] == every[-keep_last:]


def forget_after_each(retention: Retention, generations: list[int]) -> list[int]:
    kept: list[int] = []
    for generation in generations:
        kept.append(generation)
        old = retention.forgotten(kept)
        kept = [item for item in kept if item not in old]
    return kept


def test_what_a_killed_writer_left_goes_with_the_next_checkpoint(tmp_path: Path) -> None:
    kept = {"generation-000010", ".generation-000030.partial", "latest", ".latest.new", "mine.partial"}
    for name in (*kept, ".generation-000010.partial", ".generation-000020.old"):
        (tmp_path / name).mkdir()

    remove_leftovers(tmp_path, newest=20)

    assert {path.name for path in tmp_path.iterdir()} == kept


def test_what_was_never_counted_goes_when_a_run_begins_at_a_checkpoint(tmp_path: Path) -> None:
    kept = {"generation-000010", "generation-000020", "latest", "mine"}
    for name in (*kept, "generation-000030", ".generation-000030.old", ".generation-000040.partial"):
        (tmp_path / name).mkdir()

    sweep_uncounted(tmp_path, newest=20)

    assert {path.name for path in tmp_path.iterdir()} == kept
