"""Mixtral: Llama's attention; every layer has experts, whose tensors go by numbers: w1 gate, w3 up, w2 down."""

from tandem_checkpoint.architectures.blocks import ATTENTION_NORM, ATTENTION_OUTPUT, EMBEDDINGS, QKV_WEIGHT, experts
from tandem_checkpoint.architectures.table import Architecture

MIXTRAL = Architecture(
    name="MixtralForCausalLM",
    model_rules=EMBEDDINGS,
    layer_rules=(
        ATTENTION_NORM,
        QKV_WEIGHT,
        ATTENTION_OUTPUT,
        *experts("block_sparse_moe", gate="w1", up="w3", down="w2"),
    ),
    server_ends_everywhere=True,
)
