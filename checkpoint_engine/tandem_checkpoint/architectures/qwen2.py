"""Qwen2: as Llama, with biased query, key and value projections."""

from tandem_checkpoint.architectures.blocks import (
    ATTENTION_NORM,
    ATTENTION_OUTPUT,
    EMBEDDINGS,
    FEED_FORWARD,
    QKV_BIAS,
    QKV_WEIGHT,
)
from tandem_checkpoint.architectures.table import Architecture

QWEN2 = Architecture(
    name="Qwen2ForCausalLM",
    model_rules=EMBEDDINGS,
    layer_rules=(ATTENTION_NORM, QKV_WEIGHT, QKV_BIAS, ATTENTION_OUTPUT, *FEED_FORWARD),
    qkv_bias=True,
)
