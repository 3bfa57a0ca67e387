"""Offload: parameters, gradients and optimizer state leave the device, and come back.

A tensor leaves by copying it to host memory and shrinking its storage to nothing; every view of it, Megatron's own
included, is valid again once the storage has grown back.
"""

from collections.abc import Iterator, Mapping

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer

from tandem_sidecars.megatron.device import Device


class Offload:
    """Keeps a model's tensors on the device, or parked in host memory."""

    def __init__(self, model: DistributedDataParallel, optimizer: MegatronOptimizer, device: Device) -> None:
        self._model = model
        self._optimizer = optimizer
        self._device = device
        self._parameters = {name: parameter.data for name, parameter in model.module.named_parameters()}
        self._parked: list[tuple[torch.Tensor, torch.Tensor]] = []

    @property
    def parked(self) -> bool:
        return bool(self._parked)

    def leave(self) -> int:
        """Free the device; return the bytes that are still held there."""
        if not self.parked:
            self._parked = [(tensor, self._device.park(tensor)) for tensor in self._movable()]
            self._device.settle()
            for tensor, _ in self._parked:
                tensor.untyped_storage().resize_(0)
            for buffer in self._model.buffers:
                buffer.offload_to_cpu(move_params=False, move_grads=True)
            self._device.settle()
        return self.held_bytes()

    def come_back(self) -> int:
        """Put everything back where it was; return the bytes held on the device."""
        if self.parked:
            for tensor, host in self._parked:
                tensor.untyped_storage().resize_(host.untyped_storage().nbytes())
                tensor.copy_(host, non_blocking=True)
            for buffer in self._model.buffers:
                buffer.reload_from_cpu(move_params=False, move_grads=True)
            self._device.settle()
            self._parked = []
        return self.held_bytes()

    def held_bytes(self) -> int:
        """Return the device memory held by parameters, gradients and optimizer state."""
        gradients = [buffer.grad_data for buffer in self._model.buffers]
        return self._device.held_bytes([*self._movable(), *gradients])

    def parameters(self) -> Mapping[str, torch.Tensor]:
        """Return Megatron's parameters by name, from wherever they are."""
        hosts = {id(tensor): host for tensor, host in self._parked}
        return {name: hosts.get(id(tensor), tensor) for name, tensor in self._parameters.items()}

    def _movable(self) -> Iterator[torch.Tensor]:
        yield from self._parameters.values()
        own = {tensor.untyped_storage().data_ptr() for tensor in self._parameters.values()}
        yield from (
            tensor for tensor in state_tensors(self._optimizer) if tensor.untyped_storage().data_ptr() not in own
        )


def state_tensors(optimizer: MegatronOptimizer) -> Iterator[torch.Tensor]:
    """Yield the optimizer's moments and, in mixed precision, its float32 main parameters."""
    for part in _parts(optimizer):
        for group in part.param_groups:
            yield from (parameter.data for parameter in group["params"])
        for moments in part.state.values():
            yield from (value for value in moments.values() if torch.is_tensor(value) and value.dim() > 0)


def reset(optimizer: MegatronOptimizer) -> None:
    """Forget the moments, as the report does at the start of each iteration (section 2.3.2).

    Main parameters stay: dropping them would round each iteration's small steps away in bfloat16.
    """
    for part in _parts(optimizer):
        part.state.clear()
        for group in part.param_groups:
            group.pop("step", None)


def _parts(optimizer: MegatronOptimizer) -> Iterator[torch.optim.Optimizer]:
    for chained in getattr(optimizer, "chained_optimizers", [optimizer]):
        yield chained.optimizer
