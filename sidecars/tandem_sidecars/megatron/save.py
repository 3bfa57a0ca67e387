"""The policy as a Hugging Face folder: written aside, synced, renamed, so a half-written one is never seen."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

SHARED_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""Files of the initial policy that hold for every generation."""


def save_folder(folder: Path, origin: Path, tensors: Mapping[str, torch.Tensor]) -> int:
    """Write tensors, configuration and tokenizer; return the size of the weights. An older folder is replaced."""
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for name in SHARED_FILES:
        if (origin / name).is_file():
            shutil.copyfile(origin / name, aside / name)
    weights = aside / "model.safetensors"
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, weights, {"format": "pt"})
    _sync(aside)
    num_bytes = weights.stat().st_size
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        aside.rename(folder)
        shutil.rmtree(old)
    else:
        aside.rename(folder)
    return num_bytes


def _sync(folder: Path) -> None:
    for path in [*folder.iterdir(), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
