"""What a family's table says: which tensors there are, and what Megatron and vLLM make of them.

A rule speaks of one Megatron parameter. Its Hugging Face tensors stand in the order in which vLLM lays them out along
axis 0 of one parameter of its own (fused qkv, fused gate and up), so one rule serves three layouts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from tandem_checkpoint.architectures.config import PolicyConfig


class Split(Enum):
    """How one Megatron parameter is cut into Hugging Face tensors."""

    WHOLE = "whole"
    """One tensor, as it is."""
    QKV = "qkv"
    """Per key/value group: the group's query heads, its key head, its value head."""
    HALVES = "halves"
    """Gate above, up below."""


class Rows(Enum):
    """Rows of a tensor, in terms of the configuration."""

    HIDDEN = "hidden"
    VOCABULARY = "vocabulary"
    INTERMEDIATE = "intermediate"
    QUERY = "query"
    KEY_VALUE = "key/value"


@dataclass(frozen=True, slots=True)
class Part:
    """One Hugging Face tensor: name with `{layer}`, rows, and columns (None: a vector)."""

    name: str
    rows: Rows
    columns: Rows | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One parameter of Megatron's local layer specification."""

    megatron: str
    """Name with `{layer}`."""
    server: str
    """vLLM's parameter, with `{layer}`."""
    parts: tuple[Part, ...]
    split: Split = Split.WHOLE


@dataclass(frozen=True, slots=True)
class Architecture:
    """The table of one family."""

    name: str
    layer_rules: tuple[Rule, ...]
    model_rules: tuple[Rule, ...]
    untied_rules: tuple[Rule, ...]
    """Rules that hold only where input and output embeddings are two tensors."""
    qkv_bias: bool
    qk_norm: bool

    def rules(self, config: PolicyConfig) -> Iterator["NamedRule"]:
        """Yield every rule with its names filled in, in the order of a forward pass."""
        for rule in self.model_rules:
            yield NamedRule(rule, None)
        if not config.tied_embeddings:
            for rule in self.untied_rules:
                yield NamedRule(rule, None)
        for layer in range(config.num_layers):
            for rule in self.layer_rules:
                yield NamedRule(rule, layer)


@dataclass(frozen=True, slots=True)
class NamedRule:
    """A rule for one layer, or for the model where layer is None."""

    rule: Rule
    layer: int | None

    @property
    def split(self) -> Split:
        return self.rule.split

    @property
    def megatron(self) -> str:
        return self.rule.megatron.format(layer=self.layer)

    @property
    def server(self) -> str:
        return self.rule.server.format(layer=self.layer)

    def tensors(self, config: PolicyConfig) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Return name and shape of each Hugging Face tensor, in the server's order."""
        return tuple((part.name.format(layer=self.layer), shape_of(part, config)) for part in self.rule.parts)


def shape_of(part: Part, config: PolicyConfig) -> tuple[int, ...]:
    """Return the full shape of a tensor."""
    rows = config.size_of(part.rows.value)
    return (rows,) if part.columns is None else (rows, config.size_of(part.columns.value))
