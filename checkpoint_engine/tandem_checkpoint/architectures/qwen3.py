"""Qwen3: as Llama, with a norm over each query and key head; a head's size is its own, not hidden over heads."""

from tandem_checkpoint.architectures.blocks import (
    ATTENTION_NORM,
    ATTENTION_OUTPUT,
    EMBEDDINGS,
    FEED_FORWARD,
    QK_NORMS,
    QKV_WEIGHT,
)
from tandem_checkpoint.architectures.table import Architecture

QWEN3 = Architecture(
    name="Qwen3ForCausalLM",
    model_rules=EMBEDDINGS,
    layer_rules=(ATTENTION_NORM, QKV_WEIGHT, *QK_NORMS, ATTENTION_OUTPUT, *FEED_FORWARD),
    qk_norm=True,
)
