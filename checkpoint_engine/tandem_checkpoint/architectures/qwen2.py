"""Qwen2: grouped-query attention with biased projections, gated feed-forward, RMS norms."""

from tandem_checkpoint.architectures.table import Architecture, Part, Rows, Rule, Split

_ATTENTION = "model.layers.{layer}.self_attn"
_FEED_FORWARD = "model.layers.{layer}.mlp"
_MEGATRON = "decoder.layers.{layer}"

QWEN2 = Architecture(
    name="Qwen2ForCausalLM",
    model_rules=(
        Rule(
            "embedding.word_embeddings.weight",
            "model.embed_tokens.weight",
            (Part("model.embed_tokens.weight", Rows.VOCABULARY, Rows.HIDDEN),),
        ),
        Rule("decoder.final_layernorm.weight", "model.norm.weight", (Part("model.norm.weight", Rows.HIDDEN),)),
    ),
    untied_rules=(
        Rule("output_layer.weight", "lm_head.weight", (Part("lm_head.weight", Rows.VOCABULARY, Rows.HIDDEN),)),
    ),
    layer_rules=(
        Rule(
            f"{_MEGATRON}.input_layernorm.weight",
            "model.layers.{layer}.input_layernorm.weight",
            (Part("model.layers.{layer}.input_layernorm.weight", Rows.HIDDEN),),
        ),
        Rule(
            f"{_MEGATRON}.self_attention.linear_qkv.weight",
            f"{_ATTENTION}.qkv_proj.weight",
            (
                Part(f"{_ATTENTION}.q_proj.weight", Rows.QUERY, Rows.HIDDEN),
                Part(f"{_ATTENTION}.k_proj.weight", Rows.KEY_VALUE, Rows.HIDDEN),
                Part(f"{_ATTENTION}.v_proj.weight", Rows.KEY_VALUE, Rows.HIDDEN),
            ),
            Split.QKV,
        ),
        Rule(
            f"{_MEGATRON}.self_attention.linear_qkv.bias",
            f"{_ATTENTION}.qkv_proj.bias",
            (
                Part(f"{_ATTENTION}.q_proj.bias", Rows.QUERY),
                Part(f"{_ATTENTION}.k_proj.bias", Rows.KEY_VALUE),
                Part(f"{_ATTENTION}.v_proj.bias", Rows.KEY_VALUE),
            ),
            Split.QKV,
        ),
        Rule(
            f"{_MEGATRON}.self_attention.linear_proj.weight",
            f"{_ATTENTION}.o_proj.weight",
            (Part(f"{_ATTENTION}.o_proj.weight", Rows.HIDDEN, Rows.QUERY),),
        ),
        Rule(
            f"{_MEGATRON}.pre_mlp_layernorm.weight",
            "model.layers.{layer}.post_attention_layernorm.weight",
            (Part("model.layers.{layer}.post_attention_layernorm.weight", Rows.HIDDEN),),
        ),
        Rule(
            f"{_MEGATRON}.mlp.linear_fc1.weight",
            f"{_FEED_FORWARD}.gate_up_proj.weight",
            (
                Part(f"{_FEED_FORWARD}.gate_proj.weight", Rows.INTERMEDIATE, Rows.HIDDEN),
                Part(f"{_FEED_FORWARD}.up_proj.weight", Rows.INTERMEDIATE, Rows.HIDDEN),
            ),
            Split.HALVES,
        ),
        Rule(
            f"{_MEGATRON}.mlp.linear_fc2.weight",
            f"{_FEED_FORWARD}.down_proj.weight",
            (Part(f"{_FEED_FORWARD}.down_proj.weight", Rows.HIDDEN, Rows.INTERMEDIATE),),
        ),
    ),
    qkv_bias=True,
    qk_norm=False,
)
