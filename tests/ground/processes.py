"""Programs that run beside the tests, each with a log of its own."""

import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

STOP_SECONDS = 10.0
POLL_SECONDS = 0.1
LAST_LINES = 15


class ProgramError(Exception):
    """A program ended, or did not get ready; its last words."""


@dataclass(frozen=True, slots=True)
class Running:
    """A started program."""

    name: str
    log: Path
    process: subprocess.Popen[bytes]

    def until_ready(self, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until it is ready; raise ProgramError with its last words."""
        deadline = monotonic() + seconds
        while not ready():
            if self.process.poll() is not None:
                raise ProgramError(f"{self.name} ended with status {self.process.returncode}:\n{self.last_words()}")
            if monotonic() > deadline:
                raise ProgramError(f"{self.name} is not ready within {seconds:.0f} s:\n{self.last_words()}")
            sleep(POLL_SECONDS)

    def last_words(self) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LAST_LINES:])

    def kill(self) -> None:
        """SIGKILL it and wait."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(STOP_SECONDS)


def start(name: str, command: Sequence[str | Path], log_folder: Path) -> Running:
    """Start a program; its output goes to `<log_folder>/<name>.log`, and it dies with this process."""
    log_folder.mkdir(parents=True, exist_ok=True)
    log = log_folder / f"{name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*mortal(), *(str(part) for part in command)], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    return Running(name, log, process)


def mortal() -> list[str]:
    """Return the start of a command line whose program the kernel kills when this process ends, however it ends."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


def listens(address: str, port: int) -> bool:
    """Return whether somebody accepts connections there."""
    with suppress(OSError), socket.create_connection((address, port), timeout=1):
        return True
    return False
