"""A process group: who is in it, its end, and nothing left of it."""

import os
import signal
from contextlib import suppress


def kill_group(group: int) -> None:
    """Send SIGKILL to a process group; one that is gone already is fine."""
    _signal_group(group, signal.SIGKILL)


def freeze_group(group: int) -> None:
    """Stop every process of a group where it is: it opens and makes nothing any more. SIGKILL still ends it."""
    _signal_group(group, signal.SIGSTOP)


def group_exists(group: int) -> bool:
    """Tell whether any process of the group is left, ended but unreaped ones included."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def reap_group(group: int) -> None:
    """Collect what has ended of a group and has fallen to this process."""
    with suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG)[0]:
            """One more is gone."""


def group_members(group: int) -> list[int]:
    """Return the process ids of a group's processes, in ascending order."""
    return [pid for pid in all_processes() if _group_of(pid) == group]


def all_processes() -> list[int]:
    """Return every process id that this process can see, in ascending order."""
    return sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)
