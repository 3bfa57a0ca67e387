"""What is injected follows from the seed alone."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tests.faults.injections.catalogue import KINDS
from tests.faults.plan import plan_injections
from tests.faults.stages import ALL_STAGES, label

SEEDS = st.integers(0, 2**32)


@given(SEEDS, st.integers(1, 60))
def test_more_injections_of_a_seed_begin_with_the_same_ones(seed: int, num: int) -> None:
    assert plan_injections(seed, num + 10, KINDS)[:num] == plan_injections(seed, num, KINDS)


@given(SEEDS)
def test_each_round_has_every_kind_once(seed: int) -> None:
    second_round = plan_injections(seed, 2 * len(KINDS), KINDS)[len(KINDS) :]

    assert Counter(one.kind for one in second_round) == Counter(list(KINDS))


@given(SEEDS)
def test_a_kind_comes_to_every_stage_before_it_comes_to_one_again(seed: int) -> None:
    planned = plan_injections(seed, len(ALL_STAGES) * len(KINDS), KINDS)
    aimed = [one.stage for one in planned if one.kind == "kill master"]

    assert Counter(aimed) == Counter(ALL_STAGES)


def test_two_hundred_injections_have_every_kind_and_every_stage() -> None:
    planned = plan_injections(1, 200, KINDS)

    assert {one.kind for one in planned} == set(KINDS)
    assert {one.stage for one in planned} >= set(ALL_STAGES)


def test_two_seeds_differ() -> None:
    assert plan_injections(1, 20, KINDS) != plan_injections(2, 20, KINDS)


def test_stages_are_told_apart_by_their_labels() -> None:
    assert len({label(stage) for stage in ALL_STAGES}) == len(ALL_STAGES)
