"""Tiny random Qwen2 policies, and what transformers makes of them: the reference of every parity check."""

import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tandem_api.engine import Sample

VOCABULARY = 64
HEAD_DIM = 32
WEIGHTS = "model.safetensors"


def write_policy(folder: Path, *, tied: bool, vocabulary: int = VOCABULARY) -> Path:
    """Make a policy whose norms and biases matter; return its folder."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(11)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=4 * HEAD_DIM,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                parameter.normal_(std=0.5)
            else:
                parameter.normal_(std=0.12)
    model.save_pretrained(folder)
    return folder


def changed_policy(policy: Path, folder: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    """Write a copy of a policy with some tensors replaced; return its folder."""
    shutil.copytree(policy, folder)
    merged = {**load_file(policy / WEIGHTS), **tensors}
    save_file({name: tensor.contiguous() for name, tensor in merged.items()}, folder / WEIGHTS, {"format": "pt"})
    return folder


def logprobs(
    policy: Path, token_ids: Sequence[int], temperature: float = 1.0, dtype: torch.dtype = torch.float32
) -> tuple[float, ...]:
    """Return what transformers gives each token but the first, in nats, computed in a number format."""
    return logprobs_by(load_policy(policy, dtype), token_ids, temperature, dtype)


def logprobs_by(model: Any, token_ids: Sequence[int], temperature: float, dtype: torch.dtype) -> tuple[float, ...]:
    """Return what a model gives each token but the first, in nats."""
    ids = torch.tensor([list(token_ids)])
    with torch.no_grad():
        logits = model(ids).logits[0, :-1].to(dtype) / temperature
    return tuple(logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0].tolist())


def samples_of(
    policy: Path,
    seed: int = 0,
    num_samples: int = 6,
    temperature: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Sample, ...]:
    """Return responses of different lengths as if `policy` had sampled them, with rewards of both signs."""
    generator = torch.Generator().manual_seed(seed)
    model = load_policy(policy, dtype)
    return tuple(_sample(model, generator, index, temperature, dtype) for index in range(num_samples))


def _sample(model: Any, generator: torch.Generator, index: int, temperature: float, dtype: torch.dtype) -> Sample:
    prompt, response = 3 + index % 3, 4 + 5 * index % 7
    token_ids = torch.randint(3, VOCABULARY, (prompt + response,), generator=generator).tolist()
    return Sample(
        token_ids=tuple(token_ids),
        first_loss_token=prompt,
        sampled_logprobs=logprobs_by(model, token_ids, temperature, dtype)[prompt - 1 :],
        advantage=0.5 if index % 2 else -0.5,
    )


def load_policy(policy: Path, dtype: torch.dtype) -> Any:
    """Return transformers' model of a policy in a number format."""
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoModelForCausalLM.from_pretrained(policy, dtype=dtype, experts_implementation="eager").eval()
