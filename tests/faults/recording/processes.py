"""Which processes a job has, by what they are."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

ENGINES = {"train": "engine-train", "rollout": "engine-rollout"}


@dataclass(frozen=True, slots=True, order=True)
class JobProcess:
    """One process of the job. A process id alone may come to belong to somebody else: `started` tells them apart."""

    kind: str
    """One of command, engine-train, engine-rollout, rank, zygote, server, master, etcd."""
    pod: str
    """Empty where it belongs to none."""
    pid: int
    started: str
    """The kernel's start time."""
    parent: int
    """When it was first seen."""


class ProcessTable:
    """Finds the descendants of a process, and remembers what each was."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], JobProcess] = {}
        self.kinds: dict[int, str] = {}
        """What every process id was when it was last seen; also of processes that have ended."""

    def scan(self, root: int) -> tuple[JobProcess, ...]:
        """Return the known processes below `root`, itself included."""
        parents = {pid: (parent, started) for pid, parent, started in _all_processes()}
        children: dict[int, list[int]] = {}
        for pid, (parent, _) in parents.items():
            children.setdefault(parent, []).append(pid)
        found: dict[int, JobProcess] = {}
        waiting = [root]
        while waiting:
            pid = waiting.pop()
            if pid in parents:
                self._look(pid, *parents[pid], found, is_root=pid == root)
                waiting += children.get(pid, [])
        return tuple(found.values())

    def _look(self, pid: int, parent: int, started: str, found: dict[int, JobProcess], *, is_root: bool) -> None:
        process = self._known.get((pid, started))
        if process is None:
            process = _identify(pid, parent, started, found.get(parent), is_root=is_root)
            if process is None:
                return
            self._known[pid, started] = process
            self.kinds[pid] = process.kind
        found[pid] = process


def is_alive(process: JobProcess) -> bool:
    """Tell whether anything of that very process still runs: its first thread may end before the others do."""
    threads = [f"{process.pid}/task/{name}" for name in _names(f"/proc/{process.pid}/task")]
    if not threads or _started(process.pid) not in ("", process.started):
        return False
    return any(True for thread in threads for _ in _stat(thread))


def left_behind(marker: str) -> dict[int, str]:
    """Return the processes, by id, that have a variable whose value begins with `marker`, with their command lines."""
    return {
        pid: " ".join(_words(pid, "cmdline"))
        for pid, _, _ in _all_processes()
        if any(word.partition("=")[2].startswith(marker) for word in _words(pid, "environ"))
    }


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _started(pid: int) -> str:
    """Return the start time of a process; empty where it is gone, or its first thread has ended."""
    return next((started for _, _, started in _stat(pid)), "")


def _all_processes() -> Iterator[tuple[int, int, str]]:
    for name in os.listdir("/proc"):
        if name.isdecimal():
            yield from _stat(int(name))


def _stat(pid: int | str) -> Iterator[tuple[int, int, str]]:
    """Yield id, parent and start time of a process or `<pid>/task/<tid>`; nothing where it is gone or only waits to
    be collected."""
    with suppress(OSError):
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        if fields[0] not in "ZX":
            yield int(str(pid).split("/")[0]), int(fields[1]), fields[19]


def _identify(pid: int, parent_id: int, started: str, parent: JobProcess | None, *, is_root: bool) -> JobProcess | None:
    """Return what a process is; None while that cannot be told, as between fork and exec."""
    words = _words(pid, "cmdline")
    kind = "command" if is_root else _kind(words, parent)
    if kind is None:
        return None
    pod = parent.pod if parent is not None and parent.pod else _pod(pid)
    return JobProcess(kind, pod, pid, started, parent_id)


def _kind(words: tuple[str, ...], parent: JobProcess | None) -> str | None:
    above = parent.kind if parent is not None else ""
    if above in ("zygote", "server"):
        return "server"
    if any(word.endswith("/tandem-engine") for word in words):
        role = words[words.index("--role") + 1] if "--role" in words else ""
        return None if above.startswith("engine") else ENGINES.get(role)
    if "tandem_sidecars.vllm" in words:
        return "zygote"
    if "tandem_sidecars.megatron" in words:
        return "rank"
    if any(word.endswith("/tandem-master") for word in words):
        return "master"
    return "etcd" if words and words[0].endswith("etcd") else None


def _pod(pid: int) -> str:
    variables: Mapping[str, str] = dict(word.split("=", 1) for word in _words(pid, "environ") if "=" in word)
    return variables.get("POD_NAME", "")


def _words(pid: int, file: str) -> tuple[str, ...]:
    try:
        with open(f"/proc/{pid}/{file}", "rb") as content:
            return tuple(word.decode(errors="replace") for word in content.read().split(b"\0") if word)
    except OSError:
        return ()
