"""Which splits cut quantised matrices between blocks: a rank that holds part of a block cannot scale it alone.

The same holds for a server's fused matrices: each tensor but the last ends with a block, or the scales of the next one
would lie in its last row (vLLM: validate_fp8_block_shape in quantization/utils/fp8_utils.py).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import groupby, islice

from tandem_checkpoint.architectures import architecture_of
from tandem_checkpoint.architectures.block_scales import BlockScales
from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.architectures.table import CUT, CUT_BY_LOCAL, Axis, NamedRule, Rule, length_of, module_of

QUANTISED_ROUTERS = ("Qwen3MoeForCausalLM",)
"""Families whose router vLLM quantises like all else unless it is named (vllm/model_executor/models/qwen3_moe.py)."""
NumShares = Callable[[Axis], int]


def cut_by_tensor(policy: PolicyConfig, num_ranks: int) -> Iterator[str]:
    """Yield what a trainer's tensor-parallel ranks would cut within a block."""
    yield from _cut_blocks(policy, lambda axis: num_ranks if axis in CUT | CUT_BY_LOCAL else 1)


def cut_by_expert_tensor(policy: PolicyConfig, num_ranks: int) -> Iterator[str]:
    yield from _cut_blocks(policy, lambda axis: num_ranks if axis is Axis.EXPERT_INTERMEDIATE else 1)


def cut_by_server(policy: PolicyConfig, num_ranks: int) -> Iterator[str]:
    """Yield what a server's ranks would cut within a block; where they cut experts, too."""

    def num_shares(axis: Axis) -> int:
        if axis is Axis.KEY_VALUE:
            return min(num_ranks, policy.num_key_value_heads)
        return num_ranks if axis in CUT or axis is Axis.EXPERT_INTERMEDIATE else 1

    yield from _cut_blocks(policy, num_shares)


def block_problems(policy: PolicyConfig) -> Iterator[str]:
    """Yield why no server could hold a policy's quantised matrices, however it is split; `problem; fix`."""
    scales = policy.block_scales
    if scales is None:
        return
    rules = [*architecture_of(policy.architecture).rules(policy)]
    routers = [name for named in rules if _is_router(named.rule) for name, _ in named.tensors(policy)]
    named_not = next((name for name in map(module_of, routers) if name not in scales.skipped), None)
    if named_not is not None and policy.architecture in QUANTISED_ROUTERS:
        yield (
            f"modules_to_not_convert does not name the router {named_not}, which the server would take for quantised; "
            "name the routers of all layers"
        )
    rules = [named for named in rules if named.rule.is_projection]
    modules = [module_of(name) for named in rules for name, _ in named.tensors(policy)]
    parts = [name.strip(".") for name in scales.skipped.difference(modules)]
    starts, ends = tuple(f"{part}." for part in parts), tuple(f".{part}" for part in parts)
    vague = next((name for name in modules if name.startswith(starts) or name.endswith(ends)), None)
    if vague is not None:
        yield (
            f"modules_to_not_convert names {vague} by a part of its name, which sides read differently; name every "
            "module in full"
        )
    groups = (tuple(group) for _, group in groupby(rules, _server_module))
    yield from islice((problem for group in groups for problem in _parameter_problems(group, policy, scales)), 1)


def _is_router(rule: Rule) -> bool:
    return rule.parts[0].rows is Axis.EXPERTS and rule.parts[0].columns is not None


def _server_module(named: NamedRule) -> str:
    """Return what is quantised as a whole: a parameter of the server, or all experts of a layer."""
    return module_of(named.server).rpartition(".")[0] if named.rule.is_expert else named.server


def _parameter_problems(named: Sequence[NamedRule], policy: PolicyConfig, scales: BlockScales) -> Iterator[str]:
    tensors = [tensor for one in named for tensor in one.tensors(policy)]
    skipped = [name for name, _ in tensors if module_of(name) in scales.skipped]
    rule, side = named[0].rule, scales.block[0]
    if skipped:
        if len(skipped) < len(tensors):
            yield (
                f"modules_to_not_convert names {module_of(skipped[0])}, but not all of {_server_module(named[0])}, "
                "which the server has as one; name all of them or none"
            )
        return
    num_inner = (len(rule.parts) if rule.is_expert else len(tensors)) - 1
    ragged = [(name, shape[0]) for name, shape in tensors[:num_inner] if shape[0] % side]
    if ragged:
        yield (
            f"{module_of(ragged[0][0])} has {ragged[0][1]} rows, not a multiple of the block of {side}, and others "
            f"follow it in the server's {module_of(named[0].server)}; use the unquantized policy"
        )


def _cut_blocks(policy: PolicyConfig, num_shares: NumShares) -> Iterator[str]:
    scales = policy.block_scales
    if scales is None:
        return
    for rule in _quantised_rules(policy):
        for part in rule.parts:
            for axis, side, kind in zip(part.axes, scales.block, ("rows", "columns"), strict=True):
                each = length_of(axis, policy) // num_shares(axis)
                if num_shares(axis) > 1 and each % side:
                    name = module_of(part.name).replace(".{expert}", "")
                    yield f"cuts {name} into {each} {kind}, not a multiple of the block of {side}"


@cache
def _quantised_rules(policy: PolicyConfig) -> tuple[Rule, ...]:
    """Return the rules of which some layer's matrix is quantised, each once."""
    rules = architecture_of(policy.architecture).rules(policy)
    return tuple(dict.fromkeys(named.rule for named in rules if named.is_quantised(policy)))
