"""Shared memory that killed processes leave behind, and its removal.

Python, torch, vLLM and NCCL make segments in /dev/shm and remove them when they end; killed, they do not. A segment is
removed here only where all of this is so: a library's name, our user's, made since the sweeper began, seen in use by a
process of the killed group (or named after one, or after a file in its own temporary folder), and in use by no process
now. So nobody else's segment can be meant.
"""

import asyncio
import logging
import os
import re
import shutil
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

from tandem_checkpoint.process.group import all_processes, group_members

logger = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")
NAMES = re.compile(
    r"(psm_|pym-|sem\.|torch_|vllm_dist_|VLLM_OBJECT_STORAGE_|nccl-|cuda\.shm\.|__KMP_REGISTERED_LIB_)", re.IGNORECASE
)
"""How Python's shared_memory, heaps and semaphores, torch, vLLM, NCCL, CUDA and OpenMP begin their names."""
MAKER = re.compile(r"(?:pym-|torch_|__KMP_REGISTERED_LIB_)(\d+)[-_]")
"""Names that hold the process id of their maker."""
RENDEZVOUS = "vllm_dist_*"
"""File in a server's temporary folder where its workers meet. What they share is named after it; the name is random."""

LETTING_GO_SECONDS, LETTING_GO_POLL_SECONDS = 2.0, 0.02
"""A killed process lets go of its memory within milliseconds, of very much within a second."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One file in shared memory: another one that takes its name later has another inode."""

    path: Path
    inode: int


class Sweeper:
    """Removes what killed groups leave in one folder."""

    def __init__(self, folder: Path = SHARED_MEMORY) -> None:
        self._folder = folder
        self._older = frozenset(_own_segments(folder))
        self._pending: set[asyncio.Task[None]] = set()

    def used_by(self, group: int) -> frozenset[Segment]:
        """Return the segments that processes of a group have mapped or open, or that are named after them."""
        candidates = frozenset(_own_segments(self._folder)) - self._older
        if not candidates:
            return frozenset()  # as a rule: then no process need be looked at
        members = {group, *group_members(group)}
        used: set[Segment] = set()
        for pid in members:
            with suppress(PermissionError):
                used |= _in_use(pid, self._folder)
        return frozenset(item for item in candidates if item in used or _maker(item) in members)

    def named_after(self, scratch: Path) -> frozenset[Segment]:
        """Return the segments named after a file in the temporary folder of killed processes.

        So those are found whose makers died before anybody could see what they use: vLLM's workers, while their server
        builds its engine.
        """
        names = tuple(f"{path.name}-" for path in scratch.rglob(RENDEZVOUS))
        if not names:
            return frozenset()
        candidates = frozenset(_own_segments(self._folder)) - self._older
        return frozenset(item for item in candidates if item.path.name.startswith(names))

    def sweep(self, segments: Iterable[Segment]) -> tuple[Path, ...]:
        """Remove those of a killed group's segments that no process uses; return them."""
        left = set(segments).intersection(_own_segments(self._folder))
        if left:
            left -= _in_use_anywhere(left, self._folder)
        for segment in left:
            segment.path.unlink(missing_ok=True)
            logger.info("removed %s, which a killed process had left", segment.path)
        return tuple(sorted(segment.path for segment in left))

    def sweep_later(self, segments: frozenset[Segment], scratch: Path | None = None) -> None:
        """Sweep beside whatever comes next: looking at all processes takes longer than a kill.

        `scratch`: the temporary folder of what was killed; what is named after its files goes, then the folder itself.
        """
        task = asyncio.create_task(asyncio.to_thread(self._sweep_all, segments, scratch), name="sweep leftovers")
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def finish(self) -> None:
        """Wait for every sweep that has begun."""
        await asyncio.gather(*self._pending)

    def _sweep_all(self, segments: frozenset[Segment], scratch: Path | None) -> None:
        self.sweep(segments)
        if scratch is not None:
            self._sweep_named(self.named_after(scratch))
            shutil.rmtree(scratch, ignore_errors=True)

    def _sweep_named(self, segments: frozenset[Segment]) -> None:
        """Sweep what can only be used by processes that have been killed, as soon as they have let go of it."""
        until = monotonic() + LETTING_GO_SECONDS
        while segments and monotonic() < until:
            self.sweep(segments)
            segments &= frozenset(_own_segments(self._folder))
            if segments:
                sleep(LETTING_GO_POLL_SECONDS)


def _own_segments(folder: Path) -> Iterable[Segment]:
    """Yield the regular files of our user that have a library's name."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        if not NAMES.match(entry.name):
            continue
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        if stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid():
            yield Segment(Path(entry.path), status.st_ino)


def _maker(segment: Segment) -> int | None:
    found = MAKER.match(segment.path.name)
    return int(found[1]) if found else None


def _in_use_anywhere(segments: set[Segment], folder: Path) -> set[Segment]:
    """Return those that some process uses.

    What another user's process may open counts as used where that process cannot be looked into.
    """
    used: set[Segment] = set()
    for pid in all_processes():
        try:
            used.update(_in_use(pid, folder))
        except PermissionError:
            if _user_of(pid) != os.getuid():
                used.update(segment for segment in segments if _open_to_others(segment))
    return segments & used


def _user_of(pid: int) -> int | None:
    """Return a process's real user id; its folder in /proc need not belong to it."""
    try:
        with open(f"/proc/{pid}/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("Uid:"))
    except (FileNotFoundError, ProcessLookupError):
        return None


def _open_to_others(segment: Segment) -> bool:
    try:
        return segment.path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) != 0
    except FileNotFoundError:
        return False


def _in_use(pid: int, folder: Path) -> set[Segment]:
    """Return what a process has mapped or open in a folder; nothing of one that has ended. Raises PermissionError."""
    try:
        return {*_mapped(pid, folder), *_opened(pid, folder)}
    except (FileNotFoundError, ProcessLookupError):
        return set()


def _mapped(pid: int, folder: Path) -> Iterable[Segment]:
    """Yield a process's mappings; a line is address, permissions, offset, device, inode, path."""
    prefix = f"{folder}/".encode()
    with open(f"/proc/{pid}/maps", "rb") as file:
        for line in file:
            if prefix in line:
                *_, inode, path = line.rstrip(b"\n").split(None, 5)
                yield Segment(Path(os.fsdecode(path)), int(inode))


def _opened(pid: int, folder: Path) -> Iterable[Segment]:
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            path = os.readlink(entry.path)
            if path.startswith(f"{folder}/"):
                yield Segment(Path(path), os.stat(entry.path).st_ino)
        except FileNotFoundError:
            continue
