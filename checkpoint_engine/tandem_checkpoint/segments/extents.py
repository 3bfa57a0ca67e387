"""Extents of a segment mapped end to end: what lies apart in the file is one piece of memory, and nothing is copied.

So a tensor-parallel rank reads its rows of a fused parameter's tensors where the trainer has written them.
"""

import ctypes
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tandem_checkpoint.segments.store import SegmentError

MAP_FIXED = 0x10
"""Put the mapping where it is told, over what is there; Linux on all architectures but alpha, mips and parisc."""
PROTECTION = mmap.PROT_READ | mmap.PROT_WRITE
FAILED = ctypes.c_void_p(-1).value
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes that lie together in a segment."""

    offset_bytes: int
    num_bytes: int


def can_map(extents: Sequence[Extent]) -> bool:
    """Tell whether extents are whole pages: nothing less can be mapped end to end."""
    return all(item.offset_bytes % mmap.PAGESIZE == item.num_bytes % mmap.PAGESIZE == 0 for item in extents)


def map_extents(path: Path, extents: Sequence[Extent]) -> mmap.mmap:
    """Map extents of a segment privately, one behind the other; they are whole pages and lie within the file.

    Raises: SegmentError where the segment is missing or the kernel takes no more mappings.
    """
    region = mmap.mmap(-1, sum(item.num_bytes for item in extents), flags=mmap.MAP_PRIVATE, prot=PROTECTION)
    address = ctypes.addressof(ctypes.c_char.from_buffer(region))
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise SegmentError(f"{path} is missing; was the shared volume emptied?") from None
    try:
        for item in extents:
            if not _map_at(address, item, descriptor):
                why = os.strerror(ctypes.get_errno())
                raise SegmentError(f"{path} cannot be mapped in pieces ({why}); is vm.max_map_count too low?")
            address += item.num_bytes
    finally:
        os.close(descriptor)
    return region


def _map_at(address: int, extent: Extent, descriptor: int) -> bool:
    """Map one extent over what is at an address; tell whether the kernel has done so."""
    flags = mmap.MAP_PRIVATE | MAP_FIXED
    mapped = _libc.mmap(address, extent.num_bytes, PROTECTION, flags, descriptor, extent.offset_bytes)
    return bool(mapped != FAILED)
