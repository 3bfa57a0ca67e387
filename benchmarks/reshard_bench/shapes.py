"""Tensors of large mixture-of-experts models as they lie on disk: names, shapes, item sizes, and how ranks cut them.

Sizes are those of the public config.json of moonshotai/Kimi-K2-Instruct, deepseek-ai/DeepSeek-V3 (without its layer
61, which predicts a token further on) and Qwen/Qwen3-235B-A22B. The first two are FP8 with a float32 scale for each
block of 128 x 128; embeddings, head, router and norms are not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

BLOCK = 128
FP8_BYTES, BFLOAT16_BYTES, FLOAT32_BYTES = 1, 2, 4


class Cut(Enum):
    """How tensor parallelism cuts a tensor."""

    WHOLE = "whole"
    ROWS = "rows"
    COLUMNS = "columns"
    KEY_VALUE = "key/value"
    """Rows, by key/value heads: ranks in excess of the heads hold the same ones."""


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor; of an expert's, one for each expert."""

    name: str
    shape: tuple[int, ...]
    item_bytes: int
    cut: Cut = Cut.WHOLE


@dataclass(frozen=True, slots=True)
class Latent:
    """Ranks of multi-head latent attention (DeepSeek-V3 report, section 2.1.1)."""

    query: int = 1536
    key_value: int = 512
    nope: int = 128
    rope: int = 64
    value: int = 128


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of one model."""

    name: str
    num_layers: int
    num_dense_layers: int
    """The first so many have one feed-forward and no experts."""
    num_experts: int
    hidden: int
    intermediate: int
    """Of a dense layer."""
    expert_intermediate: int
    num_heads: int
    vocabulary: int
    latent: Latent | None
    num_key_value_heads: int = 0
    head_dim: int = 0
    num_shared_experts: int = 0
    is_fp8: bool = False

    def first(self) -> tuple[Part, ...]:
        """Return what lies before the layers."""
        return (Part("model.embed_tokens.weight", (self.vocabulary, self.hidden), BFLOAT16_BYTES, Cut.ROWS),)

    def last(self) -> tuple[Part, ...]:
        """Return what lies behind the layers."""
        head = Part("lm_head.weight", (self.vocabulary, self.hidden), BFLOAT16_BYTES, Cut.ROWS)
        return (self._vector("model.norm.weight", self.hidden), head)

    def layer(self, number: int) -> Iterator[Part]:
        """Yield what a layer has besides its experts, in the order in which it lies in memory."""
        prefix = f"model.layers.{number}"
        yield self._vector(f"{prefix}.input_layernorm.weight", self.hidden)
        yield from (
            self._attention(f"{prefix}.self_attn") if self.latent is None else self._latent(f"{prefix}.self_attn")
        )
        yield self._vector(f"{prefix}.post_attention_layernorm.weight", self.hidden)
        if number < self.num_dense_layers:
            yield from self._feed_forward(f"{prefix}.mlp", self.intermediate)
            return
        yield Part(f"{prefix}.mlp.gate.weight", (self.num_experts, self.hidden), BFLOAT16_BYTES)
        if self.num_shared_experts:
            yield self._vector(f"{prefix}.mlp.gate.e_score_correction_bias", self.num_experts, FLOAT32_BYTES)
            width = self.expert_intermediate * self.num_shared_experts
            yield from self._feed_forward(f"{prefix}.mlp.shared_experts", width)

    def experts(self, number: int) -> tuple[tuple[Part, ...], ...]:
        """Return the tensors of each expert of a layer, together where they are one parameter; `{expert}` in names."""
        if number < self.num_dense_layers:
            return ()
        prefix = f"model.layers.{number}.mlp.experts.{{expert}}"
        up, down = (self.expert_intermediate, self.hidden), (self.hidden, self.expert_intermediate)
        gate_up = [tuple(self._matrix(f"{prefix}.{name}", up, Cut.WHOLE)) for name in ("gate_proj", "up_proj")]
        down_only = [tuple(self._matrix(f"{prefix}.down_proj", down, Cut.WHOLE))]
        return tuple(parameter for alike in (gate_up, down_only) for parameter in zip(*alike, strict=True))

    def _latent(self, prefix: str) -> Iterator[Part]:
        assert self.latent is not None
        ranks, heads = self.latent, self.num_heads
        yield from self._matrix(f"{prefix}.q_a_proj", (ranks.query, self.hidden), Cut.WHOLE)
        yield from self._matrix(f"{prefix}.kv_a_proj_with_mqa", (ranks.key_value + ranks.rope, self.hidden), Cut.WHOLE)
        yield self._vector(f"{prefix}.q_a_layernorm.weight", ranks.query)
        yield self._vector(f"{prefix}.kv_a_layernorm.weight", ranks.key_value)
        yield from self._matrix(f"{prefix}.q_b_proj", (heads * (ranks.nope + ranks.rope), ranks.query), Cut.ROWS)
        yield from self._matrix(f"{prefix}.kv_b_proj", (heads * (ranks.nope + ranks.value), ranks.key_value), Cut.ROWS)
        yield from self._matrix(f"{prefix}.o_proj", (self.hidden, heads * ranks.value), Cut.COLUMNS)

    def _attention(self, prefix: str) -> Iterator[Part]:
        queries, keys = self.num_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        yield from self._matrix(f"{prefix}.q_proj", (queries, self.hidden), Cut.ROWS)
        yield from self._matrix(f"{prefix}.k_proj", (keys, self.hidden), Cut.KEY_VALUE)
        yield from self._matrix(f"{prefix}.v_proj", (keys, self.hidden), Cut.KEY_VALUE)
        yield self._vector(f"{prefix}.q_norm.weight", self.head_dim)
        yield self._vector(f"{prefix}.k_norm.weight", self.head_dim)
        yield from self._matrix(f"{prefix}.o_proj", (self.hidden, queries), Cut.COLUMNS)

    def _feed_forward(self, prefix: str, width: int) -> Iterator[Part]:
        yield from self._matrix(f"{prefix}.gate_proj", (width, self.hidden), Cut.ROWS)
        yield from self._matrix(f"{prefix}.up_proj", (width, self.hidden), Cut.ROWS)
        yield from self._matrix(f"{prefix}.down_proj", (self.hidden, width), Cut.COLUMNS)

    def _matrix(self, name: str, shape: tuple[int, int], cut: Cut) -> Iterator[Part]:
        yield Part(f"{name}.weight", shape, FP8_BYTES if self.is_fp8 else BFLOAT16_BYTES, cut)
        if self.is_fp8:
            blocks = tuple(-(-length // BLOCK) for length in shape)
            yield Part(f"{name}.weight_scale_inv", blocks, FLOAT32_BYTES, cut)

    def _vector(self, name: str, length: int, item_bytes: int = BFLOAT16_BYTES) -> Part:
        return Part(name, (length,), item_bytes)


K2 = Shape("Kimi-K2", 61, 1, 384, 7168, 18432, 2048, 64, 163840, Latent(), num_shared_experts=1, is_fp8=True)
V3 = Shape("DeepSeek-V3", 61, 3, 256, 7168, 18432, 2048, 128, 129280, Latent(), num_shared_experts=1, is_fp8=True)
QWEN3 = Shape("Qwen3-235B-A22B", 94, 0, 128, 4096, 12288, 1536, 64, 151936, None, num_key_value_heads=4, head_dim=128)
