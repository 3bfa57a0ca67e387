"""Which splits a policy can be served and trained with."""

from dataclasses import replace

import pytest

from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.architectures.split import SplitRefused, check_split, check_trainer_split
from tandem_checkpoint.layouts.place import TrainerSplit
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


def test_more_stages_of_a_server_than_layers_are_refused() -> None:
    check_split(replace(SIZED, num_layers=3), 1, 3)

    with pytest.raises(SplitRefused) as refusal:
        check_split(replace(SIZED, num_layers=3), 1, 4)

    assert str(refusal.value) == "spec.rollout.parallelism.pipeline: 4 stages do not share 3 layers; use at most 3"


EIGHT = replace(SIZED, num_layers=8, num_key_value_heads=4)
SPARSE = replace(EIGHT, architecture="Qwen3MoeForCausalLM", num_experts=6, expert_intermediate=20)
LATENT = replace(EIGHT, architecture="DeepseekV3ForCausalLM", q_lora_rank=8, kv_lora_rank=5, qk_rope_head_dim=4)


@pytest.mark.parametrize(
    ("policy", "split", "told"),
    [
        (EIGHT, TrainerSplit(tensor=3), "tensor: 3 does not divide 4 key/value heads; use 1, 2 or 4"),
        (
            replace(EIGHT, intermediate=6),
            TrainerSplit(tensor=4),
            "tensor: 4 does not divide 6 rows of the feed-forward; use 1 or 2",
        ),
        (
            LATENT,
            TrainerSplit(tensor=2),
            "tensor: 2 does not divide the key/value rank of 5 and 4 rotary rows; use 1",
        ),
        (SPARSE, TrainerSplit(expert=4), "expert: 4 does not divide 6 experts; use 1, 2, 3 or 6"),
        (
            SPARSE,
            TrainerSplit(expert_tensor=3),
            "expertTensor: 3 does not divide 20 rows of an expert; use 1, 2, 4, 5, 10 or 20",
        ),
        (EIGHT, TrainerSplit(expert=2), "expert: is 2, and the policy has no experts; set expert: 1"),
        (
            EIGHT,
            TrainerSplit(tensor=2, expert_tensor=2),
            "expertTensor: is 2, and the policy has no experts; set expertTensor: 1",
        ),
        (EIGHT, TrainerSplit(pipeline=3), "pipeline: 3 stages do not share 8 layers evenly; use 1, 2, 4 or 8"),
        (
            EIGHT,
            TrainerSplit(pipeline=2, virtual_pipeline=3),
            "virtualPipeline: 3 chunks do not share a stage's 4 layers evenly; use 1 or 2",
        ),
        (
            EIGHT,
            TrainerSplit(pipeline=2, first_stage_layers=3, last_stage_layers=4),
            "pipeline: the first and last stage with 7 of 8 layers leave 1 for 0; use 1 or 3",
        ),
    ],
)
def test_a_trainers_split_is_refused_with_those_that_there_are(
    policy: PolicyConfig, split: TrainerSplit, told: str
) -> None:
    with pytest.raises(SplitRefused) as refusal:
        check_trainer_split(policy, split)

    assert str(refusal.value) == f"spec.trainer.parallelism.{told}"


@pytest.mark.parametrize(
    "split",
    [
        TrainerSplit(),
        TrainerSplit(tensor=4, pipeline=2, virtual_pipeline=2),
        TrainerSplit(pipeline=3, first_stage_layers=2),
        TrainerSplit(pipeline=2, first_stage_layers=3, last_stage_layers=5),
    ],
)
def test_a_trainers_split_that_divides_is_taken(split: TrainerSplit) -> None:
    check_trainer_split(EIGHT, split)


def test_a_server_with_experts_cuts_those_too() -> None:
    with pytest.raises(SplitRefused, match=r"8 does not divide 20 rows of an expert; use 1, 2 or 4"):
        check_split(SPARSE, 8)
