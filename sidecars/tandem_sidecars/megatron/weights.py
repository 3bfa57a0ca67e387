"""Weights between Hugging Face tensors and a rank's parameters, strip by strip."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from tandem_checkpoint.layouts.shares import Region
from tandem_checkpoint.layouts.strip import LocalParameter, Strip

Tensors = Mapping[str, torch.Tensor]


def fill(parameters: Tensors, local: Sequence[LocalParameter], box: Callable[[Strip], torch.Tensor]) -> None:
    """Copy boxes of Hugging Face tensors into a rank's parameters; rows that only pad become zero."""
    check_names(parameters, local)
    with torch.no_grad():
        for item in local:
            target = cleared(parameters[item.name], item)
            for strip in item.strips:
                target[strip.in_parameter].copy_(box(strip))


def check_names(parameters: Tensors, local: Iterable[LocalParameter]) -> None:
    """Raise ValueError unless the model has just the parameters that the family's table says, in their shapes."""
    wanted = {item.name: item.shape for item in local}
    found = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    if wanted != found:
        odd = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise ValueError(f"the family's table differs from the model in {odd[:3]}")


def cleared(parameter: torch.Tensor, local: LocalParameter) -> torch.Tensor:
    """Return a parameter without its history, zero where strips will leave padding."""
    target = parameter.detach()
    if sum(strip.size for strip in local.strips) < target.numel():
        target.zero_()
    return target


def box_of(region: Region, parameters: Tensors) -> torch.Tensor:
    """Return a box of a Hugging Face tensor from a rank's parameter; a view where it lies together there."""
    parameter = parameters[region.parameter].detach()
    parts = [parameter[strip.in_parameter] for strip in region.strips]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
