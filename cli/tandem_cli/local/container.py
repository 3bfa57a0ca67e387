"""One container as a process in a session of its own, its output in a file."""

import asyncio
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tandem_checkpoint.process.parent import child_environment
from tandem_cli.errors import MachineError


@dataclass(frozen=True, slots=True)
class Program:
    """What a container runs."""

    name: str
    """`<pod>/<container>`."""
    argv: Sequence[str]
    environment: Mapping[str, str]
    log: Path


class ContainerProcess:
    """A running container."""

    def __init__(self, name: str, log: Path, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.log = log
        self._process = process

    @classmethod
    async def start(cls, program: Program) -> Self:
        """Start a container; raise MachineError where its program is not installed."""
        executable = shutil.which(program.argv[0], path=program.environment.get("PATH"))
        if executable is None:
            raise MachineError(f"{program.argv[0]}: not found; install the distribution tandem-rl in this environment")
        program.log.parent.mkdir(parents=True, exist_ok=True)
        with program.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                executable,
                *program.argv[1:],
                env=child_environment(program.environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return cls(program.name, program.log, process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def wait(self) -> int:
        """Return the exit code, or minus the signal's number."""
        return await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Signal the main process, as the kubelet does."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def kill_group(self) -> None:
        """Kill the main process and whatever shares its group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def last_words(self) -> str:
        """Return the last error line of the log, for a message; the last line where there is none."""
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - 65536))
            lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if " ERROR " in line]
        return (errors or lines or ["nothing was logged"])[-1].strip()
