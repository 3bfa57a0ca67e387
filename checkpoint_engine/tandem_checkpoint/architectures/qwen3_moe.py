"""Qwen3-MoE: Qwen3's attention; most layers have experts, none of them shared."""

from tandem_checkpoint.architectures.blocks import (
    ATTENTION_NORM,
    ATTENTION_OUTPUT,
    EMBEDDINGS,
    FEED_FORWARD,
    QK_NORMS,
    QKV_WEIGHT,
    experts,
)
from tandem_checkpoint.architectures.table import Architecture

QWEN3_MOE = Architecture(
    name="Qwen3MoeForCausalLM",
    model_rules=EMBEDDINGS,
    layer_rules=(
        ATTENTION_NORM,
        QKV_WEIGHT,
        *QK_NORMS,
        ATTENTION_OUTPUT,
        *FEED_FORWARD,
        *experts("mlp"),
    ),
    qk_norm=True,
    server_ends_everywhere=True,
)
