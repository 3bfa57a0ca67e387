"""The device seam of the trainer: everything that differs between CUDA with NCCL and a CPU with gloo.

CUDA is what Tandem is for; the CPU side runs the same Megatron-Core so that the whole loop can be tested anywhere.
"""

import os
from collections.abc import Iterable
from typing import Protocol

import torch

from tandem_checkpoint.devices import CudaDevices
from tandem_sidecars.megatron import host_memory
from tandem_sidecars.megatron.communicators import Communicators, nccl_communicators

CUDA_KEPT_BYTES = 128 << 20
"""What stays in the caching allocator, whose blocks have 2 MiB or more: Megatron's scalars, rotary frequencies. On an
H100 it was 38 MiB with 417 M parameters in float32."""
CPU_KEPT_BYTES = 4 << 20
"""Pages that small tensors share with others."""


class Device(Protocol):
    """Where a rank computes."""

    @property
    def backend(self) -> str:
        """Backend of torch.distributed."""
        ...

    @property
    def torch_device(self) -> torch.device: ...

    @property
    def kept_bytes(self) -> int:
        """What an empty device may still hold."""
        ...

    def prepare(self) -> None:
        """Make this device the one that Megatron computes on; before any model is built."""
        ...

    def parking_place(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return room for a copy of a tensor outside the device."""
        ...

    def settle(self) -> None:
        """Wait for all work and give cached memory back."""
        ...

    def suspend_communicators(self) -> None:
        """Free the device memory of all communicators; all ranks call it, and none has work under way."""
        ...

    def resume_communicators(self) -> None:
        """Take it back; all ranks call it. Nothing where they are not suspended."""
        ...

    def used_bytes(self) -> int:
        """Return how much of the device's memory is in use, measured from outside: no tensor is asked."""
        ...

    def present_bytes(self, storages: Iterable[torch.UntypedStorage]) -> int:
        """Return how much of some storages is really in the device's memory."""
        ...

    def held_bytes(self, tensors: Iterable[torch.Tensor]) -> int:
        """Return the device memory that is held; `tensors` are those known to live there."""
        ...


class CudaDevice:
    """One GPU of the node, by local rank. What has run on one: see docs/gpu.md."""

    backend = "nccl"
    kept_bytes = CUDA_KEPT_BYTES

    def __init__(self, local_rank: int) -> None:
        self.torch_device = torch.device("cuda", local_rank)
        self._communicators = Communicators(lambda: nccl_communicators(self.torch_device))

    def prepare(self) -> None:
        torch.cuda.set_device(self.torch_device)

    def parking_place(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)

    def settle(self) -> None:
        torch.cuda.synchronize()
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()

    def suspend_communicators(self) -> None:
        torch.cuda.synchronize()
        self._communicators.suspend()

    def resume_communicators(self) -> None:
        self._communicators.resume()

    def used_bytes(self) -> int:
        """Return what the driver says of this process; of the whole device where it does not know our process id."""
        (use,) = CudaDevices(f"GPU-{torch.cuda.get_device_properties(self.torch_device).uuid}").uses()
        return dict(use.by_process).get(os.getpid()) or use.used_bytes

    def present_bytes(self, storages: Iterable[torch.UntypedStorage]) -> int:
        return sum(storage.nbytes() for storage in storages)

    def held_bytes(self, tensors: Iterable[torch.Tensor]) -> int:
        """Return what the caching allocator holds, known tensors or not."""
        reserved_bytes = int(torch.cuda.memory_reserved(self.torch_device))
        return held_of(_size_of(tensors), reserved_bytes, self.kept_bytes)


class CpuDevice:
    """Host memory in the part of a device.

    The device is the process's anonymous memory: there torch allocates. What is parked lies in memory files, which the
    kernel counts as shared. So "free" is measured here too, and a tensor that was forgotten shows.
    """

    backend = "gloo"
    kept_bytes = CPU_KEPT_BYTES
    torch_device = torch.device("cpu")

    def prepare(self) -> None:
        from tandem_sidecars.megatron.cpu import adapt_megatron

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        adapt_megatron()

    def parking_place(self, tensor: torch.Tensor) -> torch.Tensor:
        return host_memory.memory_file(tensor.numel() * tensor.element_size()).view(tensor.dtype).view(tensor.shape)

    def settle(self) -> None:
        host_memory.give_back()

    def suspend_communicators(self) -> None:
        """Nothing: gloo's buffers are in no device."""

    def resume_communicators(self) -> None:
        """Nothing: see suspend_communicators."""

    def used_bytes(self) -> int:
        return host_memory.anonymous_bytes()

    def present_bytes(self, storages: Iterable[torch.UntypedStorage]) -> int:
        """Return what of them has pages: a buffer that was never written has none."""
        return sum(host_memory.present_bytes(storage.data_ptr(), storage.nbytes()) for storage in storages)

    def held_bytes(self, tensors: Iterable[torch.Tensor]) -> int:
        return _size_of(tensors)


def choose_device(kind: str, local_rank: int) -> Device:
    """Return the device of a rank. `kind`: cuda or cpu."""
    return CudaDevice(local_rank) if kind == "cuda" else CpuDevice()


def held_of(known_bytes: int, reserved_bytes: int, kept_bytes: int) -> int:
    """Return what is held: known tensors, and all else that is reserved, unless that is no more than may stay."""
    other_bytes = reserved_bytes - known_bytes
    return known_bytes + (other_bytes if other_bytes > kept_bytes else 0)


def _size_of(tensors: Iterable[torch.Tensor]) -> int:
    """Return the size of the storages behind some tensors, each counted once."""
    sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(sizes.values())
