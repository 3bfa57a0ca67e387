"""A plan brings every wanted byte, over the network once a pod, and is the same for the same layouts."""

import random
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_checkpoint.reshard.copies import Copies, Kind
from tandem_checkpoint.reshard.placement import Group, Held, Placement, ReshardError, placement_of
from tandem_checkpoint.reshard.plan import plan
from tests.tandem_checkpoint.reshard.memories import (
    Pair,
    all_batches,
    carry_out,
    needed_bytes,
    network_bytes,
    pairs,
)

SHAPE = (8, 4)


def held(tensor: str, rank: int, rows: tuple[int, int], offset: int = 0, columns: tuple[int, int] = (0, 4)) -> Held:
    return Held(tensor, SHAPE, 1, rank, (rows[0], columns[0]), (rows[1], columns[1]), offset)


def rows_of(copies: Copies) -> list[tuple[int, ...]]:
    """Return the copies one by one, all columns."""
    return list(zip(*(getattr(copies, field.name).tolist() for field in fields(Copies)), strict=True))


def turned_round(placement: Placement, chance: random.Random) -> Placement:
    """Return a placement in another order throughout."""
    groups = []
    for group in placement.groups:
        tensors = chance.sample(range(len(group.tensors)), len(group.tensors))
        boxes = chance.sample(range(len(group.ranks)), len(group.ranks))
        names, offsets = tuple(group.tensors[at] for at in tensors), group.offsets[tensors][:, boxes]
        corners = (group.starts[boxes], group.stops[boxes])
        groups.append(Group(names, group.shape, group.item_bytes, group.ranks[boxes], *corners, offsets))
    return Placement(placement.pods, tuple(chance.sample(groups, len(groups))))


@settings(max_examples=60, deadline=None)
@given(pairs(), st.sampled_from([None, 1, 7]))
def test_every_wanted_byte_arrives(pair: Pair, cell_bytes: int | None) -> None:
    made = plan(pair.have.placement, pair.want.placement, cell_bytes)
    memories = pair.want.memories({})

    carry_out(all_batches(made, pair.want), pair.have.memories(pair.tensors), memories)

    assert [memory.tobytes() for memory in memories] == [
        memory.tobytes() for memory in pair.want.memories(pair.tensors)
    ]


@settings(max_examples=30, deadline=None)
@given(pairs())
def test_a_needed_byte_crosses_the_network_once_for_each_pod_and_not_at_all_where_the_pod_has_it(pair: Pair) -> None:
    copies = plan(pair.have.placement, pair.want.placement).copies()

    by_pod: dict[str, int] = dict.fromkeys(pair.want.pods, 0)
    for pod, num_bytes in zip(pair.want.pods, network_bytes(copies, len(pair.want.pods), "targets"), strict=True):
        by_pod[pod] += num_bytes
    assert {pod: size for pod, size in by_pod.items() if size} == dict(+needed_bytes(pair))


@settings(max_examples=30, deadline=None)
@given(pairs())
def test_the_network_joins_pods_and_shared_memory_stays_within_one(pair: Pair) -> None:
    copies = plan(pair.have.placement, pair.want.placement).copies()

    sources = [(pair.want if kind == Kind.SHARED else pair.have).pods[rank] for kind, rank, *_ in rows_of(copies)]
    targets = [pair.want.pods[rank] for rank in copies.targets]
    assert [source != target for source, target in zip(sources, targets, strict=True)] == [
        kind == Kind.NETWORK for kind in copies.kinds
    ]


@settings(max_examples=25, deadline=None)
@given(pairs(), st.randoms(use_true_random=False))
def test_the_order_of_groups_tensors_and_boxes_changes_nothing(pair: Pair, chance: random.Random) -> None:
    turned = [turned_round(side.placement, chance) for side in (pair.have, pair.want)]

    again = plan(turned[0], turned[1]).copies()

    assert rows_of(again) == rows_of(plan(pair.have.placement, pair.want.placement).copies())


@settings(max_examples=25, deadline=None)
@given(pairs())
def test_each_pod_finds_its_own_part_of_the_plan(pair: Pair) -> None:
    made = plan(pair.have.placement, pair.want.placement)

    parts = [row for pod in dict.fromkeys(pair.want.pods) for row in rows_of(made.copies([pod]))]

    assert sorted(parts) == sorted(rows_of(made.copies()))


def test_ranks_of_a_pod_that_want_the_same_share_one_copy() -> None:
    have = placement_of(["train"], [held("w", 0, (0, 8))])
    want = placement_of(["serve"] * 3, [held("w", rank, (0, 8)) for rank in range(3)])

    copies = plan(have, want).copies()

    assert sorted(copies.kinds.tolist()) == [Kind.NETWORK, Kind.SHARED, Kind.SHARED]
    assert set(copies.sources[copies.kinds == Kind.SHARED]) == set(copies.targets[copies.kinds == Kind.NETWORK])
    assert copies.num_bytes.tolist() == [32, 32, 32]


def test_what_a_hybrid_pod_has_comes_from_its_own_memory_though_others_have_it_too() -> None:
    have = placement_of(["a", "b"], [held("w", rank, (0, 8)) for rank in range(2)])
    want = placement_of(["b"], [held("w", 0, (0, 8))])

    copies = plan(have, want).copies()

    assert copies.kinds.tolist() == [Kind.LOCAL]
    assert copies.sources.tolist() == [1]


def test_tied_tensors_of_one_rank_cross_the_network_once() -> None:
    have = placement_of(["train"], [held("w", 0, (0, 8))])
    want = placement_of(["serve"], [held("w", 0, (0, 8)), held("w", 0, (0, 8), offset=32)])

    copies = plan(have, want).copies()

    assert sorted(copies.kinds.tolist()) == [Kind.NETWORK, Kind.SHARED]


def test_nothing_wanted_is_an_empty_plan() -> None:
    assert len(plan(placement_of(["a"], [held("w", 0, (0, 8))]), placement_of(["b"], [])).copies()) == 0


@pytest.mark.parametrize(
    ("have", "want", "words"),
    [
        ([held("v", 0, (0, 8))], [held("w", 1, (2, 4))], "w [2:4, 0:4] for rank 1: no rank has this tensor"),
        ([held("w", 0, (0, 6))], [held("w", 1, (4, 8))], "w [4:8, 0:4] for rank 1: no rank has all of it"),
        (
            [held("w", 0, (0, 8), columns=(0, 3))],
            [held("w", 0, (0, 8), columns=(0, 3)), held("w", 1, (0, 2), columns=(2, 4))],
            "w [0:2, 2:4] for rank 1: no rank has all of it",
        ),
        (
            [Held("w", (4, 4), 2, 0, (0, 0), (4, 4), 0)],
            [held("w", 1, (0, 8))],
            "w: rank 1 wants (8, 4) of 1-byte items, rank 0 has (4, 4) of 2-byte items",
        ),
    ],
    ids=["no such tensor", "missing rows", "missing columns", "another shape"],
)
def test_what_nobody_has_is_refused_in_one_line(have: list[Held], want: list[Held], words: str) -> None:
    sides = placement_of(["a", "a"], have), placement_of(["b", "b"], want)

    with pytest.raises(ReshardError) as caught:
        plan(*sides)

    assert str(caught.value) == words


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ([held("w", 0, (0, 9))], "w [0:9, 0:4] on rank 0: is empty or not within the tensor's shape (8, 4)"),
        ([held("w", 0, (3, 3))], "w [3:3, 0:4] on rank 0: is empty or not within the tensor's shape (8, 4)"),
        ([held("w", 2, (0, 8))], "w [0:8, 0:4] on rank 2: there are 1 ranks"),
        (
            [held("w", 0, (0, 8)), Held("w", (8,), 1, 0, (0,), (8,), 32)],
            "w [0:8, 0:4] on rank 0: shape (8, 4) differs from (8,) on rank 0, or its items do",
        ),
    ],
)
def test_boxes_that_cannot_be_are_refused(boxes: list[Held], words: str) -> None:
    with pytest.raises(ReshardError) as caught:
        placement_of(["a"], boxes)

    assert str(caught.value) == words


def test_tensors_that_lie_alike_are_one_group() -> None:
    boxes = [
        held(f"layers.{layer}.w", rank, (4 * rank, 4 * rank + 4), 16 * layer) for layer in range(9) for rank in (0, 1)
    ]

    placement = placement_of(["a", "a"], boxes)

    assert [group.tensors for group in placement.groups] == [tuple(f"layers.{layer}.w" for layer in range(9))]
    assert np.array_equal(placement.groups[0].offsets, 16 * np.arange(9)[:, None].repeat(2, axis=1))


@settings(max_examples=25, deadline=None)
@given(pairs(), st.randoms(use_true_random=False))
def test_the_order_of_single_boxes_changes_nothing(pair: Pair, chance: random.Random) -> None:
    shuffled = placement_of(pair.want.pods, chance.sample(pair.want.held, len(pair.want.held)))

    again = plan(pair.have.placement, shuffled).copies()

    assert rows_of(again) == rows_of(plan(pair.have.placement, pair.want.placement).copies())
