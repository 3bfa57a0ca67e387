"""DeepSeek-V3: latent attention, the first layers dense, then routed and shared experts and a bias to the router."""

from tandem_checkpoint.architectures.blocks import EMBEDDINGS, FEED_FORWARD, SHARED_EXPERTS, experts
from tandem_checkpoint.architectures.table import Architecture, Axis, Part, Rule, When

_KEY_VALUE_DOWN = (Part("self_attn.kv_a_proj_with_mqa.weight", Axis.KEY_VALUE_DOWN, Axis.HIDDEN),)
_LATENT_ATTENTION = (
    Rule("input_layernorm.weight", (Part("input_layernorm.weight", Axis.HIDDEN),)),
    Rule(
        "self_attention.linear_q_proj.weight",
        (Part("self_attn.q_proj.weight", Axis.LATENT_QUERY, Axis.HIDDEN),),
        when=When.NO_QUERY_RANK,
    ),
    Rule("self_attention.linear_kv_down_proj.weight", _KEY_VALUE_DOWN, when=When.NO_QUERY_RANK),
    Rule(
        "self_attention.linear_q_down_proj.weight",
        (Part("self_attn.q_a_proj.weight", Axis.QUERY_DOWN, Axis.HIDDEN),),
        server="self_attn.fused_qkv_a_proj.weight",
        when=When.QUERY_RANK,
    ),
    Rule(
        "self_attention.linear_kv_down_proj.weight",
        _KEY_VALUE_DOWN,
        server="self_attn.fused_qkv_a_proj.weight",
        when=When.QUERY_RANK,
    ),
    Rule(
        "self_attention.q_layernorm.weight",
        (Part("self_attn.q_a_layernorm.weight", Axis.QUERY_RANK),),
        engine="self_attention.linear_q_up_proj.layer_norm_weight",
        when=When.QUERY_RANK,
    ),
    Rule(
        "self_attention.linear_q_up_proj.weight",
        (Part("self_attn.q_b_proj.weight", Axis.LATENT_QUERY, Axis.QUERY_RANK),),
        when=When.QUERY_RANK,
    ),
    Rule(
        "self_attention.kv_layernorm.weight",
        (Part("self_attn.kv_a_layernorm.weight", Axis.KEY_VALUE_RANK),),
        engine="self_attention.linear_kv_up_proj.layer_norm_weight",
    ),
    Rule(
        "self_attention.linear_kv_up_proj.weight",
        (Part("self_attn.kv_b_proj.weight", Axis.LATENT_KEY_VALUE, Axis.KEY_VALUE_RANK),),
    ),
    Rule(
        "self_attention.linear_proj.weight",
        (Part("self_attn.o_proj.weight", Axis.HIDDEN, Axis.LATENT_VALUE),),
    ),
)
_ROUTER_BIAS = Rule(
    "mlp.router.expert_bias",
    (Part("mlp.gate.e_score_correction_bias", Axis.EXPERTS),),
    when=When.EXPERTS,
    is_buffer=True,
    dtype="float32",
)

DEEPSEEK_V3 = Architecture(
    name="DeepseekV3ForCausalLM",
    model_rules=EMBEDDINGS,
    layer_rules=(*_LATENT_ATTENTION, *FEED_FORWARD, *experts("mlp"), _ROUTER_BIAS, *SHARED_EXPERTS),
    qk_norm=True,
)
