"""Llama: grouped-query attention, gated feed-forward, RMS norms."""

from tandem_checkpoint.architectures.blocks import (
    ATTENTION_NORM,
    ATTENTION_OUTPUT,
    EMBEDDINGS,
    FEED_FORWARD,
    QKV_WEIGHT,
)
from tandem_checkpoint.architectures.table import Architecture

LLAMA = Architecture(
    name="LlamaForCausalLM",
    model_rules=EMBEDDINGS,
    layer_rules=(ATTENTION_NORM, QKV_WEIGHT, ATTENTION_OUTPUT, *FEED_FORWARD),
)
