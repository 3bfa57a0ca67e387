"""What a server's model really holds, parameter by parameter: as its kernels read it, whatever was bound or copied."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from tandem_checkpoint.architectures.config import read_policy_config
from tandem_checkpoint.layouts.place import ServerPlace
from tandem_checkpoint.layouts.server import server_layout
from tandem_checkpoint.layouts.strip import LocalParameter
from tandem_checkpoint.process.commands import Fingerprinted
from tandem_sidecars.fingerprint import fingerprints_of
from tandem_sidecars.vllm.derived import Derived, derived_parameters


def examine(model: nn.Module, policy: Path, place: ServerPlace) -> Fingerprinted:
    """Return the fingerprints of a rank's parameters, and what of its model is in no form to take any of."""
    parameters = dict(model.named_parameters())
    derived = derived_parameters(model)
    local = server_layout(read_policy_config(policy), place)
    odd = {item.name for item in local if not _is_as_laid_out(item, parameters.get(item.name))}
    held = [(item, parameters[item.name]) for item in local if item.name not in odd]
    formats = {strip.tensor: parameter.dtype for item, parameter in held for strip in item.strips}
    misfits = [f"{name} was repacked or is gone" for name in sorted(odd)]
    return Fingerprinted(boxes=fingerprints_of(held, formats), misfits=(*misfits, *_stale(derived)))


def _is_as_laid_out(local: LocalParameter, parameter: torch.Tensor | None) -> bool:
    return parameter is not None and tuple(parameter.shape) == local.shape


def _stale(derived: Sequence[Derived]) -> list[str]:
    """Return which tensors that are made of weights are not those of the weights that are there, in words."""
    return [
        f"{item.name} is not made of the weights that are there"
        for item in derived
        if not torch.equal(item.parameter, item.value())
    ]
