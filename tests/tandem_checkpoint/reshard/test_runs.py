"""What is one run in both memories is one copy, however many boxes, cells and tensors it is made of."""

import pytest
from hypothesis import given, settings

from tandem_checkpoint.reshard.batches import Batch
from tandem_checkpoint.reshard.placement import Held, placement_of
from tandem_checkpoint.reshard.plan import plan
from tests.tandem_checkpoint.reshard.memories import Pair, all_batches, pairs

SHAPE = (8, 6)


def rows(tensor: str, rank: int, first: int, last: int, offset: int) -> Held:
    return Held(tensor, SHAPE, 1, rank, (first, 0), (last, 6), offset)


def columns(tensor: str, rank: int, first: int, last: int, offset: int) -> Held:
    return Held(tensor, SHAPE, 1, rank, (0, first), (8, last), offset)


def touching(batches: list[list[Batch]]) -> list[tuple[int, int]]:
    """Return copies of one rank from one other that could have been one."""
    copies = [
        (rank, batch.kind, batch.source, begin, into, size)
        for rank, row in enumerate(batches)
        for batch in row
        for begin, into, size in zip(batch.source_offsets, batch.target_offsets, batch.num_bytes, strict=True)
    ]
    starts = {copy[:5] for copy in copies}
    return [copy[3:5] for copy in copies if (*copy[:3], copy[3] + copy[5], copy[4] + copy[5]) in starts]


@settings(max_examples=30, deadline=None)
@given(pairs())
def test_no_two_copies_touch_on_both_sides(pair: Pair) -> None:
    batches = all_batches(plan(pair.have.placement, pair.want.placement, cell_bytes=8), pair.want)

    assert touching(batches) == []


def test_tensors_end_to_end_on_both_sides_are_one_copy() -> None:
    have = placement_of(["a"], [rows(f"w{n}", 0, 0, 8, 48 * n) for n in range(5)])
    want = placement_of(["b"], [rows(f"w{n}", 0, 0, 8, 100 + 48 * n) for n in range(5)])

    copies = plan(have, want).copies()

    assert (copies.num_runs.tolist(), copies.run_bytes.tolist()) == ([1], [240])
    assert (copies.source_offsets.tolist(), copies.target_offsets.tolist()) == ([0], [100])


def test_rows_that_lie_together_on_one_side_only_stay_apart() -> None:
    have = placement_of(["a"], [rows("w", 0, 0, 8, 0)])
    want = placement_of(["b"], [rows("w", 0, 0, 4, 0), rows("w", 0, 4, 8, 30)])

    assert plan(have, want).copies().run_bytes.tolist() == [24, 24]


@pytest.mark.parametrize("cell_bytes", [None, 12], ids=["whole", "cut every two rows"])
def test_a_box_of_columns_is_one_row_of_equal_runs(cell_bytes: int | None) -> None:
    have = placement_of(["a"], [rows("w", 0, 0, 8, 0)])
    want = placement_of(["b"], [columns("w", 0, 2, 5, 0)])

    copies = plan(have, want, cell_bytes).copies()

    assert (copies.run_bytes.tolist(), copies.num_runs.tolist()) == ([3], [8])
    assert (copies.source_strides.tolist(), copies.target_strides.tolist()) == ([6], [3])


def test_columns_cut_by_another_rank_s_edges_are_whole_again() -> None:
    have = placement_of(["a", "a"], [columns("w", 0, 0, 6, 0), columns("v", 1, 0, 6, 0)])
    want = placement_of(["b", "c"], [columns("w", 0, 0, 4, 0), columns("w", 1, 1, 6, 0)])

    copies = plan(have, want).copies()

    assert (copies.run_bytes.tolist(), copies.num_runs.tolist()) == ([4, 5], [8, 8])


def test_cells_cut_for_the_balance_are_whole_again_where_one_rank_sends_them() -> None:
    have = placement_of(["a"], [rows("w", 0, 0, 8, 0)])
    want = placement_of(["b", "b"], [rows("w", 0, 0, 8, 0), rows("v", 1, 0, 8, 0)][:1])

    copies = plan(have, want, cell_bytes=6).copies()

    assert copies.run_bytes.tolist() == [48]
