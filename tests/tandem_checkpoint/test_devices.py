"""What the driver says of a pod's devices, read off a driver that is not there."""

import sys
from types import SimpleNamespace

import pytest

from tandem_checkpoint.devices import CudaDevices, DeviceUse, NoDevices, choose_devices

GIBIBYTE = 1 << 30


class Driver:
    """NVML's functions over two devices."""

    def __init__(self) -> None:
        self.num_open = 0

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's name
        self.num_open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802 - NVML's name
        self.num_open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802 - NVML's name
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802 - NVML's name
        return index

    def nvmlDeviceGetIndex(self, handle: int) -> int:  # noqa: N802 - NVML's name
        return handle

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802 - NVML's name
        return f"GPU-{'ab'[handle]}123"

    nvmlMemory_v2 = 2  # noqa: N815 - NVML's name

    def nvmlDeviceGetMemoryInfo(self, handle: int, version: int) -> SimpleNamespace:  # noqa: N802 - NVML's name
        reserved = 0 if version == self.nvmlMemory_v2 else GIBIBYTE
        return SimpleNamespace(used=(handle + 1) * GIBIBYTE + reserved)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[SimpleNamespace]:  # noqa: N802 - NVML's name
        return [SimpleNamespace(pid=7, usedGpuMemory=None)] if handle else [SimpleNamespace(pid=6, usedGpuMemory=512)]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    return driver


FIRST = DeviceUse("GPU 0", GIBIBYTE, ((6, 512),))
SECOND = DeviceUse("GPU 1", 2 * GIBIBYTE, ((7, 0),))


@pytest.mark.parametrize(
    ("visible", "uses"),
    [
        ("0,1", (FIRST, SECOND)),
        ("1", (SECOND,)),
        ("GPU-b123", (SECOND,)),
        ("GPU-a", (FIRST,)),
        ("", ()),
    ],
)
def test_only_visible_devices_are_asked(driver: Driver, visible: str, uses: tuple[DeviceUse, ...]) -> None:
    assert CudaDevices(visible).uses() == uses
    assert driver.num_open == 0


def test_all_are_asked_where_nothing_says_which(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    assert CudaDevices().uses() == (FIRST, SECOND)


def test_a_pod_on_cpus_has_none() -> None:
    assert choose_devices("cpu").uses() == ()
    assert isinstance(choose_devices("cpu"), NoDevices)
    assert isinstance(choose_devices("cuda"), CudaDevices)


def test_a_use_says_who_holds_how_much() -> None:
    assert str(DeviceUse("GPU 0", 3 << 30, ((6, 2 << 30),))) == "GPU 0 has 3072 MiB in use (process 6 holds 2048 MiB)"
