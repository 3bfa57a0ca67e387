"""The tie between a process and its parent: children notice its death, orphans come back to the engine."""

import ctypes
import os
import signal
from collections.abc import Mapping

PARENT_VARIABLE = "TANDEM_PARENT_PID"
"""Environment variable in which a parent tells a child who it is."""
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_GET_CHILD_SUBREAPER = 37


def die_with_parent(with_signal: signal.Signals = signal.SIGKILL) -> None:
    """Ask the kernel to signal this process when its parent ends; exit at once if the parent has ended already.

    The parent is the one that the environment names, so a parent that died before this call is noticed too.
    """
    _prctl(PR_SET_PDEATHSIG, with_signal)
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is not None and os.getppid() != int(parent):
        os._exit(1)


def adopt_orphans() -> None:
    """Become the process that orphaned descendants fall to, as PID 1 of a container is anyway."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def adopts_orphans() -> bool:
    """Tell whether orphaned descendants fall to this process."""
    answer = ctypes.c_int()
    if ctypes.CDLL(None, use_errno=True).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_GET_CHILD_SUBREAPER) failed")
    return bool(answer.value)


def reap_orphans(own: set[int]) -> list[int]:
    """Collect ended children that are not in `own`, and return their process ids.

    Children in `own` are waited for by whoever started them; waiting here would steal their exit status.
    """
    reaped = []
    for pid in _children():
        if pid in own:
            continue
        try:
            done, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            continue
        if done:
            reaped.append(done)
    return reaped


def child_environment(base: Mapping[str, str]) -> dict[str, str]:
    """Return `base` with this process named as the parent."""
    return {**base, PARENT_VARIABLE: str(os.getpid())}


def _children() -> list[int]:
    found: list[int] = []
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children") as file:
                found += [int(word) for word in file.read().split()]
        except FileNotFoundError:
            continue
    return found


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")
