"""The device seam of the trainer: everything that differs between CUDA with NCCL and a CPU with gloo.

CUDA is what Tandem is for; the CPU side runs the same Megatron-Core so that the whole loop can be tested anywhere.
"""

import os
from collections.abc import Iterable
from typing import Protocol

import torch


class Device(Protocol):
    """Where a rank computes."""

    @property
    def backend(self) -> str:
        """Backend of torch.distributed."""
        ...

    @property
    def torch_device(self) -> torch.device: ...

    def prepare(self) -> None:
        """Make this device the one that Megatron computes on; before any model is built."""
        ...

    def park(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy of a tensor outside the device, in host memory."""
        ...

    def settle(self) -> None:
        """Wait for all work and give cached memory back."""
        ...

    def held_bytes(self, tensors: Iterable[torch.Tensor]) -> int:
        """Return the device memory that is held; `tensors` are those known to live there."""
        ...


class CudaDevice:
    """One GPU of the node, by local rank. Not yet run on a GPU: see docs/gpu.md."""

    backend = "nccl"

    def __init__(self, local_rank: int) -> None:
        self.torch_device = torch.device("cuda", local_rank)

    def prepare(self) -> None:
        torch.cuda.set_device(self.torch_device)

    def park(self, tensor: torch.Tensor) -> torch.Tensor:
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        host.copy_(tensor, non_blocking=True)
        return host

    def settle(self) -> None:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()

    def held_bytes(self, tensors: Iterable[torch.Tensor]) -> int:
        """Return what the caching allocator holds, known tensors or not."""
        return int(torch.cuda.memory_reserved(self.torch_device))


class CpuDevice:
    """Host memory in the part of a device: what is offloaded is really freed, so the same code is exercised."""

    backend = "gloo"
    torch_device = torch.device("cpu")

    def prepare(self) -> None:
        from tandem_sidecars.megatron.cpu import adapt_megatron

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        adapt_megatron()

    def park(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().clone()

    def settle(self) -> None:
        """Host memory is freed at once."""

    def held_bytes(self, tensors: Iterable[torch.Tensor]) -> int:
        sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
        return sum(sizes.values())


def choose_device(kind: str, local_rank: int) -> Device:
    """Return the device of a rank. `kind`: cuda or cpu."""
    return CudaDevice(local_rank) if kind == "cuda" else CpuDevice()
