"""Tiny random policies of every family, with nothing left at its default, as Hugging Face folders.

Weights are scaled so that logits spread like a trained model's (a standard deviation of 2 to 4), norms lie between 0.5
and 1.5 and every bias matters: a mistake in any tensor moves log-probabilities by far more than rounding does.
Embeddings are twice as large as what a layer adds to them. With small ones float32 itself is off by 2e-5 nats, in
transformers as anywhere (both measured against float64), and parity to 1e-5 would say nothing.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

FAMILIES = ("llama", "qwen2", "qwen3", "mixtral", "qwen3_moe", "deepseek_v3")
MIXTURES = ("mixtral", "qwen3_moe", "deepseek_v3")
"""Families with experts."""
VOCABULARY = 64
WEIGHTS = "model.safetensors"
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
"""rope_parameters of Llama 3.1 for a model first trained on 64 positions."""
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 32,
}
"""rope_parameters as DeepSeek-V3 has them, for a model first trained on 32 positions."""
SPREAD, TIED_SPREAD = 3.0, 2.0
"""Standard deviations of the logits, about."""
EMBEDDING = 2.0
"""Standard deviation of an embedding's numbers."""

FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
"""quantization_config of DeepSeek-V3."""
FP8_SIZES: Mapping[str, Mapping[str, Any]] = {
    "qwen3": {
        "hidden_size": 192,
        "intermediate_size": 256,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "head_dim": 32,
    },
    "qwen3_moe": {
        "hidden_size": 192,
        "moe_intermediate_size": 256,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "head_dim": 32,
    },
    "deepseek_v3": {
        "intermediate_size": 256,
        "moe_intermediate_size": 256,
        "q_lora_rank": 128,
        "v_head_dim": 64,
        "n_routed_experts": 8,
    },
}
"""Arguments with which two ranks of a server cut no block; the last blocks of a matrix may be smaller."""

_SIZES: Mapping[str, Mapping[str, Any]] = {
    "llama": {"hidden_size": 128, "intermediate_size": 192, "num_key_value_heads": 4},
    "qwen2": {"hidden_size": 128, "intermediate_size": 192, "num_key_value_heads": 2},
    "qwen3": {"hidden_size": 96, "intermediate_size": 192, "num_key_value_heads": 2, "head_dim": 32},
    "mixtral": {
        "hidden_size": 128,
        "intermediate_size": 96,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
    "qwen3_moe": {
        "hidden_size": 96,
        "intermediate_size": 128,
        "moe_intermediate_size": 64,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
    },
    "deepseek_v3": {
        "hidden_size": 128,
        "intermediate_size": 192,
        "moe_intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_key_value_heads": 4,
        "q_lora_rank": 48,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 64,
        "v_head_dim": 32,
        "n_routed_experts": 12,
        "n_shared_experts": 2,
        "n_group": 4,
        "topk_group": 2,
        "num_experts_per_tok": 4,
        "first_k_dense_replace": 1,
        "routed_scaling_factor": 2.5,
        "num_nextn_predict_layers": 0,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
    },
}
"""By family: arguments of its configuration. vLLM's CPU build takes latents only of 512 with 64 rotary dimensions."""
_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "dtype": "float32",
}


def write_policy(folder: Path, family: str, *, tied: bool = False, seed: int = 0, **sizes: Any) -> Path:
    """Make a policy of a family; return its folder.

    Args: sizes: arguments of the family's configuration in transformers, such as `vocab_size=70`, `q_lora_rank=None`,
        `norm_topk_prob=False` or `rope_parameters=LLAMA3_ROPE`.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    fields = {**_DEFAULTS, **_SIZES[family], **sizes}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, tie_word_embeddings=tied, **fields), dtype=torch.float32
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            fill = _filling(name, tensor, tied)
            if fill is not None:
                fill(tensor, generator)
    model.save_pretrained(folder)
    _write_tokenizer(folder, fields["vocab_size"])
    return folder


def write_block_scales(policy: Path, folder: Path) -> Path:
    """Write a policy as DeepSeek-V3 is published, matrices in FP8 with scales, and change the policy to the same
    numbers in float32. Return the folder."""
    from safetensors.torch import load_file, save_file

    from tandem_checkpoint.architectures.block_scales import SCALES
    from tandem_sidecars.block_scales import dequantise, quantise

    stored: dict[str, torch.Tensor] = {}
    plain = load_file(policy / WEIGHTS)
    for name, tensor in plain.items():
        stored[name] = tensor
        if name.endswith(("_proj.weight", "_proj_with_mqa.weight")):
            stored[name], stored[name + SCALES] = quantise(tensor)
            plain[name] = dequantise(stored[name], stored[name + SCALES])
    save_file(plain, policy / WEIGHTS, {"format": "pt"})
    shutil.copytree(policy, folder)
    save_file(stored, folder / WEIGHTS, {"format": "pt"})
    config = json.loads((policy / "config.json").read_text())
    routers = [name.removesuffix(".weight") for name in plain if name.endswith(".gate.weight")]
    config["quantization_config"] = {**FP8, "modules_to_not_convert": ["lm_head", *routers]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _filling(name: str, tensor: torch.Tensor, tied: bool) -> Callable[[torch.Tensor, torch.Generator], object] | None:
    """Return what fills a tensor with random numbers by its name; None for one that is computed from sizes."""
    if "norm" in name:
        return lambda it, generator: it.uniform_(0.5, 1.5, generator=generator)
    if name.endswith("e_score_correction_bias"):
        return lambda it, generator: it.normal_(std=0.3, generator=generator)
    if name.endswith("bias"):
        return lambda it, generator: it.normal_(std=0.5, generator=generator)
    if name.endswith("inv_freq"):
        return None
    if "embed" in name and not tied:
        return lambda it, generator: it.normal_(std=EMBEDDING, generator=generator)
    gain = TIED_SPREAD if tied and "embed" in name else SPREAD if "lm_head" in name else 1.0
    return lambda it, generator: it.normal_(std=gain * tensor.shape[-1] ** -0.5, generator=generator)


def _write_tokenizer(folder: Path, vocabulary: int) -> None:
    """Write a tokenizer of as many words as the policy has: one word, one token."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    special = ["<unk>", "<bos>", "<eos>"]
    words = {word: number for number, word in enumerate(special)}
    words |= {f"w{number}": number for number in range(len(special), vocabulary)}
    tokenizer = Tokenizer(WordLevel(words, unk_token=special[0]))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": special[0], "eos_token": special[2]}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
