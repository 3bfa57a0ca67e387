"""This process's memory, as the kernel counts it: anonymous, where torch allocates, and files that are only memory."""

import ctypes
import mmap
import os

import torch

_LIBC = ctypes.CDLL(None, use_errno=True)


def anonymous_bytes() -> int:
    """Return the process's anonymous memory that is in use; shared memory and mapped files are not in it."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("RssAnon:"))


def give_back() -> None:
    """Return freed memory to the kernel: malloc keeps some of it otherwise."""
    _LIBC.malloc_trim(0)


def present_bytes(address: int, num_bytes: int) -> int:
    """Return how much of a range of anonymous memory has pages, in whole pages (mincore(2))."""
    if num_bytes == 0:
        return 0
    first = address - address % mmap.PAGESIZE
    num_pages = -(-(address + num_bytes - first) // mmap.PAGESIZE)
    present = ctypes.create_string_buffer(num_pages)
    if _LIBC.mincore(ctypes.c_void_p(first), ctypes.c_size_t(num_pages * mmap.PAGESIZE), present) != 0:
        raise OSError(ctypes.get_errno(), "mincore failed")
    return (num_pages - present.raw.count(b"\0")) * mmap.PAGESIZE


def memory_file(num_bytes: int) -> torch.Tensor:
    """Return room in a file that is only memory and ends with its last view, uint8 [num_bytes]."""
    if num_bytes == 0:
        return torch.empty(0, dtype=torch.uint8)
    descriptor = os.memfd_create("tandem-parked")
    try:
        os.ftruncate(descriptor, num_bytes)
        return torch.frombuffer(mmap.mmap(descriptor, num_bytes), dtype=torch.uint8)
    finally:
        os.close(descriptor)
