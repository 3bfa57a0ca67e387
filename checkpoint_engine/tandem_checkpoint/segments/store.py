"""The segment files of a pod: two, written in turns, so a bound one is never written."""

import errno
import mmap
import os
from pathlib import Path

NUM_BUFFERS = 2


class SegmentError(Exception):
    """A segment cannot be made or mapped; the message names the file and the fix."""


def segment_name(generation: int) -> str:
    """Return the file name that holds a generation: neighbours never share one."""
    return f"weights-{generation % NUM_BUFFERS}.segment"


def allocate(folder: Path, num_bytes: int) -> None:
    """Reserve both segments for good: pages are faulted in once, and a full volume is found out here."""
    for generation in range(NUM_BUFFERS):
        path = folder / segment_name(generation)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, num_bytes)
            os.ftruncate(descriptor, num_bytes)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.ENOMEM):
                raise
            raise SegmentError(
                f"{folder} has no room for a weight segment of {num_bytes} bytes; enlarge spec.hybrid.sharedMemory "
                "(on one machine: remount /dev/shm larger) or choose a smaller policy"
            ) from None
        finally:
            os.close(descriptor)


def map_for_writing(path: Path) -> mmap.mmap:
    """Map a segment shared: what is written is seen by every process that maps it."""
    return _map(path, mmap.MAP_SHARED)


def map_for_reading(path: Path) -> mmap.mmap:
    """Map a segment privately: reads share its pages, and a stray write of the reader cannot reach it."""
    return _map(path, mmap.MAP_PRIVATE)


def map_for_sending(path: Path) -> mmap.mmap:
    """Map a segment shared and read-only, to send its bytes to other pods."""
    return _map(path, mmap.MAP_SHARED, mmap.PROT_READ)


def _map(path: Path, flags: int, protection: int = mmap.PROT_READ | mmap.PROT_WRITE) -> mmap.mmap:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise SegmentError(f"{path} is missing; was the shared volume emptied?") from None
    try:
        return mmap.mmap(descriptor, 0, flags=flags, prot=protection)
    finally:
        os.close(descriptor)
