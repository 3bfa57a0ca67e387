"""The sizes of a policy, from what transformers writes."""

from pathlib import Path

import pytest

from tandem_checkpoint.architectures import UnsupportedArchitecture, architecture_of
from tandem_checkpoint.architectures.block_scales import BlockScales
from tandem_checkpoint.architectures.config import PolicyFolderError, read_policy_config
from tandem_checkpoint.architectures.features import RopeKind, RopeScaling
from tests.tandem_checkpoint.policies import SMALL, write_config

FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
LATENT = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "moe_intermediate_size": 32,
    "num_experts_per_tok": 4,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
}
"""What DeepSeek-V3's config.json has beside the rest."""


def test_every_size_is_read(tmp_path: Path) -> None:
    assert read_policy_config(write_config(tmp_path)) == SMALL


def test_the_head_size_follows_from_the_hidden_size_where_it_is_absent(tmp_path: Path) -> None:
    assert read_policy_config(write_config(tmp_path, head_dim=None)).head_dim == SMALL.hidden // SMALL.num_heads


def test_without_groups_every_head_has_its_own_key(tmp_path: Path) -> None:
    folder = write_config(tmp_path, num_key_value_heads=None)

    assert read_policy_config(folder).num_key_value_heads == SMALL.num_heads


def test_the_older_place_of_rope_theta_is_read(tmp_path: Path) -> None:
    folder = write_config(tmp_path, rope_parameters=None, rope_theta=1000000.0)

    assert read_policy_config(folder).rope_theta == 1000000.0


def test_the_first_of_several_end_tokens_counts(tmp_path: Path) -> None:
    assert read_policy_config(write_config(tmp_path, eos_token_id=[5, 6])).eos_token_id == 5


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_type yarn is not supported for this family"),
        (
            {"rope_parameters": None, "rope_scaling": {"type": "dynamic"}},
            "rope_type dynamic is not supported for this family",
        ),
        ({"partial_rotary_factor": 0.5}, "a partial rotary is not supported"),
        ({"hidden_act": "gelu"}, "the activation gelu is not supported"),
        ({"architectures": ["LlamaForCausalLM"], "attention_bias": True}, "attention_bias is not supported"),
        ({"architectures": ["LlamaForCausalLM"], "mlp_bias": True}, "mlp_bias is not supported"),
        ({"use_sliding_window": True, "sliding_window": 32}, "a sliding window of 32 positions is not supported"),
        ({"architectures": ["MixtralForCausalLM"], "sliding_window": 32}, "a sliding window of 32 positions"),
        ({"quantization_config": {"quant_method": "awq"}}, "the weights are quantized .awq, blocks None."),
        ({"quantization_config": FP8 | {"weight_block_size": [64, 64]}}, "the weights are quantized .fp8, blocks .64"),
        ({"quantization_config": FP8 | {"fmt": "e5m2"}}, "quantization_config.fmt is e5m2; use e4m3"),
        ({"quantization_config": FP8 | {"activation_scheme": "static"}}, "activation_scheme is static; use dynamic"),
        (LATENT | {"norm_topk_prob": False}, "norm_topk_prob: false with sigmoid scores is not supported"),
        (LATENT | {"scoring_func": "softmax"}, "scoring_func softmax is not supported"),
        (LATENT | {"num_experts_per_tok": 6}, "num_experts_per_tok is 6 with topk_group 2; .* use 4 experts a token"),
        (LATENT | {"rope_interleave": False}, "rope_interleave: false is not supported"),
        (LATENT | {"rope_parameters": {"rope_type": "llama3"}}, "use one of default, yarn"),
    ],
)
def test_what_is_not_computed_here_is_refused_in_a_line(
    tmp_path: Path, changes: dict[str, object], problem: str
) -> None:
    with pytest.raises(PolicyFolderError, match=problem) as refused:
        read_policy_config(write_config(tmp_path, **changes))

    assert "\n" not in str(refused.value)


def test_a_window_that_is_not_used_is_none(tmp_path: Path) -> None:
    assert read_policy_config(write_config(tmp_path, use_sliding_window=False, sliding_window=32)) == SMALL


def test_a_window_of_all_positions_is_none(tmp_path: Path) -> None:
    assert read_policy_config(write_config(tmp_path, use_sliding_window=True, sliding_window=128)) == SMALL


def test_the_constants_of_scaled_positions_are_the_policys(tmp_path: Path) -> None:
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 2.0, "high_freq_factor": 5.0}
    rope["original_max_position_embeddings"] = 64

    policy = read_policy_config(write_config(tmp_path, rope_parameters=rope))

    assert policy.rope_scaling == RopeScaling(RopeKind.LLAMA3, 8.0, 64, low_freq_factor=2.0, high_freq_factor=5.0)


def test_yarn_without_its_own_constants_has_those_of_transformers(tmp_path: Path) -> None:
    rope = {"type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096}

    policy = read_policy_config(write_config(tmp_path, **LATENT, rope_scaling=rope, rope_parameters=None))

    assert policy.rope_scaling == RopeScaling(RopeKind.YARN, 40.0, 4096)


def test_fp8_in_blocks_is_told(tmp_path: Path) -> None:
    assert read_policy_config(write_config(tmp_path, quantization_config=FP8)).block_scales == BlockScales()


def test_what_is_left_out_of_fp8_is_told(tmp_path: Path) -> None:
    quantization = FP8 | {"modules_to_not_convert": ["lm_head"], "scale_fmt": "ue8m0"}

    policy = read_policy_config(write_config(tmp_path, quantization_config=quantization))

    assert policy.block_scales == BlockScales(skipped=frozenset({"lm_head"}), has_powers_of_two=True)


@pytest.mark.parametrize("field", ["num_experts", "num_local_experts"])
def test_experts_are_counted_under_both_names(tmp_path: Path, field: str) -> None:
    folder = write_config(
        tmp_path,
        architectures=["Qwen3MoeForCausalLM"],
        num_hidden_layers=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        decoder_sparse_step=2,
        mlp_only_layers=[3],
        **{field: 8},
    )

    policy = read_policy_config(folder)

    assert policy.num_experts == 8
    assert [policy.is_moe_layer(layer) for layer in range(4)] == [False, True, False, False]


def test_latent_attention_and_shared_experts_are_read(tmp_path: Path) -> None:
    policy = read_policy_config(write_config(tmp_path, **LATENT))

    assert (policy.head_dim, policy.v_head_dim, policy.q_lora_rank) == (24, 8, 0)
    assert (policy.shared_intermediate, policy.expert_groups, policy.groups_per_token) == (64, 4, 2)
    assert [policy.is_moe_layer(layer) for layer in range(2)] == [False, True]


def test_a_field_of_a_family_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyFolderError, match="lacks 'kv_lora_rank'"):
        read_policy_config(write_config(tmp_path, **LATENT | {"kv_lora_rank": None}))


@pytest.mark.parametrize("field", ["vocab_size", "num_attention_heads", "architectures", "rms_norm_eps"])
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    folder = write_config(tmp_path, **{field: None})

    with pytest.raises(PolicyFolderError, match=field):
        read_policy_config(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyFolderError, match="nowhere is not a folder"):
        read_policy_config(tmp_path / "nowhere")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyFolderError, match=r"config\.json is missing"):
        read_policy_config(tmp_path)


def test_a_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")

    with pytest.raises(PolicyFolderError, match=r"config\.json is not JSON"):
        read_policy_config(tmp_path)


def test_a_file_that_holds_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[]")

    with pytest.raises(PolicyFolderError, match=r"config\.json is no JSON object; write the folder again"):
        read_policy_config(tmp_path)


def test_a_list_of_no_architecture_is_as_good_as_none(tmp_path: Path) -> None:
    with pytest.raises(PolicyFolderError, match=r"config\.json lacks 'architectures'; write the folder again"):
        read_policy_config(write_config(tmp_path, architectures=[]))


def test_a_family_without_a_table_is_told_which_have_one() -> None:
    with pytest.raises(UnsupportedArchitecture, match="is MambaForCausalLM, which has no table; use one of Deep"):
        architecture_of("MambaForCausalLM")
