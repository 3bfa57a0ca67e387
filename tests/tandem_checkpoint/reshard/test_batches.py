"""Batches are of one source, small enough for the transfer engine, and in an order that keeps all sources sending."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_checkpoint.reshard.batches import MOST_COPIES, batches_of
from tandem_checkpoint.reshard.copies import Kind
from tandem_checkpoint.reshard.placement import Held, placement_of
from tandem_checkpoint.reshard.plan import Plan, plan
from tests.tandem_checkpoint.reshard.memories import Pair, pairs


def strided(num_rows: int) -> Plan:
    """Return a plan of so many runs of one byte."""
    have = Held("w", (num_rows, 2), 1, 0, (0, 0), (num_rows, 2), 0)
    want = Held("w", (num_rows, 2), 1, 0, (0, 0), (num_rows, 1), 0)
    return plan(placement_of(["a"], [have]), placement_of(["b"], [want]))


def test_a_batch_has_at_most_1024_copies() -> None:
    sizes = [len(batch) for batch in batches_of(strided(2500).copies(), 0)]

    assert sizes == [1024, 1024, 452]
    assert MOST_COPIES == 1024


def test_a_batch_that_has_enough_bytes_is_full_and_no_run_is_cut() -> None:
    copies = strided(100).copies()

    assert [len(batch) for batch in batches_of(copies, 0, batch_bytes=30)] == [30, 30, 30, 10]


@settings(max_examples=25, deadline=None)
@given(pairs(), st.integers(1, 5))
def test_batches_hold_every_byte_of_the_copies(pair: Pair, most_copies: int) -> None:
    copies = plan(pair.have.placement, pair.want.placement).copies()

    batches = [batches_of(copies, rank, most_copies) for rank in range(len(pair.want.pods))]

    assert all(len(batch) <= most_copies for row in batches for batch in row)
    assert [sum(int(batch.num_bytes.sum()) for batch in row) for row in batches] == [
        int(copies.of_target(rank).num_bytes.sum()) for rank in range(len(pair.want.pods))
    ]


def test_sources_take_turns_and_ranks_begin_with_different_ones() -> None:
    pieces = [Held(f"w{n}", (4,), 1, n, (0,), (4,), 0) for n in range(3)]
    have = placement_of(["a"] * 3, pieces)
    want = placement_of(
        ["b", "c"], [Held(f"w{n}", (4,), 1, rank, (0,), (4,), 9 * n) for n in range(3) for rank in (0, 1)]
    )

    copies = plan(have, want).copies()

    assert [batch.source for batch in batches_of(copies, 0)] == [0, 1, 2]
    assert [batch.source for batch in batches_of(copies, 1)] == [1, 2, 0]


def test_what_needs_another_rank_s_copy_comes_last() -> None:
    have = placement_of(["a", "b"], [Held("w", (4,), 1, 0, (0,), (4,), 0), Held("v", (4,), 1, 1, (0,), (4,), 0)])
    wanted = [Held(name, (4,), 1, rank, (0,), (4,), at) for at, name in ((0, "v"), (9, "w")) for rank in (0, 1)]
    want = placement_of(["b", "b"], wanted)

    kinds = [[batch.kind for batch in batches_of(plan(have, want).copies(), rank)] for rank in (0, 1)]

    assert kinds == [[Kind.NETWORK, Kind.LOCAL], [Kind.LOCAL, Kind.SHARED]]
