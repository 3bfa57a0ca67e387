"""What a job uses at one moment: of its processes, of shared memory, of its registry."""

import json
import os
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, time

import psutil

from tandem_cli.local.etcd import CLIENT_PORT
from tandem_cli.local.network import choose_network, etcd_address
from tandem_cli.session import memory_folder

SHARED_MEMORY = Path("/dev/shm")
ALL_KEYS = b'{"key": "AA==", "range_end": "AA==", "count_only": true}'
"""etcd's JSON for a range from byte 0 to the end."""
ANSWER_SECONDS = 10.0
PROGRAMS = (
    "tandem-server",
    "tandem_cli.local.janitor",
    "tandem_sidecars.vllm",
    "tandem_sidecars.megatron",
    "VLLM::",
    "etcd",
)
ENTRY_POINTS = {"tandem-engine": "engine", "tandem-master": "master", "tandem": "command"}
BLOCK_BYTES = 512
OWN_PAGES = ("Pss_Anon:", "Pss_Shmem:")


@dataclass(frozen=True, slots=True)
class Usage:
    """One reading."""

    switches: int
    """Complete switches so far."""
    at: float
    """Unix time when the reading began, seconds."""
    seconds: float
    """How long the reading took."""
    processes: int
    memory_bytes: int
    """Proportional size of all processes' memory, without files: a page that several share is counted in parts."""
    file_descriptors: int
    threads: int
    shm_entries: int
    """Files and folders in /dev/shm that were not there before the job."""
    shm_bytes: int
    """What these take up, without etcd's own files."""
    etcd_bytes: int
    """What etcd's own files take up: its log grows until etcd cuts it."""
    etcd_keys: int
    memory_bytes_by_program: dict[str, int]


class UsageMeter:
    """Reads what one job uses. Made before the job is started."""

    def __init__(self, run: Path) -> None:
        self._before = frozenset(SHARED_MEMORY.iterdir())
        self._etcd_data = memory_folder(SHARED_MEMORY, run) / "etcd"
        self._url = f"http://{etcd_address(choose_network(None, run))}:{CLIENT_PORT}/v3/kv/range"

    def read(self, command: psutil.Process, switches: int) -> Usage:
        """Return what the command and all that it has started use now; what ends meanwhile is left out."""
        at, began = time(), perf_counter()
        processes = [command, *command.children(recursive=True)]
        file_descriptors, threads = _num_entries(processes, "fd"), _num_entries(processes, "task")
        memory = _memory_by_program(processes)
        entries = list(self._new_entries())
        etcd = [path for path in entries if path.is_relative_to(self._etcd_data)]
        num_bytes, etcd_bytes = _allocated(entries), _allocated(etcd)
        num_keys = self._num_keys()
        return Usage(
            switches=switches,
            at=at,
            seconds=perf_counter() - began,
            processes=len(processes),
            memory_bytes=sum(memory.values()),
            file_descriptors=file_descriptors,
            threads=threads,
            shm_entries=len(entries) - len(etcd),
            shm_bytes=num_bytes - etcd_bytes,
            etcd_bytes=etcd_bytes,
            etcd_keys=num_keys,
            memory_bytes_by_program=memory,
        )

    def _new_entries(self) -> Iterator[Path]:
        for path in SHARED_MEMORY.iterdir():
            if path not in self._before:
                yield path
                yield from path.rglob("*")

    def _num_keys(self) -> int:
        with urllib.request.urlopen(self._url, ALL_KEYS, timeout=ANSWER_SECONDS) as answer:
            return int(json.loads(answer.read()).get("count", 0))


def _num_entries(processes: Iterable[psutil.Process], folder: str) -> int:
    total = 0
    for process in processes:
        with suppress(OSError):
            total += len(os.listdir(f"/proc/{process.pid}/{folder}"))
    return total


def _memory_by_program(processes: Iterable[psutil.Process]) -> dict[str, int]:
    """Return the memory of all processes by what they run, bytes. Newest first: the server is the first to go."""
    memory: dict[str, int] = {}
    for process in sorted(processes, key=lambda process: process.pid, reverse=True):
        with suppress(OSError, psutil.Error):
            program = program_of(process.cmdline())
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            memory[program] = memory.get(program, 0) + proportional_bytes(rollup)
    return memory


def proportional_bytes(rollup: str) -> int:
    """Return the proportional size of what no file backs, from the text of /proc/PID/smaps_rollup; 0 for a process that
    has ended. The pages of libraries are left out: how they are shared changes with whatever else the machine runs.
    """
    return sum(1024 * int(line.split()[1]) for line in rollup.splitlines() if line.startswith(OWN_PAGES))


def program_of(words: Sequence[str]) -> str:
    """Return a short name for what runs under a command line."""
    line = " ".join(words)
    for program in PROGRAMS:
        if program in line:
            return program
    names = [Path(word).name for word in words]
    return next((ENTRY_POINTS[name] for name in names if name in ENTRY_POINTS), "other")


def _allocated(paths: Sequence[Path]) -> int:
    total = 0
    for path in paths:
        with suppress(FileNotFoundError):
            total += path.lstat().st_blocks * BLOCK_BYTES
    return total
