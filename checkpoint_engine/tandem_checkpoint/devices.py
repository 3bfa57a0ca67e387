"""The devices of a pod as their driver sees them: how much memory is in use, whoever uses it.

CUDA is asked through NVML, which makes no CUDA context. A pod on CPUs has no devices to ask.
"""

import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """The memory of one device at one moment."""

    name: str
    used_bytes: int
    by_process: tuple[tuple[int, int], ...]
    """Process id and bytes, as far as the driver tells: in a container it may know no process of others."""

    def __str__(self) -> str:
        owners = ", ".join(f"process {pid} holds {size // MEBIBYTE} MiB" for pid, size in self.by_process)
        return f"{self.name} has {self.used_bytes // MEBIBYTE} MiB in use" + (f" ({owners})" if owners else "")


class Devices(Protocol):
    """The devices that a pod may use."""

    def uses(self) -> Sequence[DeviceUse]:
        """Return how much of each is in use now."""
        ...


class NoDevices:
    """The devices of a pod on CPUs."""

    def uses(self) -> Sequence[DeviceUse]:
        return ()


class CudaDevices:
    """The GPUs that CUDA would see in this process, all of them unless a variable says which."""

    def __init__(self, visible: str | None = None) -> None:
        self._visible = os.environ.get(VISIBLE_VARIABLE) if visible is None else visible

    def uses(self) -> Sequence[DeviceUse]:
        with _nvml() as nvml:
            return tuple(_use_of(nvml, handle) for handle in self._handles(nvml))

    def _handles(self, nvml: Any) -> Iterator[Any]:
        """Yield NVML's handles; the variable names devices by index or by (the beginning of) their id."""
        every = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        if self._visible is None:
            yield from every
            return
        for word in filter(None, (part.strip() for part in self._visible.split(","))):
            if word.isdecimal():
                yield every[int(word)]
            else:
                yield from (handle for handle in every if nvml.nvmlDeviceGetUUID(handle).startswith(word))


def choose_devices(kind: str) -> Devices:
    """Return the devices of a pod. `kind`: cuda or cpu."""
    return CudaDevices() if kind == "cuda" else NoDevices()


@contextmanager
def _nvml() -> Iterator[Any]:
    """NVML, started and ended again. Its package is only there where GPUs are, and says nothing of types."""
    nvml = importlib.import_module("pynvml")
    nvml.nvmlInit()
    try:
        yield nvml
    finally:
        nvml.nvmlShutdown()


def _use_of(nvml: Any, handle: Any) -> DeviceUse:
    # The first version of this answer counts what the driver keeps for itself as in use.
    memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    return DeviceUse(
        name=f"GPU {nvml.nvmlDeviceGetIndex(handle)}",
        used_bytes=int(memory.used),
        by_process=tuple((int(item.pid), int(item.usedGpuMemory or 0)) for item in processes),
    )
