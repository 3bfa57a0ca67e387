"""Samples who holds the devices of each hybrid pod."""

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from tests.faults.history import DeviceSample, RunningProcess
from tests.faults.recording.processes import JobProcess, ProcessTable

SAMPLE_SECONDS = 0.05
SEGMENT = re.compile(r"/weights-\d+\.segment")
ROLES: Mapping[str, str] = {
    "engine-train": "train",
    "rank": "train",
    "engine-rollout": "rollout",
    "zygote": "rollout",
    "server": "rollout",
}
KINDS = frozenset(ROLES)


class DeviceSampler:
    """A thread that samples the pods of the running command; keeps what differs, and what can matter."""

    def __init__(self, memory: Path, pods: Iterable[str], num_changes: Callable[[], int]) -> None:
        """`memory`: the run's folder of volumes in memory. `num_changes`: of the registry, as recorded so far."""
        self._memory = memory
        self._pods = tuple(pods)
        self._num_changes = num_changes
        self._table = ProcessTable()
        self._root: int | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="device samples", daemon=True)
        self._last: dict[str, tuple[DeviceSample, int]] = {}
        self.samples: list[DeviceSample] = []
        self.processes: tuple[JobProcess, ...] = ()
        """As last seen."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def follow(self, root: int | None) -> None:
        """Sample the descendants of another command from now on."""
        self._root = root

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            root = self._root
            if root is None:
                self.processes = ()
                continue
            self.processes = self._table.scan(root)
            for pod in self._pods:
                self._take(pod)

    def _take(self, pod: str) -> None:
        at, num_changes = time.time(), self._num_changes()
        ours = tuple(process for process in self.processes if process.pod == pod and process.kind in KINDS)
        before = self._holders(pod)
        engines = tuple(
            sorted(process.pid for process in ours if process.kind == "server" and has_weights(process.pid))
        )
        holders = tuple(sorted(set(before) & set(self._holders(pod))))
        known = tuple(sorted(RunningProcess(process.kind, process.pid) for process in ours))
        sample = DeviceSample(at, pod, holders, engines, known)
        last, changes_then = self._last.get(pod, (None, -1))
        matters = bool(engines) and (not holders or changes_then != num_changes)
        if last is None or matters or replace(last, at=at) != sample:
            self.samples.append(sample)
            self._last[pod] = (sample, num_changes)

    def _holders(self, pod: str) -> tuple[str, ...]:
        """Return the roles that hold the pod's token, by the kernel's own list of locks."""
        try:
            file = os.stat(self._memory / pod / "shared" / "gpu.token")
        except OSError:
            return ()
        name = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
        return tuple(ROLES.get(self._table.kinds.get(pid, ""), "unknown") for pid in _lock_holders(name))


def _lock_holders(name: str) -> tuple[int, ...]:
    """Return who took an flock on a file, `major:minor:inode`; those that only wait are left out."""
    with open("/proc/locks") as file:
        lines = [line.split() for line in file]
    return tuple(int(words[4]) for words in lines if words[1] == "FLOCK" and words[5] == name)


def has_weights(pid: int) -> bool:
    """Tell whether a process has the weights in its address space: on a CPU, a server's engine maps the segment."""
    try:
        with open(f"/proc/{pid}/maps") as file:
            return any(SEGMENT.search(line) for line in file)
    except OSError:
        return False
