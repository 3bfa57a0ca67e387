"""Which tensor-parallel splits a policy can be served with."""

from dataclasses import replace

import pytest

from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.architectures.split import SplitRefused, check_split
from tests.tandem_checkpoint.policies import SMALL

FIELD = "spec.rollout.parallelism.tensor"
SIZED = replace(SMALL, num_heads=16, num_key_value_heads=8, intermediate=96)


@pytest.mark.parametrize("num_ranks", [1, 2, 4, 8])
def test_a_split_into_whole_heads_is_taken(num_ranks: int) -> None:
    check_split(SIZED, num_ranks)


@pytest.mark.parametrize("num_ranks", [4, 8])
def test_ranks_that_share_a_key_value_head_are_taken(num_ranks: int) -> None:
    check_split(replace(SIZED, num_key_value_heads=2), num_ranks)


@pytest.mark.parametrize(
    ("policy", "num_ranks", "told"),
    [
        (replace(SIZED, num_key_value_heads=4), 3, "3 does not divide 4 key/value heads; use 1, 2, 4 or 8"),
        (replace(SIZED, num_heads=24, num_key_value_heads=6), 4, "4 does not divide 6 key/value heads; use 1 or 2"),
        (replace(SIZED, num_heads=12, num_key_value_heads=4), 8, "8 does not divide 12 query heads; use 1, 2 or 4"),
        (replace(SIZED, num_heads=7, num_key_value_heads=1), 2, "2 does not divide 7 query heads; use 1"),
        (replace(SIZED, intermediate=100), 8, "8 does not divide 100 rows of the feed-forward; use 1, 2 or 4"),
    ],
)
def test_any_other_is_refused_with_those_that_there_are(policy: PolicyConfig, num_ranks: int, told: str) -> None:
    with pytest.raises(SplitRefused) as refusal:
        check_split(policy, num_ranks)

    assert str(refusal.value) == f"{FIELD}: {told}"
