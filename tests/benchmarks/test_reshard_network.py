"""The model of the network says what can be worked out by hand, and never less than the bound."""

import numpy as np
import pytest
from benchmarks.reshard_bench.layouts import Parallel, lay_out, model_bytes
from benchmarks.reshard_bench.measure import grown
from benchmarks.reshard_bench.network import Network, Transfers, bound_seconds, share, simulate
from benchmarks.reshard_bench.schemes import PORT_BYTES_PER_SECOND, broadcast_seconds, least_seconds, makespan_seconds
from benchmarks.reshard_bench.shapes import K2, QWEN3, V3, Shape
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_checkpoint.reshard.plan import plan

TEN = Network(np.full(6, 10.0), np.full(6, 10.0))
"""Six ports of ten bytes a second."""
SMALL = Shape("small", 5, 1, 8, 64, 128, 32, 8, 512, None, num_key_value_heads=4, head_dim=8)

Rows = list[tuple[int, int, int]]


def transfers(rows: Rows) -> Transfers:
    """Return transfers from a sender to a receiver of so many bytes."""
    return Transfers(*(np.array(column, np.int64) for column in zip(*rows, strict=True)))


@pytest.mark.parametrize(
    ("rows", "window", "seconds"),
    [
        ([(0, 3, 100)], 4, 10.0),
        ([(0, 3, 100), (1, 4, 100)], 4, 10.0),
        ([(0, 3, 100), (0, 4, 100)], 4, 20.0),
        ([(0, 3, 100), (1, 3, 100)], 4, 20.0),
        ([(0, 3, 100), (0, 4, 50)], 4, 15.0),
        ([(0, 3, 100), (3, 0, 100)], 4, 10.0),
        ([(0, 3, 100), (1, 3, 50), (0, 4, 100)], 1, 25.0),
        ([(0, 3, 100), (0, 4, 100), (1, 4, 100)], 4, 20.0),
    ],
    ids=[
        "one",
        "two apart",
        "one sender",
        "one receiver",
        "the shorter one first",
        "both ways at once",
        "one at a time: the second of port 3 waits",
        "what a sender cannot give another one does",
    ],
)
def test_transfers_take_as_long_as_by_hand(rows: Rows, window: int, seconds: float) -> None:
    assert simulate(transfers(rows), TEN, window) == pytest.approx(seconds)


def test_what_a_transfer_cannot_use_the_others_at_its_port_get() -> None:
    senders, receivers = np.array([0, 0, 1]), np.array([3, 4, 4])
    slow = Network(TEN.send, np.array([10.0, 10.0, 10.0, 2.0, 10.0, 10.0]))

    rates = share(senders, receivers, slow)

    assert rates[0] == pytest.approx(2.0)
    assert rates[1] + rates[2] == pytest.approx(10.0, rel=0.1)
    assert rates[:2].sum() <= 10.0 + 1e-6


def test_no_transfers_take_no_time() -> None:
    assert simulate(Transfers(*[np.zeros(0, np.int64)] * 3), TEN) == 0.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(3, 5), st.integers(1, 100)), min_size=1, max_size=12))
def test_no_port_is_ever_faster_than_it_is(rows: Rows) -> None:
    sent = np.bincount([row[0] for row in rows], [row[2] for row in rows]).max()
    received = np.bincount([row[1] for row in rows], [row[2] for row in rows]).max()

    assert simulate(transfers(rows), TEN, 4) >= max(sent, received) / 10.0 * (1 - 1e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(3, 5), st.integers(1, 100)), min_size=1, max_size=12))
def test_coarse_steps_never_make_it_faster_by_more_than_a_step_a_transfer(rows: Rows) -> None:
    exact = simulate(transfers(rows), TEN, 4)

    assert simulate(transfers(rows), TEN, 4, step_seconds=0.01) >= exact - 0.01 * len(rows)


def test_the_bound_is_that_of_the_most_loaded_set_of_ports() -> None:
    needs = {frozenset({0}): 30, frozenset({0, 1}): 50, frozenset({2}): 10}

    assert bound_seconds(needs, np.full(3, 10.0)) == pytest.approx(4.0)  # 80 bytes through ports 0 and 1
    assert bound_seconds({frozenset({0}): 90, **needs, frozenset({2}): 10}, np.full(3, 10.0)) == pytest.approx(4.0)
    assert bound_seconds({}, np.full(3, 10.0)) == 0.0


def test_a_broadcast_takes_as_long_as_all_bytes_through_one_port() -> None:
    assert broadcast_seconds(100 << 30, 3, 5, 50e9) == pytest.approx((100 << 30) / 50e9)


def test_a_small_model_s_plan_keeps_to_its_bound() -> None:
    have, want = lay_out(SMALL, Parallel(16, 2, 2, 4), "train"), lay_out(SMALL, Parallel(16, 4, 1, 8), "serve")
    made = plan(have, want, cell_bytes=4096)
    least = least_seconds(made)

    assert least <= makespan_seconds(made.copies(), 16, 16, least) <= 1.5 * least
    assert least >= model_bytes(SMALL) / (8 * PORT_BYTES_PER_SECOND)  # every pod of 8 gets the whole model


@pytest.mark.parametrize(("shape", "gigabytes"), [(K2, 1029), (V3, 673), (QWEN3, 470)], ids=["k2", "671b", "235b"])
def test_models_have_the_size_of_their_public_files(shape: Shape, gigabytes: int) -> None:
    assert round(model_bytes(shape) / 1e9) == gigabytes


def test_every_rank_of_a_layout_lays_its_boxes_end_to_end() -> None:
    placement = lay_out(SMALL, Parallel(16, 2, 2, 4), "train")
    sizes = np.concatenate(
        [
            np.broadcast_to((group.stops - group.starts).prod(axis=1) * group.item_bytes, group.offsets.shape).ravel()
            for group in placement.groups
        ]
    )
    ranks = np.concatenate([np.broadcast_to(group.ranks, group.offsets.shape).ravel() for group in placement.groups])
    offsets = np.concatenate([group.offsets.ravel() for group in placement.groups])

    order = np.lexsort((offsets, ranks))

    ends, same = (offsets + sizes)[order], ranks[order][1:] == ranks[order][:-1]
    assert (offsets[order][1:][same] == ends[:-1][same]).all()


def test_more_ranks_are_more_replicas_of_the_same_splits() -> None:
    pair = grown(512)

    assert (pair.train.num_ranks, pair.serve.num_ranks) == (512, 512)
    assert (pair.train.tensor, pair.serve.expert) == (4, 32)
