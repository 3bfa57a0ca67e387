"""What an injector may use: the running job, what is recorded of it, and its etcd."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from random import Random

from tandem_checkpoint.registry.store import Registry
from tandem_cli.local.etcd import CLIENT_PORT, etcd_program, find_etcd
from tests.faults.control import Control
from tests.faults.isolation import Isolation
from tests.faults.job import JobPlace
from tests.faults.recording.processes import JobProcess, ProcessTable, is_alive
from tests.faults.recording.recorder import Recorder

ETCD_GRACE_SECONDS = 3.0
"""Time in which whoever runs the job may start a dead etcd again, before the campaign does, as an operator would."""
ETCD_START_SECONDS = 20.0
KILL_SECONDS = 10.0


class NoTarget(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """There is nothing to hurt at this moment."""


class EtcdKeeper:
    """Starts the job's etcd again where nobody else does."""

    def __init__(self, place: JobPlace, *, grace_seconds: float = ETCD_GRACE_SECONDS) -> None:
        self._grace_seconds = grace_seconds
        self._place = place
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the etcd that the campaign has started; None where there is none."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    async def ensure(self) -> None:
        """Have an etcd that listens. Errors: TimeoutError."""
        deadline = time.monotonic() + self._grace_seconds
        while time.monotonic() < deadline:
            if self.listens():
                return
            await asyncio.sleep(0.05)
        if not self._place.memory.exists():
            return  # the command has ended meanwhile
        self._start()
        async with asyncio.timeout(ETCD_START_SECONDS):
            while not self.listens():  # noqa: ASYNC110 - another process tells nobody
                await asyncio.sleep(0.05)

    def listens(self) -> bool:
        """Tell whether there is an etcd."""
        with suppress(OSError), socket.create_connection((self._place.etcd_address, CLIENT_PORT), timeout=0.5):
            return True
        return False

    def stop(self) -> None:
        """End the etcd that the campaign has started; harmless where there is none."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def _start(self) -> None:
        self.stop()
        log = self._place.run / "logs" / "etcd.log"
        program = etcd_program(find_etcd(), self._place.etcd_address, self._place.etcd_data, log)
        guard = ["setpriv", "--pdeathsig", "SIGKILL"] if shutil.which("setpriv") else []
        search = {"PATH": f"{program.environment['PATH']}:{os.environ.get('PATH', os.defpath)}"}
        with log.open("ab") as output:
            self._process = subprocess.Popen([*guard, *program.argv], env=search, stdout=output, stderr=output)


@dataclass(slots=True)
class Scene:
    """One running job."""

    place: JobPlace
    recorder: Recorder
    controls: Mapping[tuple[str, str], Control]
    root: int
    """Process id of the command."""
    is_running: Callable[[], bool]
    """Tells whether the command still runs."""
    etcd: EtcdKeeper
    isolation: Isolation
    random: Random
    table: ProcessTable

    def processes(self, kind: str, pod: str | None = None) -> tuple[JobProcess, ...]:
        """Return the processes of a kind that run now, of one pod or of all."""
        found = [process for process in self.table.scan(self.root) if process.kind == kind]
        keeper = self.etcd.pid
        if kind == "etcd" and keeper is not None:
            found += [process for process in self.table.scan(os.getpid()) if process.pid == keeper]
        return tuple(process for process in found if pod in (None, process.pod))


async def read(registry: Registry, key: str, absent: str) -> str:
    """Return what a key holds. Errors: NoTarget, with the words `absent`, where it is not there."""
    text = await registry.get(key)
    if text is None:
        raise NoTarget(absent)
    return text


async def kill(process: JobProcess) -> None:
    """Kill a process and wait until it is gone. Errors: TimeoutError."""
    send(process, signal.SIGKILL)
    async with asyncio.timeout(KILL_SECONDS):
        while is_alive(process):  # noqa: ASYNC110 - somebody else is its parent
            await asyncio.sleep(0.005)


def send(process: JobProcess, number: signal.Signals) -> None:
    """Signal a process; one that has ended is left alone."""
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)
