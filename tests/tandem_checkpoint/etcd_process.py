"""A real etcd in a process of its own."""

import signal
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import monotonic, sleep

from tandem_cli.local.etcd import CLIENT_PORT, etcd_program, find_etcd
from tests.addresses import own_number

START_SECONDS = 20.0
STOP_SECONDS = 10.0
_numbers = count(1)


def free_address() -> str:
    """Return a loopback address of this process's own, beyond those that `tandem up` chooses from."""
    number = next(_numbers)
    return f"127.{240 + number // 250 % 15}.{own_number()}.{number % 250 + 1}"


@dataclass(slots=True)
class EtcdProcess:
    """One etcd; `start` after `kill` finds the same data again."""

    data: Path
    address: str = field(default_factory=free_address)
    arguments: tuple[str, ...] = ()
    """More of its command line; what stands later wins."""
    _process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"{self.address}:{CLIENT_PORT}"

    def start(self) -> None:
        """Start it and wait until it listens."""
        program = etcd_program(find_etcd(), self.address, self.data, self.data)
        self._process = subprocess.Popen(
            [*program.argv, *self.arguments],
            env=dict(program.environment),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = monotonic() + START_SECONDS
        while not _listens(self.address):
            assert self._process.poll() is None, "etcd ended at its start"
            assert monotonic() < deadline, "etcd does not listen"
            sleep(0.05)

    def stop(self) -> None:
        """SIGSTOP it: connections stay, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL it; harmless when it is down."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(STOP_SECONDS)
            self._process = None


def _listens(address: str) -> bool:
    with suppress(OSError), socket.create_connection((address, CLIENT_PORT), timeout=1):
        return True
    return False
