"""Offload: parameters, gradients, optimizer state and communicators leave the device, and come back.

A tensor leaves by copying it to host memory and shrinking its storage to nothing; every view of it, Megatron's own
included, is valid again once the storage has grown back. The room in host memory is kept: new pages would cost more
than the copy.

That it has left is measured, not taken for granted: the memory in use must shrink by what had been there.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from megatron.core.optimizer import MegatronOptimizer

from tandem_checkpoint.process.commands import Freed
from tandem_sidecars.megatron.device import Device
from tandem_sidecars.megatron.shortfall import shortfall_bytes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parked:
    """One tensor that has left, and its copy."""

    tensor: torch.Tensor
    host: torch.Tensor


class Offload:
    """Keeps the tensors of a rank's chunks of the model on the device, or parked in host memory."""

    def __init__(self, chunks: Sequence[DistributedDataParallel], optimizer: MegatronOptimizer, device: Device) -> None:
        self._buffers = [buffer for chunk in chunks for buffer in (*chunk.buffers, *chunk.expert_parallel_buffers)]
        self._optimizer = optimizer
        self._device = device
        self._parameters = dict(weights_of(chunks))
        self._parked: list[Parked] = []
        self._places: list[torch.Tensor] = []
        self._shortfall_bytes = 0

    @property
    def parked(self) -> bool:
        return bool(self._parked)

    def leave(self) -> Freed | None:
        """Free the device; return what was measured, None where nothing was there."""
        if self.parked:
            return None
        self._parked = self._park()
        RotaryEmbedding.forward.cache_clear()  # tables for the last 32 lengths, made anew when they are asked for
        self._device.settle()
        expected_bytes = self._device.present_bytes(_storages(self._everything()))
        used_bytes = self._device.used_bytes()
        for item in self._parked:
            item.tensor.untyped_storage().resize_(0)
        for buffer in self._buffers:
            buffer.offload_to_cpu(move_params=False, move_grads=True)
        self._device.suspend_communicators()
        self._device.settle()
        freed = Freed(expected_bytes=expected_bytes, measured_bytes=used_bytes - self._device.used_bytes())
        self._shortfall_bytes = shortfall_bytes(freed, self._device.kept_bytes)
        if self._shortfall_bytes:
            logger.error("the offload freed %d bytes of %d", freed.measured_bytes, freed.expected_bytes)
        return freed

    def come_back(self) -> None:
        """Put everything back where it was."""
        if not self.parked:
            return
        self._device.resume_communicators()
        for item in self._parked:
            item.tensor.untyped_storage().resize_(item.host.untyped_storage().nbytes())
            item.tensor.copy_(item.host, non_blocking=True)
        for buffer in self._buffers:
            buffer.reload_from_cpu(move_params=False, move_grads=True)
        self._device.settle()
        self._parked, self._shortfall_bytes = [], 0

    def held_bytes(self) -> int:
        """Return the device memory held, what should have been freed and was not included."""
        return self._device.held_bytes(self._everything()) + self._shortfall_bytes

    def parameters(self) -> Mapping[str, torch.Tensor]:
        """Return Megatron's parameters by name (see `weights_of`), from wherever they are."""
        hosts = {id(item.tensor): item.host for item in self._parked}
        return {name: hosts.get(id(tensor), tensor) for name, tensor in self._parameters.items()}

    def _park(self) -> list[Parked]:
        """Copy everything that must not be lost into host memory, into the rooms of the last time where they fit."""
        tensors = list(self._movable())
        kept = self._places + [torch.empty(0)] * (len(tensors) - len(self._places))
        self._places = [
            place if place.shape == tensor.shape and place.dtype == tensor.dtype else self._device.parking_place(tensor)
            for place, tensor in zip(kept, tensors, strict=False)
        ]
        for place, tensor in zip(self._places, tensors, strict=True):
            place.copy_(tensor, non_blocking=True)
        return [Parked(tensor, place) for place, tensor in zip(self._places, tensors, strict=True)]

    def _movable(self) -> Iterator[torch.Tensor]:
        """Yield what must not be lost: parameters and optimizer state. Gradients are made anew."""
        yield from self._parameters.values()
        own = {tensor.untyped_storage().data_ptr() for tensor in self._parameters.values()}
        yield from (
            tensor for tensor in state_tensors(self._optimizer) if tensor.untyped_storage().data_ptr() not in own
        )

    def _everything(self) -> Iterator[torch.Tensor]:
        """Yield all that lives on the device, whether or not leaving thinks of it."""
        yield from self._parameters.values()
        yield from state_tensors(self._optimizer)
        yield from (buffer.grad_data for buffer in self._buffers)


def weights_of(chunks: Sequence[DistributedDataParallel]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield all that makes up the chunks' weights: parameters, and the buffers that are saved with them.

    Names are Megatron's, which counts layers within a chunk; where there are several, the chunk's number goes before.
    """
    for number, chunk in enumerate(chunks):
        prefix = f"{number}." if len(chunks) > 1 else ""
        kept = chunk.module.state_dict().keys()
        yield from ((prefix + name, parameter.data) for name, parameter in chunk.module.named_parameters())
        yield from ((prefix + name, buffer) for name, buffer in chunk.module.named_buffers() if name in kept)


def _storages(tensors: Iterable[torch.Tensor]) -> list[torch.UntypedStorage]:
    """Return the storages behind some tensors, each once."""
    return list({storage.data_ptr(): storage for storage in map(torch.Tensor.untyped_storage, tensors)}.values())


def state_tensors(optimizer: MegatronOptimizer) -> Iterator[torch.Tensor]:
    """Yield the optimizer's moments and, in mixed precision, its float32 main parameters."""
    for part in parts_of(optimizer):
        for group in part.param_groups:
            yield from (parameter.data for parameter in group["params"])
        for moments in part.state.values():
            yield from (value for value in moments.values() if torch.is_tensor(value) and value.dim() > 0)


def reset(optimizer: MegatronOptimizer) -> None:
    """Forget the moments, as the report does at the start of each iteration (section 2.3.2).

    Main parameters stay: dropping them would round each iteration's small steps away in bfloat16.
    """
    for part in parts_of(optimizer):
        part.state.clear()
        for group in part.param_groups:
            group.pop("step", None)


def parts_of(optimizer: MegatronOptimizer) -> Iterator[torch.optim.Optimizer]:
    """Yield PyTorch's optimizers: experts may have one of their own."""
    for chained in getattr(optimizer, "chained_optimizers", [optimizer]):
        yield chained.optimizer
