"""The optimizer's state as a Megatron distributed checkpoint: moments and main parameters, for a run that goes on.

Each rank writes what it holds while training goes on, from a copy in host memory. The folder is written aside and put
in its place once every rank has written: it is whole or not there (see tandem_checkpoint/disk/replacing.py). Megatron
names each tensor by its place in the whole model, so that ranks of another layout can load it.

Every function here is collective: all ranks call it in the same order, while the optimizer is on its device.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer

from tandem_checkpoint.disk.replacing import aside_of, replace_folder, sweep, sync
from tandem_sidecars.megatron.offload import reset

METADATA = {"chained_optim_avoid_prefix": True}
"""How Megatron names the tensors: alike, whether experts have an optimizer of their own or not."""
HAS_MOMENTS = "has_moments"
BACKEND = ("torch_dist", 1)


@dataclass(frozen=True, slots=True)
class Saving:
    """A save that is under way; training may go on."""

    folder: Path
    request: AsyncRequest
    written: Future[None]

    def finish(self) -> None:
        """Wait for this rank's files, then put the folder in its place. Raises: OSError of a disk that is full."""
        self.written.result()
        for finalize in self.request.finalize_fns:
            finalize()
        if dist.get_rank() == 0:
            aside = aside_of(self.folder)
            for path in [*aside.iterdir(), aside]:
                sync(path)
            replace_folder(self.folder, aside)
        dist.barrier()


def begin_saving(folder: Path, chunks: Sequence[DistributedDataParallel], optimizer: MegatronOptimizer) -> Saving:
    """Copy the state to host memory and begin to write it; an older folder stays until `finish`."""
    if dist.get_rank() == 0:
        sweep(folder)
        aside_of(folder).mkdir(parents=True)
    dist.barrier()
    has_moments = bool(list(_moments(optimizer)))
    state = {"optimizer": _sharded(chunks, optimizer, is_loading=False)}
    for tensor in _sharded_tensors(state):
        tensor.data = tensor.data.detach().to("cpu", copy=True)
    request = dist_checkpointing.save(
        state,
        str(aside_of(folder)),
        BACKEND,
        async_sharded_save=True,
        content_metadata={**METADATA, HAS_MOMENTS: has_moments},
    )
    assert request is not None
    with ThreadPoolExecutor(1, "write-optimizer") as threads:
        written = threads.submit(_write, request.freeze())
        threads.shutdown(wait=False)
    return Saving(folder, request, written)


def load_optimizer(folder: Path, chunks: Sequence[DistributedDataParallel], optimizer: MegatronOptimizer) -> None:
    """Give the optimizer the state that was saved, whichever ranks held it then."""
    reset(optimizer)
    saved = dist_checkpointing.load_content_metadata(str(folder)) or {}
    state = {"optimizer": _sharded(chunks, optimizer, is_loading=bool(saved.get(HAS_MOMENTS)))}
    loaded = dist_checkpointing.load(state, str(folder))
    optimizer.load_state_dict(loaded["optimizer"])


def _write(request: AsyncRequest) -> None:
    """Write this rank's files."""
    arguments = list(request.async_fn_args)
    if request.preload_fn:
        arguments[1] = request.preload_fn()
    if request.async_fn is not None:
        request.async_fn(*arguments, **(request.async_fn_kwargs or {}))


def _sharded(
    chunks: Sequence[DistributedDataParallel], optimizer: MegatronOptimizer, is_loading: bool
) -> dict[str, Any]:
    """Return the optimizer's state, each tensor with its place in the whole model's."""
    model = {number: chunk.module.sharded_state_dict() for number, chunk in enumerate(chunks)}
    sharded: dict[str, Any] = optimizer.sharded_state_dict(model, is_loading=is_loading, metadata=METADATA)
    return sharded


def _sharded_tensors(state: dict[str, Any]) -> Iterator[ShardedTensor]:
    return (value for value in nested_values(state) if isinstance(value, ShardedTensor))


def _moments(optimizer: MegatronOptimizer) -> Iterator[torch.Tensor]:
    """Yield the moments; none before the first step and after they are forgotten."""
    parts = getattr(optimizer, "chained_optimizers", [optimizer])
    return (value for part in parts for item in part.optimizer.state.values() for value in item.values())
