"""Collectives over parts of different sizes, which NCCL takes and gloo does not: experts get what tokens choose."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist


def take_uneven_parts() -> None:
    """Have torch's gather and scatter take parts of different sizes from now on, whatever the backend."""
    dist.all_gather = _gather(dist.all_gather)
    dist.reduce_scatter = _scatter(dist.reduce_scatter)


def _gather(even: Callable[..., Any]) -> Callable[..., Any]:
    """Return all_gather where the parts' first axes may differ."""

    def all_gather(
        parts: Sequence[torch.Tensor], own: torch.Tensor, group: dist.ProcessGroup | None = None, **options: Any
    ) -> Any:
        if len({part.shape for part in parts}) == 1:
            return even(parts, own, group=group, **options)
        parts[dist.get_rank(group)].copy_(own)
        for source, part in enumerate(parts):
            dist.broadcast(part, group=group, group_src=source)
        return None

    return all_gather


def _scatter(even: Callable[..., Any]) -> Callable[..., Any]:
    """Return reduce_scatter where the parts' first axes may differ."""

    def reduce_scatter(
        own: torch.Tensor,
        parts: Sequence[torch.Tensor],
        op: Any = dist.ReduceOp.SUM,
        group: dist.ProcessGroup | None = None,
        **options: Any,
    ) -> Any:
        if len({part.shape for part in parts}) == 1:
            return even(own, [part.contiguous() for part in parts], op=op, group=group, **options)
        for target, part in enumerate(parts):
            summed = part.clone()
            dist.all_reduce(summed, op=op, group=group)
            if target == dist.get_rank(group):
                own.copy_(summed)
        return None

    return reduce_scatter
