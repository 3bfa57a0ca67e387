"""What a family's table says: which tensors there are, and what Megatron and vLLM make of them.

A rule speaks of one Megatron parameter and the Hugging Face tensors that it is made of. Rules that name the same
parameter of the server stand next to each other: their tensors lie in it end to end, in the order of the table.
What an axis counts says how it is shared among ranks, so a rule need not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from tandem_checkpoint.architectures.config import PolicyConfig


class Names(Enum):
    """Which of Megatron's layer specifications names the parameters."""

    LOCAL = "local"
    TRANSFORMER_ENGINE = "transformer engine"
    """Norms are fused into the projection that follows them; experts are grouped."""


class Split(Enum):
    """How one Megatron parameter is cut into Hugging Face tensors."""

    WHOLE = "whole"
    """One tensor, as it is."""
    QKV = "qkv"
    """Per key/value group: the group's query heads, its key head, its value head."""
    HALVES = "halves"
    """Gate above, up below."""


class Axis(Enum):
    """What an axis of a tensor counts."""

    HIDDEN = "hidden"
    VOCABULARY = "vocabulary"
    INTERMEDIATE = "intermediate"
    QUERY = "query"
    KEY_VALUE = "key/value"
    HEAD = "head"
    """One head."""
    EXPERTS = "experts"
    EXPERT_INTERMEDIATE = "expert intermediate"
    SHARED_INTERMEDIATE = "shared intermediate"
    """Of all shared experts together."""
    QUERY_RANK = "query rank"
    QUERY_DOWN = "query down"
    """As long as the rank; rows of the projection down to it."""
    KEY_VALUE_RANK = "key/value rank"
    KEY_VALUE_DOWN = "key/value down"
    """The rank, and the rotary part that all heads share; rows of the projection down to them."""
    LATENT_QUERY = "latent query"
    """All heads, each with its rotary part."""
    LATENT_KEY_VALUE = "latent key/value"
    """All heads: the key without its rotary part, and the value."""
    LATENT_VALUE = "latent value"


CUT = frozenset(
    {
        Axis.VOCABULARY,
        Axis.INTERMEDIATE,
        Axis.SHARED_INTERMEDIATE,
        Axis.QUERY,
        Axis.KEY_VALUE,
        Axis.LATENT_QUERY,
        Axis.LATENT_KEY_VALUE,
        Axis.LATENT_VALUE,
    }
)
"""Axes that tensor-parallel ranks share. EXPERT_INTERMEDIATE is for the expert-tensor group."""
CUT_BY_LOCAL = frozenset({Axis.QUERY_DOWN, Axis.KEY_VALUE_DOWN})
"""Axes that Megatron's local layers cut too and gather at once; Transformer Engine's and vLLM's hold them whole."""


class When(Enum):
    """A rule holds only for some policies, or for some layers."""

    UNTIED = "input and output embeddings are two tensors"
    DENSE = "the layer has no experts"
    EXPERTS = "the layer has experts"
    SHARED_EXPERTS = "the layer has experts, some for all tokens"
    QUERY_RANK = "queries go through a low rank"
    NO_QUERY_RANK = "queries come straight from the hidden state"


class Stage(Enum):
    """The pipeline stage of a parameter that is in no layer."""

    FIRST = "first"
    LAST = "last"


@dataclass(frozen=True, slots=True)
class Part:
    """One Hugging Face tensor: its name, within its layer if it has one, its rows, and its columns (None: a vector)."""

    name: str
    rows: Axis
    columns: Axis | None = None

    @property
    def axes(self) -> tuple[Axis, ...]:
        return (self.rows,) if self.columns is None else (self.rows, self.columns)


@dataclass(frozen=True, slots=True)
class Rule:
    """One Megatron parameter. Names of a layer's parameters are within it; `{expert}` stands for an expert's number."""

    megatron: str
    """Name in Megatron's local layer specification."""
    parts: tuple[Part, ...]
    split: Split = Split.WHOLE
    server: str | None = None
    """vLLM's parameter, where it is not called like the first tensor."""
    engine: str | None = None
    """Name in the Transformer Engine specification, where it differs."""
    when: When | None = None
    stage: Stage | None = None
    """None in a layer."""
    is_buffer: bool = False
    """Whether Megatron holds it as a buffer: not among the module's parameters, and not trained by gradients."""
    dtype: str | None = None
    """The number format, where it does not follow the policy's."""

    @property
    def is_expert(self) -> bool:
        """Whether each expert has one."""
        return "{expert}" in self.megatron

    @property
    def is_projection(self) -> bool:
        """Whether it is a matrix that may be quantised: of a layer, but not the router's."""
        part = self.parts[0]
        return self.stage is None and part.columns is not None and part.rows is not Axis.EXPERTS

    @property
    def server_name(self) -> str:
        return self.server or self.parts[0].name

    def megatron_name(self, names: Names, layer: int | None, expert: int | None) -> str:
        """Return Megatron's name, with numbers as its module counts them."""
        name = self.engine if self.engine and names is Names.TRANSFORMER_ENGINE else self.megatron
        name = name.replace("{expert}", str(expert))
        return name if layer is None else f"decoder.layers.{layer}.{name}"


@dataclass(frozen=True, slots=True)
class Architecture:
    """The table of one family."""

    name: str
    model_rules: tuple[Rule, ...]
    layer_rules: tuple[Rule, ...]
    qkv_bias: bool = False
    qk_norm: bool = False
    server_ends_everywhere: bool = False
    """Whether each pipeline stage of vLLM's model has embeddings, the last norm and the output layer."""

    def rules(self, config: PolicyConfig) -> Iterator["NamedRule"]:
        """Yield every rule that holds, for each layer and expert; those of one parameter of the server in a row."""
        for rule in self.model_rules:
            if holds(rule, config, None):
                yield NamedRule(rule)
        for layer in range(config.num_layers):
            for rule in self.layer_rules:
                if holds(rule, config, layer):
                    experts = range(config.num_experts) if rule.is_expert else (None,)
                    yield from (NamedRule(rule, layer, expert) for expert in experts)


@dataclass(frozen=True, slots=True)
class NamedRule:
    """A rule for one layer, or for the model where layer is None; for one expert if there is one each."""

    rule: Rule
    layer: int | None = None
    expert: int | None = None

    @property
    def split(self) -> Split:
        return self.rule.split

    @property
    def megatron(self) -> str:
        """Megatron's local name, as a model on one rank has it."""
        return self.rule.megatron_name(Names.LOCAL, self.layer, self.expert)

    @property
    def server(self) -> str:
        return self._placed(self.rule.server_name)

    def is_quantised(self, config: PolicyConfig) -> bool:
        """Tell whether the server's parameter, and with it all tensors of it, is FP8 with block scales."""
        scales = config.block_scales
        if scales is None or not self.rule.is_projection:
            return False
        return not any(module_of(name) in scales.skipped for name, _ in self.tensors(config))

    def tensors(self, config: PolicyConfig) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Return name and shape of each Hugging Face tensor, in the server's order."""
        return tuple((self.tensor_name(part), shape_of(part, config)) for part in self.rule.parts)

    def tensor_name(self, part: Part) -> str:
        """Return the on-disk name of one of the rule's tensors."""
        return self._placed(part.name).replace("{expert}", str(self.expert))

    def _placed(self, name: str) -> str:
        return name if self.layer is None else f"model.layers.{self.layer}.{name}"


def module_of(tensor: str) -> str:
    """Return the name of the module that a tensor is the weight of."""
    return tensor.removesuffix(".weight")


def holds(rule: Rule, config: PolicyConfig, layer: int | None) -> bool:
    """Tell whether a policy has a rule's parameter, in this layer if it is a layer's."""
    match rule.when:
        case None:
            return True
        case When.UNTIED:
            return not config.tied_embeddings
        case When.QUERY_RANK:
            return bool(config.q_lora_rank)
        case When.NO_QUERY_RANK:
            return not config.q_lora_rank
        case _:
            has_experts = layer is not None and config.is_moe_layer(layer)
            if rule.when is When.DENSE:
                return not has_experts
            return has_experts and (rule.when is When.EXPERTS or bool(config.shared_intermediate))


def shape_of(part: Part, config: PolicyConfig) -> tuple[int, ...]:
    """Return the full shape of a tensor."""
    return tuple(length_of(axis, config) for axis in part.axes)


def length_of(axis: Axis, config: PolicyConfig) -> int:
    """Return what an axis counts."""
    match axis:
        case Axis.HIDDEN:
            return config.hidden
        case Axis.VOCABULARY:
            return config.vocabulary
        case Axis.INTERMEDIATE:
            return config.intermediate
        case Axis.QUERY:
            return config.num_heads * config.head_dim
        case Axis.KEY_VALUE:
            return config.num_key_value_heads * config.head_dim
        case Axis.HEAD:
            return config.head_dim
        case Axis.EXPERTS:
            return config.num_experts
        case Axis.EXPERT_INTERMEDIATE:
            return config.expert_intermediate
        case Axis.SHARED_INTERMEDIATE:
            return config.shared_intermediate
        case _:
            return _latent_length(axis, config)


def _latent_length(axis: Axis, config: PolicyConfig) -> int:
    """Return a length of multi-head latent attention."""
    match axis:
        case Axis.QUERY_RANK | Axis.QUERY_DOWN:
            return config.q_lora_rank or 0
        case Axis.KEY_VALUE_RANK:
            return config.kv_lora_rank
        case Axis.KEY_VALUE_DOWN:
            return config.kv_lora_rank + config.qk_rope_head_dim
        case Axis.LATENT_QUERY:
            return config.num_heads * (config.qk_nope_head_dim + config.qk_rope_head_dim)
        case Axis.LATENT_KEY_VALUE:
            return config.num_heads * (config.qk_nope_head_dim + config.v_head_dim)
        case _:
            return config.num_heads * config.v_head_dim
