"""Which splits a policy can be served and trained with: vLLM's and Megatron's own conditions, known before a start.

Heads and feed-forwards are cut evenly. With more ranks of a server than key/value heads neighbours hold the same head,
so then the ranks are a multiple of the heads; a trainer's ranks hold whole groups. Layers are dealt out evenly among
stages that are told no number of their own, and among the chunks of a stage.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import get_args

from tandem_api.job.pods import ServerSplit
from tandem_checkpoint.architectures.block_split import cut_by_expert_tensor, cut_by_server, cut_by_tensor
from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.layouts.place import TrainerSplit

FIELD = "spec.rollout.parallelism.tensor"
STAGES_FIELD = "spec.rollout.parallelism.pipeline"
TRAINER_FIELD = "spec.trainer.parallelism"
Reasons = Callable[[PolicyConfig, int], Iterator[str]]
MOST_RANKS = 64
"""The largest number that the API takes for a part of a trainer's split."""


class SplitRefused(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """The policy cannot be cut into so many parts; the message names the field and the fix."""


def check_split(policy: PolicyConfig, num_ranks: int, num_stages: int = 1) -> None:
    """Raise SplitRefused where a server cannot hold the policy; before anything is started.

    Args: num_ranks: tensor-parallel ranks of each stage.
    """
    refusal = next(_refusals(policy, num_ranks, _uncut_by_server, cut_by_server), None)
    if refusal is not None:
        others = [
            split
            for split in get_args(ServerSplit)
            if not any(_refusals(policy, split, _uncut_by_server, cut_by_server))
        ]
        raise SplitRefused(f"{FIELD}: {num_ranks} {refusal}; use {_listed(others)}")
    if num_stages > policy.num_layers:
        raise SplitRefused(
            f"{STAGES_FIELD}: {num_stages} stages do not share {policy.num_layers} layers; use at most "
            f"{policy.num_layers}"
        )


def check_trainer_split(policy: PolicyConfig, split: TrainerSplit) -> None:
    """Raise SplitRefused where Megatron cannot train the policy in this split; before anything is started."""
    _check(policy, "tensor", split.tensor, _uncut_by_tensor, cut_by_tensor)
    _check_experts(policy, {"expert": split.expert, "expertTensor": split.expert_tensor})
    _check(policy, "expert", split.expert, _uncut_by_expert)
    _check(policy, "expertTensor", split.expert_tensor, _uncut_by_expert_tensor, cut_by_expert_tensor)
    _check_layers(policy, split)


def _check_experts(policy: PolicyConfig, numbers: Mapping[str, int]) -> None:
    """Raise SplitRefused where experts are to be split and there are none. Args: numbers: of ranks, by field."""
    for field, number in numbers.items():
        if number > 1 and not policy.num_experts:
            raise SplitRefused(f"{TRAINER_FIELD}.{field}: is {number}, and the policy has no experts; set {field}: 1")


def _check(policy: PolicyConfig, field: str, number: int, uncut_by: Reasons, cut_by: Reasons | None = None) -> None:
    refusal = next(_refusals(policy, number, uncut_by, cut_by), None)
    if refusal is not None:
        others = [other for other in range(1, MOST_RANKS + 1) if not any(_refusals(policy, other, uncut_by, cut_by))]
        raise SplitRefused(f"{TRAINER_FIELD}.{field}: {number} {refusal}; use {_listed(others)}")


def _refusals(policy: PolicyConfig, number: int, uncut_by: Reasons, cut_by: Reasons | None) -> Iterator[str]:
    """Yield what is wrong with a number of ranks. Args: cut_by: what they would cut within a block of scales."""
    yield from (f"does not divide {uncut}" for uncut in uncut_by(policy, number))
    if cut_by is not None:
        yield from cut_by(policy, number)


def _check_layers(policy: PolicyConfig, split: TrainerSplit) -> None:
    """Raise SplitRefused where stages or chunks would get uneven numbers of layers that nobody has asked for."""
    uneven = _uneven_layers(policy.num_layers, split)
    if uneven is None:
        return
    for field, name in (("virtualPipeline", "virtual_pipeline"), ("pipeline", "pipeline")):
        others = [
            number
            for number in range(1, min(policy.num_layers, MOST_RANKS) + 1)
            if (field == "pipeline" or number <= split.virtual_pipeline)
            and _uneven_layers(policy.num_layers, replace(split, **{name: number})) is None
        ]
        if others and getattr(split, name) > 1:
            raise SplitRefused(f"{TRAINER_FIELD}.{field}: {uneven}; use {_listed(others)}")
    raise SplitRefused(f"{TRAINER_FIELD}.pipeline: {uneven}; give other firstStageLayers and lastStageLayers, or none")


def _uneven_layers(num_layers: int, split: TrainerSplit) -> str | None:
    """Return what does not divide; None where each chunk of each stage has its layers."""
    if split.pipeline == 1:
        return None if split.virtual_pipeline == 1 else "one stage has no chunks"
    given = [length for length in (split.first_stage_layers, split.last_stage_layers) if length is not None]
    between, rest = split.pipeline - len(given), num_layers - sum(given)
    if rest < 0 or (between == 0) != (rest == 0):
        return f"the first and last stage with {sum(given)} of {num_layers} layers leave {max(rest, 0)} for {between}"
    if between and rest % between:
        return f"{between} stages do not share {rest} layers evenly"
    lengths = [*given, rest // between] if between else given
    uncut = next((length for length in lengths if length % split.virtual_pipeline), None)
    return None if uncut is None else f"{split.virtual_pipeline} chunks do not share a stage's {uncut} layers evenly"


def _uncut_by_server(policy: PolicyConfig, num_ranks: int) -> Iterator[str]:
    """Yield what of a policy does not divide by a number of ranks."""
    if policy.num_key_value_heads % num_ranks and num_ranks % policy.num_key_value_heads:
        yield f"{policy.num_key_value_heads} key/value heads"
    yield from _uncut_matrices(policy, num_ranks)
    yield from _uncut_by_expert_tensor(policy, num_ranks)


def _uncut_by_tensor(policy: PolicyConfig, num_ranks: int) -> Iterator[str]:
    if policy.num_key_value_heads % num_ranks:
        yield f"{policy.num_key_value_heads} key/value heads"
    yield from _uncut_matrices(policy, num_ranks)
    if policy.kv_lora_rank:  # Megatron's local layers cut the projections down to the ranks too, and gather
        if policy.q_lora_rank % num_ranks:
            yield f"the query rank of {policy.q_lora_rank}"
        if (policy.kv_lora_rank + policy.qk_rope_head_dim) % num_ranks:
            yield f"the key/value rank of {policy.kv_lora_rank} and {policy.qk_rope_head_dim} rotary rows"


def _uncut_matrices(policy: PolicyConfig, num_ranks: int) -> Iterator[str]:
    if policy.num_heads % num_ranks:
        yield f"{policy.num_heads} query heads"
    has_dense = not all(policy.is_moe_layer(layer) for layer in range(policy.num_layers))
    if has_dense and policy.intermediate % num_ranks:
        yield f"{policy.intermediate} rows of the feed-forward"
    if policy.shared_intermediate % num_ranks:
        yield f"{policy.shared_intermediate} rows of the shared experts"


def _uncut_by_expert(policy: PolicyConfig, num_ranks: int) -> Iterator[str]:
    if policy.num_experts % num_ranks:
        yield f"{policy.num_experts} experts"


def _uncut_by_expert_tensor(policy: PolicyConfig, num_ranks: int) -> Iterator[str]:
    if policy.num_experts and policy.expert_intermediate % num_ranks:
        yield f"{policy.expert_intermediate} rows of an expert"


def _listed(numbers: Sequence[int]) -> str:
    """Return `1, 2 or 4`."""
    *first, last = map(str, numbers)
    return f"{', '.join(first)} or {last}" if first else last
