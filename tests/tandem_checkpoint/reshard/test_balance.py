"""Replicas share the sending and ranks of a pod the reading, as evenly as whole units can be shared."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_checkpoint.reshard.balance import Choice, balance, fill
from tandem_checkpoint.reshard.placement import Held, placement_of
from tandem_checkpoint.reshard.plan import plan
from tests.tandem_checkpoint.reshard.memories import network_bytes


def whole(tensor: str, rank: int, offset: int, size: int = 4) -> Held:
    return Held(tensor, (size,), 1, rank, (0,), (size,), offset)


def loads_after(choices: list[Choice], num_ranks: int) -> list[int]:
    taken = balance(choices, num_ranks)
    loads = np.zeros(num_ranks + 1, np.int64)
    for choice, units in zip(choices, taken, strict=True):
        np.add.at(loads, choice.candidates, units * choice.unit_bytes)
    final: list[int] = loads[:num_ranks].tolist()
    return final


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(0, 40), st.integers(1, 9))
def test_filling_is_as_good_as_one_unit_after_the_other(loads: list[int], num_units: int, unit_bytes: int) -> None:
    slowly = list(loads)
    for _ in range(num_units):
        slowly[slowly.index(min(slowly))] += unit_bytes

    counts = fill(np.array([loads], np.float64), num_units, unit_bytes)[0]

    assert counts.sum() == num_units
    assert max(load + count * unit_bytes for load, count in zip(loads, counts.tolist(), strict=True)) == max(slowly)


def test_rows_are_filled_each_for_itself_and_nobody_gets_nothing() -> None:
    loads = np.array([[0.0, 4.0, np.inf], [10.0, 0.0, 0.0]])

    assert fill(loads, 6, 2).tolist() == [[4, 2, 0], [0, 3, 3]]


def test_who_can_do_much_leaves_it_to_others_when_one_has_no_choice() -> None:
    only = Choice(np.array([[0]]), 6, 10)
    either = Choice(np.array([[0, 1, 2]]), 12, 10)

    assert loads_after([either, only], 3) == [60, 60, 60]


def test_an_early_choice_is_made_again_when_later_ones_crowd_it() -> None:
    choices = [Choice(np.array([[0, 1]]), 30, 1), Choice(np.array([[1, 2]]), 60, 1), Choice(np.array([[0, 3]]), 30, 1)]

    assert max(loads_after(choices, 4)) <= 33


def test_replicas_send_equal_shares_of_many_tensors() -> None:
    have = placement_of(list("aabb"), [whole(f"w{n}", rank, 4 * n) for n in range(40) for rank in range(4)])
    want = placement_of(list("cdef"), [whole(f"w{n}", rank, 4 * n) for n in range(40) for rank in range(4)])

    assert network_bytes(plan(have, want).copies(), 4) == [160] * 4


def test_ranks_of_a_pod_read_equal_shares_of_what_all_of_them_want() -> None:
    have = placement_of(["a"], [whole(f"w{n}", 0, 4 * n) for n in range(40)])
    want = placement_of(list("bbbb"), [whole(f"w{n}", rank, 4 * n) for n in range(40) for rank in range(4)])

    assert network_bytes(plan(have, want).copies(), 4, "targets") == [40] * 4


@pytest.mark.parametrize("num_replicas", [1, 2, 3, 7])
def test_one_large_tensor_is_cut_for_its_replicas(num_replicas: int) -> None:
    size = 64 << 20
    have = placement_of(list("abcdefg")[:num_replicas], [whole("w", rank, 0, size) for rank in range(num_replicas)])
    want = placement_of(["z"], [whole("w", 0, 0, size)])

    sent = network_bytes(plan(have, want).copies(), num_replicas)

    assert sum(sent) == size
    assert max(sent) - min(sent) <= 1 << 20


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 30))
def test_no_replica_sends_more_than_one_unit_more_than_another(senders: int, pods: int, num_tensors: int) -> None:
    names = [f"w{number}" for number in range(num_tensors)]
    have = placement_of(
        ["a"] * senders, [whole(name, rank, 4 * at) for at, name in enumerate(names) for rank in range(senders)]
    )
    want = placement_of(
        [f"z{pod}" for pod in range(pods)],
        [whole(name, pod, 4 * at) for at, name in enumerate(names) for pod in range(pods)],
    )

    sent = network_bytes(plan(have, want).copies(), senders)

    assert max(sent) - min(sent) <= 4
