"""Invariant 2 as the checker sees it: a server has exactly one published generation's weights."""

from dataclasses import replace

import pytest

from tests.faults.history import SegmentCheck
from tests.faults.invariants.weights import check_whole_weights
from tests.faults.written import (
    LAYOUT,
    POD,
    PUBLISHED,
    ROLLOUT,
    TO_INFER,
    calm,
    committed,
    entry,
    followed_by,
    shard,
    status,
    with_changes,
)


def test_a_calm_history_holds() -> None:
    assert check_whole_weights(calm()) == []


def test_a_served_segment_with_other_bytes_is_found() -> None:
    history = replace(calm(), segments=(SegmentCheck(111.0, POD, 0, 20, ("w",)),))

    assert [one.text for one in check_whole_weights(history)] == [f"{POD}: serves generation 0 with broken w"]


@pytest.mark.parametrize("difference", [2e-4, float("nan"), float("inf")])
def test_training_on_other_log_probabilities_is_found(difference: float) -> None:
    history = replace(calm(), diary=(*calm().diary, entry(118.0, committed(2, difference=difference))))

    assert len(check_whole_weights(history)) == 1


def test_a_generation_that_is_served_before_it_is_published_is_found() -> None:
    history = with_changes(*TO_INFER[:9], status(ROLLOUT, "Serving", 1, generation=0))

    assert ["never published" in one.text for one in check_whole_weights(history)] == [True]


def test_a_generation_that_is_published_without_its_shards_is_found() -> None:
    history = with_changes(*TO_INFER[:6], LAYOUT, PUBLISHED, status(ROLLOUT, "Serving", 1, generation=0))

    assert ["without all shards" in one.text for one in check_whole_weights(history)] == [True]


def test_a_published_generation_that_gets_other_bytes_is_found() -> None:
    assert len(check_whole_weights(followed_by(calm(), shard(xxh3=2)))) == 1


def test_to_register_the_same_bytes_again_is_harmless() -> None:
    assert check_whole_weights(followed_by(calm(), shard(incarnation="t2"))) == []


def test_another_lineage_may_give_the_number_again() -> None:
    assert check_whole_weights(followed_by(calm(), shard(xxh3=2, lineage="second"))) == []


def test_a_generation_that_was_given_up_may_be_made_again() -> None:
    history = followed_by(calm(), (LAYOUT[0], None), shard(xxh3=2))

    assert check_whole_weights(history) == []
