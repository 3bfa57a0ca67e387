"""The policies that are measured: example 01's tiny one, and a large one with random weights."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tests.tandem_sidecars.generations import Generation, write_generation

EXAMPLE = Path(__file__).parents[2] / "examples" / "01-reverse-digits"
SHARED_MEMORY = "/dev/shm"
CHANGED = "model.norm.weight"
"""Differs between the two generations; the last norm scales all logits."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy as a Hugging Face folder, and two generations of it in segments."""

    folder: Path
    num_parameters: int
    generations: tuple[Generation, Generation]

    @property
    def num_bytes(self) -> int:
        """Return the size of one segment."""
        return self.generations[0].layout.num_bytes


def make_toy(folder: Path) -> Path:
    """Make example 01's policy and problems by its own script; return the folder of both."""
    script = EXAMPLE / "make_policy.py"
    subprocess.run([sys.executable, str(script), "--out", str(folder)], check=True, capture_output=True)
    return folder


def make_large(folder: Path, toy: Path) -> Path:
    """Write a Qwen2 of 418 million random float32 parameters with the toy's tokenizer, enlarged; return its folder."""
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.manual_seed(3)
    config = Qwen2Config(
        vocab_size=25_600,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_key_value_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        dtype="float32",
        bos_token_id=1,
        eos_token_id=2,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    shutil.copy(toy / "policy" / "tokenizer_config.json", folder)
    tokenizer = json.loads((toy / "policy" / "tokenizer.json").read_text())
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    vocabulary |= {f"<more{number}>": number for number in range(len(vocabulary), config.vocab_size)}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


@contextmanager
def in_segments(folder: Path) -> Iterator[Policy]:
    """Give a policy with two generations, which answer differently, in segments that go with the context."""
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    newer: Mapping[str, torch.Tensor] = {**tensors, CHANGED: tensors[CHANGED] * 0.5}
    num_parameters = sum(tensor.numel() for tensor in tensors.values())
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY, prefix="tandem-bench-") as memory:
        older = write_generation(folder, tensors, Path(memory), 0)
        generations = (older, write_generation(folder, newer, Path(memory), 1))
        del tensors, newer
        yield Policy(folder, num_parameters, generations)
