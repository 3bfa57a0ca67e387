"""The memory of another process, as the kernel counts it."""

import os
from dataclasses import dataclass

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """How much a process that lives long may grow: whichever of the two it reaches first."""

    factor: float = 1.5
    num_bytes: int = 1 << 29

    def is_exceeded(self, first_bytes: int, now_bytes: int) -> bool:
        """Tell whether a process has grown too much. Args: resident memory when it was ready, and now."""
        return now_bytes > min(first_bytes * self.factor, first_bytes + self.num_bytes)


def resident_bytes(pid: int) -> int:
    """Return a process's resident memory; 0 once it has ended."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * PAGE_BYTES
    except (FileNotFoundError, ProcessLookupError):
        return 0
