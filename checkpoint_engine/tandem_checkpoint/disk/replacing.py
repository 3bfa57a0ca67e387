"""A folder that is replaced as a whole: written aside, synced, then put in its place in one step."""

import ctypes
import errno
import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

AT_FDCWD = -100
RENAME_EXCHANGE = 2
"""Linux' renameat2(2): two names change places, and at every moment each is there."""
NOT_POSSIBLE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
"""What file systems answer that cannot exchange."""


def aside_of(folder: Path) -> Path:
    """Return where a folder is written before it is whole."""
    return folder.with_name(f".{folder.name}.partial")


def sweep(folder: Path) -> None:
    """Remove what a killed writer of this folder has left; where it was killed between two renames, undo the first."""
    old = _old_of(folder)
    if old.exists() and not folder.exists():
        old.rename(folder)
    for leftover in (old, aside_of(folder)):
        if leftover.exists():
            shutil.rmtree(leftover)


def replace_folder(folder: Path, aside: Path) -> None:
    """Put `aside` in the place of `folder`, which may be missing, and remove the older one. Survives a power cut."""
    if not folder.exists():
        aside.rename(folder)
        sync(folder.parent)
        return
    old = aside if _exchange(aside, folder) else _rename_both(folder, aside)
    sync(folder.parent)
    shutil.rmtree(old)


def sync(path: Path) -> None:
    """Have a file or a folder reach the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _old_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _exchange(one: Path, other: Path) -> bool:
    """Have two folders change places; return whether the file system can."""
    if not _library().renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE):
        return True
    number = ctypes.get_errno()
    if number in NOT_POSSIBLE:
        return False
    raise OSError(number, os.strerror(number), str(one))


def _rename_both(folder: Path, aside: Path) -> Path:
    """Move the older folder away and the new one in its place; for a moment there is none. Return where it is."""
    old = _old_of(folder)
    folder.rename(old)
    aside.rename(folder)
    return old


@cache
def _library() -> Any:
    return ctypes.CDLL(None, use_errno=True)
