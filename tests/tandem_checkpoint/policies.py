"""Sizes of a small Qwen2, and its config.json."""

import json
from dataclasses import replace
from pathlib import Path

from tandem_checkpoint.architectures.config import PolicyConfig

SMALL = PolicyConfig(
    architecture="Qwen2ForCausalLM",
    num_layers=2,
    hidden=64,
    intermediate=96,
    num_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    vocabulary=70,
    max_positions=128,
    tied_embeddings=False,
    norm_epsilon=1e-6,
    rope_theta=10000.0,
    eos_token_id=2,
)
TIED = replace(SMALL, tied_embeddings=True)


def config_json(policy: PolicyConfig) -> dict[str, object]:
    """What transformers 5 writes for these sizes."""
    return {
        "architectures": [policy.architecture],
        "num_hidden_layers": policy.num_layers,
        "hidden_size": policy.hidden,
        "intermediate_size": policy.intermediate,
        "num_attention_heads": policy.num_heads,
        "num_key_value_heads": policy.num_key_value_heads,
        "head_dim": policy.head_dim,
        "vocab_size": policy.vocabulary,
        "max_position_embeddings": policy.max_positions,
        "tie_word_embeddings": policy.tied_embeddings,
        "rms_norm_eps": policy.norm_epsilon,
        "rope_parameters": {"rope_type": "default", "rope_theta": policy.rope_theta},
        "eos_token_id": policy.eos_token_id,
    }


def write_config(folder: Path, **changes: object) -> Path:
    """Write a config.json with some fields changed; None removes one. Return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    merged = config_json(SMALL) | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in merged.items() if value is not None}))
    return folder
