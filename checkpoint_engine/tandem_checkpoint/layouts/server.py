"""What each rank of a server holds: vLLM's parameters, from a family's table.

vLLM's sharding (vllm/model_executor/layers/linear.py, fused_moe/): projections into heads, into the feed-forward and
onto the vocabulary are cut by rows, each tensor of a fused parameter for itself; projections back to the hidden size by
columns; all else is whole on every rank. With more ranks than key/value heads, neighbours hold the same head. Experts
are cut likewise, or dealt out whole. Stages keep the layers' numbers (vllm/distributed/utils.py, get_pp_indices).
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

from tandem_checkpoint.architectures import architecture_of
from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.architectures.table import CUT, Axis, NamedRule, Stage, length_of
from tandem_checkpoint.layouts.place import ServerPlace
from tandem_checkpoint.layouts.scales import with_scales
from tandem_checkpoint.layouts.strip import Block, LocalParameter, stacked

VOCABULARY_MULTIPLE = 64
"""vLLM pads embeddings to this many rows (vllm/model_executor/layers/vocab_parallel_embedding.py)."""


def server_layout(policy: PolicyConfig, place: ServerPlace) -> tuple[LocalParameter, ...]:
    """Return all parameters of a rank, in the order of the family's table."""
    rules = (rule for rule in architecture_of(policy.architecture).rules(policy) if is_on_stage(rule, policy, place))
    groups = ((name, tuple(group)) for name, group in groupby(rules, lambda rule: rule.server))
    return tuple(held for name, group in groups for held in _held(name, group, policy, place))


def _held(
    name: str, rules: Sequence[NamedRule], policy: PolicyConfig, place: ServerPlace
) -> tuple[LocalParameter, ...]:
    """Return a parameter, and its scales where it is quantised."""
    parameter = server_parameter(name, rules, policy, place)
    if policy.block_scales is None or not rules[0].is_quantised(policy):
        return (parameter,)
    return with_scales(parameter, policy.block_scales)


def server_parameter(name: str, rules: Sequence[NamedRule], policy: PolicyConfig, place: ServerPlace) -> LocalParameter:
    """Return what a rank holds of one parameter, which is made of the tensors of some rules in a row."""
    rule = rules[0].rule
    if rule.is_expert:
        held = local_experts(len(rules), place)
        strips = tuple(
            strip
            for local, expert in enumerate(held)
            for strip in stacked(_blocks([rules[expert]], policy, place), (local,))
        )
        leading: tuple[int, ...] = (len(held),)
        rules = rules[:1]
    else:
        strips = tuple(stacked(_blocks(rules, policy, place)))
        leading = ()
    spans = [_span(part.rows, policy, place) for named in rules for part in named.rule.parts]
    columns = (_span(axis, policy, place) for axis in rule.parts[0].axes[1:])
    shape = (*leading, sum(stop - start for start, stop in spans), *(stop - start for start, stop in columns))
    return LocalParameter(name, shape, strips, dtype=rule.dtype)


def local_experts(num_experts: int, place: ServerPlace) -> range:
    """Return the experts of a rank: some of each, or some whole, of which the first ranks get one more if need be."""
    if not place.has_expert_parallel:
        return range(num_experts)
    each, rest = divmod(num_experts, place.num_tensor)
    first = place.tensor * each + min(place.tensor, rest)
    return range(first, first + each + (place.tensor < rest))


def is_on_stage(named: NamedRule, policy: PolicyConfig, place: ServerPlace) -> bool:
    """Tell whether a rank's stage has the parameter of a rule: its layer, or what stands before or behind all layers.

    Of tied embeddings the last stage has a copy; some of vLLM's models have both ends on every stage.
    """
    if named.layer is not None:
        return named.layer in stage_layers(policy.num_layers, place)
    if architecture_of(policy.architecture).server_ends_everywhere:
        return True
    is_last = place.pipeline == place.num_pipeline - 1
    if named.rule.stage is Stage.FIRST:
        return place.pipeline == 0 or (policy.tied_embeddings and is_last)
    return is_last


def stage_layers(num_layers: int, place: ServerPlace) -> range:
    """Return the layers of a rank's stage. What does not divide goes to the stages before the last, one each."""
    each, rest = divmod(num_layers, place.num_pipeline)
    longer = range(place.num_pipeline - 1 - rest, place.num_pipeline - 1)
    first = place.pipeline * each + sum(stage < place.pipeline for stage in longer)
    return range(first, first + each + (place.pipeline in longer))


def padded_vocabulary(policy: PolicyConfig) -> int:
    """Return the rows of the server's embeddings, on all ranks together."""
    return -(-policy.vocabulary // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


def _blocks(rules: Sequence[NamedRule], policy: PolicyConfig, place: ServerPlace) -> Iterator[Block]:
    for named in rules:
        for part in named.rule.parts:
            spans = [_span(axis, policy, place) for axis in part.axes]
            starts = tuple(start for start, _ in spans)
            stops = (min(spans[0][1], length_of(part.rows, policy)), *(stop for _, stop in spans[1:]))
            yield Block(named.tensor_name(part), starts, stops)


def _span(axis: Axis, policy: PolicyConfig, place: ServerPlace) -> tuple[int, int]:
    """Return the first index of a rank's share of an axis, and one past its last; padding counts."""
    num_ranks = place.num_tensor
    is_cut = axis in CUT or (axis is Axis.EXPERT_INTERMEDIATE and not place.has_expert_parallel)
    num_shares = num_ranks if is_cut else 1
    if axis is Axis.KEY_VALUE:
        num_shares = min(num_ranks, policy.num_key_value_heads)
    whole = padded_vocabulary(policy) if axis is Axis.VOCABULARY else length_of(axis, policy)
    length = whole // num_shares
    start = place.tensor * num_shares // num_ranks * length
    return start, start + length
