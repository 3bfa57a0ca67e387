"""What tests ask of a trainer, and how they look at its weights."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from tandem_api.engine import Sample
from tandem_api.job.pods import OptimizerSpec
from tandem_checkpoint.process.commands import Save, Saved, Train
from tests.tandem_sidecars.forge import RankProcess
from tests.tandem_sidecars.policies import WEIGHTS

Tensors = dict[str, torch.Tensor]
SMOOTH = OptimizerSpec(learning_rate=1e-3, epsilon=1e-2)
"""With a large epsilon Adam's step is smooth in the gradient: rounding stays rounding, it does not become a sign."""
LIMIT = 1e-5
"""Nats between transformers and the trainer, float32 on both sides."""
ANY = 100.0
"""For batches whose log-probabilities are of older weights."""


def train(*steps: tuple[Sample, ...], limit: float = LIMIT) -> Train:
    """Return the command to a trainer that is the only rank."""
    return Train(max_logprob_difference=limit, steps=steps, samples_per_step=tuple(len(step) for step in steps))


def weights_in(folder: Path) -> Tensors:
    """Return the weights of a policy's folder, by Hugging Face name."""
    tensors: Tensors = load_file(folder / WEIGHTS)
    return tensors


def weights_of(rank: RankProcess, folder: Path) -> Tensors:
    """Return what a rank holds now, by way of `folder`."""
    rank.ask(Save(path=str(folder)), Saved)
    return weights_in(folder)


def largest_difference(one: Tensors, other: Tensors) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)
