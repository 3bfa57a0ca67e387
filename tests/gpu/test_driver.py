"""What the driver says of the devices."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tandem_checkpoint.devices import CudaDevices
from tandem_checkpoint.gpu_token import GpuToken

SIZE = 8 << 30
"""More than what a process may keep that has offloaded."""
NEAR = 256 << 20
HOLDER_PROGRAM = f"""
import sys, torch
held = torch.empty({SIZE}, dtype=torch.uint8, device="cuda")
print(flush=True)
sys.stdin.read()
"""


@contextmanager
def holder() -> Iterator[int]:
    """Have another process hold device memory; give its process id."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER_PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def used_bytes() -> int:
    return CudaDevices().uses()[0].used_bytes


def test_memory_of_another_process_is_in_use() -> None:
    before = used_bytes()

    with holder():
        assert used_bytes() - before > SIZE


async def test_the_token_is_taken_once_the_memory_of_a_killed_process_is_free(tmp_path: Path) -> None:
    before = used_bytes()
    token = GpuToken(tmp_path / "gpu.token", CudaDevices())
    with holder():
        pass

    await token.acquire(deadline_seconds=1)

    assert used_bytes() - before < NEAR
    token.close()
