"""Weights between Hugging Face tensors and Megatron parameters, by the family's table.

Megatron's fused query/key/value rows go by key/value group g: [q_(g,0) … q_(g,r-1), k_g, v_g] with r = heads per group.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

from tandem_checkpoint.architectures.config import PolicyConfig, PolicyFolderError
from tandem_checkpoint.architectures.table import NamedRule, Split

Tensors = Mapping[str, torch.Tensor]


def read_folder(folder: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a Hugging Face folder by their on-disk names."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise PolicyFolderError(f"{folder} holds no .safetensors file; save the policy with save_pretrained")
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def to_megatron(rule: NamedRule, tensors: Tensors, policy: PolicyConfig) -> torch.Tensor:
    """Return Megatron's parameter for one rule, from Hugging Face tensors."""
    parts = []
    for name, shape in rule.tensors(policy):
        if name not in tensors:
            raise PolicyFolderError(f"the policy lacks the tensor {name}; save it again with save_pretrained")
        if tuple(tensors[name].shape) != shape:
            raise PolicyFolderError(f"{name} is {tuple(tensors[name].shape)}, config.json says {shape}")
        parts.append(tensors[name])
    if rule.split is Split.QKV:
        groups = policy.num_key_value_heads
        rest = parts[0].shape[1:]
        return torch.cat([part.reshape(groups, -1, *rest) for part in parts], dim=1).reshape(-1, *rest)
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def from_megatron(rule: NamedRule, parameter: torch.Tensor, policy: PolicyConfig) -> tuple[torch.Tensor, ...]:
    """Return the Hugging Face tensors of one rule, in its order; views where the layout allows."""
    match rule.split:
        case Split.WHOLE:
            return (parameter,)
        case Split.HALVES:
            return parameter.chunk(2)
        case Split.QKV:
            rest = parameter.shape[1:]
            dim = policy.head_dim
            queries = policy.num_heads // policy.num_key_value_heads * dim
            grouped = parameter.view(policy.num_key_value_heads, queries + 2 * dim, *rest)
            return tuple(part.reshape(-1, *rest) for part in torch.split(grouped, [queries, dim, dim], dim=1))


def named_tensors(
    rules: Iterator[NamedRule], parameters: Tensors, policy: PolicyConfig
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every Hugging Face tensor of the model with its on-disk name."""
    for rule in rules:
        tensors = from_megatron(rule, parameters[rule.megatron], policy)
        for (name, _), tensor in zip(rule.tensors(policy), tensors, strict=True):
            yield name, tensor
