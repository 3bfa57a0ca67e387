"""What a process has used, from /proc."""

import os
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
USER_TICKS, SYSTEM_TICKS = 11, 12
"""Places in /proc/PID/stat after the name (fields 14 and 15 of proc(5))."""


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process with all its threads."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[USER_TICKS]) + int(after_name[SYSTEM_TICKS])) / TICKS_PER_SECOND


def peak_rss_mib(pid: int) -> float:
    """Return the most memory that a process has held so far."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    line = next(line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024
