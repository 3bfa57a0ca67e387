"""Rules that several families share: embeddings, grouped-query attention, gated feed-forward, experts."""

from tandem_checkpoint.architectures.table import Axis, Part, Rule, Split, Stage, When

EMBEDDINGS = (
    Rule(
        "embedding.word_embeddings.weight",
        (Part("model.embed_tokens.weight", Axis.VOCABULARY, Axis.HIDDEN),),
        stage=Stage.FIRST,
    ),
    Rule("decoder.final_layernorm.weight", (Part("model.norm.weight", Axis.HIDDEN),), stage=Stage.LAST),
    Rule(
        "output_layer.weight",
        (Part("lm_head.weight", Axis.VOCABULARY, Axis.HIDDEN),),
        when=When.UNTIED,
        stage=Stage.LAST,
    ),
)
ATTENTION_NORM = Rule(
    "input_layernorm.weight",
    (Part("input_layernorm.weight", Axis.HIDDEN),),
    engine="self_attention.linear_qkv.layer_norm_weight",
)
QKV_WEIGHT = Rule(
    "self_attention.linear_qkv.weight",
    (
        Part("self_attn.q_proj.weight", Axis.QUERY, Axis.HIDDEN),
        Part("self_attn.k_proj.weight", Axis.KEY_VALUE, Axis.HIDDEN),
        Part("self_attn.v_proj.weight", Axis.KEY_VALUE, Axis.HIDDEN),
    ),
    Split.QKV,
    server="self_attn.qkv_proj.weight",
)
QKV_BIAS = Rule(
    "self_attention.linear_qkv.bias",
    (
        Part("self_attn.q_proj.bias", Axis.QUERY),
        Part("self_attn.k_proj.bias", Axis.KEY_VALUE),
        Part("self_attn.v_proj.bias", Axis.KEY_VALUE),
    ),
    Split.QKV,
    server="self_attn.qkv_proj.bias",
)
QK_NORMS = (
    Rule("self_attention.q_layernorm.weight", (Part("self_attn.q_norm.weight", Axis.HEAD),)),
    Rule("self_attention.k_layernorm.weight", (Part("self_attn.k_norm.weight", Axis.HEAD),)),
)
ATTENTION_OUTPUT = Rule(
    "self_attention.linear_proj.weight", (Part("self_attn.o_proj.weight", Axis.HIDDEN, Axis.QUERY),)
)
FEED_FORWARD = (
    Rule(
        "pre_mlp_layernorm.weight",
        (Part("post_attention_layernorm.weight", Axis.HIDDEN),),
        engine="mlp.linear_fc1.layer_norm_weight",
        when=When.DENSE,
    ),
    Rule(
        "mlp.linear_fc1.weight",
        (
            Part("mlp.gate_proj.weight", Axis.INTERMEDIATE, Axis.HIDDEN),
            Part("mlp.up_proj.weight", Axis.INTERMEDIATE, Axis.HIDDEN),
        ),
        Split.HALVES,
        server="mlp.gate_up_proj.weight",
        when=When.DENSE,
    ),
    Rule(
        "mlp.linear_fc2.weight",
        (Part("mlp.down_proj.weight", Axis.HIDDEN, Axis.INTERMEDIATE),),
        when=When.DENSE,
    ),
)
SHARED_EXPERTS = (
    Rule(
        "mlp.shared_experts.linear_fc1.weight",
        (
            Part("mlp.shared_experts.gate_proj.weight", Axis.SHARED_INTERMEDIATE, Axis.HIDDEN),
            Part("mlp.shared_experts.up_proj.weight", Axis.SHARED_INTERMEDIATE, Axis.HIDDEN),
        ),
        Split.HALVES,
        server="mlp.shared_experts.gate_up_proj.weight",
        when=When.SHARED_EXPERTS,
    ),
    Rule(
        "mlp.shared_experts.linear_fc2.weight",
        (Part("mlp.shared_experts.down_proj.weight", Axis.HIDDEN, Axis.SHARED_INTERMEDIATE),),
        when=When.SHARED_EXPERTS,
    ),
)


def experts(module: str, gate: str = "gate_proj", up: str = "up_proj", down: str = "down_proj") -> tuple[Rule, ...]:
    """Return the norm, the router and the experts of a layer, by what a family calls them within the layer."""
    expert = f"{module}.experts.{{expert}}"
    return (
        Rule(
            "pre_mlp_layernorm.weight",
            (Part("post_attention_layernorm.weight", Axis.HIDDEN),),
            when=When.EXPERTS,
        ),
        Rule("mlp.router.weight", (Part(f"{module}.gate.weight", Axis.EXPERTS, Axis.HIDDEN),), when=When.EXPERTS),
        Rule(
            "mlp.experts.local_experts.{expert}.linear_fc1.weight",
            (
                Part(f"{expert}.{gate}.weight", Axis.EXPERT_INTERMEDIATE, Axis.HIDDEN),
                Part(f"{expert}.{up}.weight", Axis.EXPERT_INTERMEDIATE, Axis.HIDDEN),
            ),
            Split.HALVES,
            server=f"{module}.experts.routed_experts.w13_weight",
            engine="mlp.experts.linear_fc1.weight{expert}",
            when=When.EXPERTS,
        ),
        Rule(
            "mlp.experts.local_experts.{expert}.linear_fc2.weight",
            (Part(f"{expert}.{down}.weight", Axis.HIDDEN, Axis.EXPERT_INTERMEDIATE),),
            server=f"{module}.experts.routed_experts.w2_weight",
            engine="mlp.experts.linear_fc2.weight{expert}",
            when=When.EXPERTS,
        ),
    )
