"""`tandem-operator` as a process of its own, seen from outside."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx

from tests.ground.api_server import ApiServer
from tests.tandem_checkpoint.etcd_process import free_address

SECONDS = 120.0
END_SECONDS = 40.0
PORT = 8081
NOWHERE = "127.0.0.1:1"
"""An etcd that never answers."""


@dataclass(slots=True)
class OperatorProcess:
    """One replica."""

    process: subprocess.Popen[bytes]
    address: str
    log_file: Path

    def probe(self, path: str) -> tuple[int, str]:
        """Return status and text of a probe; (0, "") where nobody answers within a second."""
        try:
            answer = httpx.get(f"http://{self.address}:{PORT}{path}", timeout=1)
        except httpx.TransportError:
            return 0, ""
        return answer.status_code, answer.text.strip()

    def until_ready(self, role: str) -> None:
        """Wait until it is ready as `leader` or `standby`."""
        self.until(lambda: self.probe("/readyz") == (200, role), f"ready as {role}")

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until the condition holds while it lives."""
        deadline = monotonic() + SECONDS
        while not condition():
            assert self.process.poll() is None, f"the operator ended: {self.log()}"
            assert monotonic() < deadline, f"{what}: not in time: {self.log()}"
            sleep(0.1)

    def end(self, number: signal.Signals) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(END_SECONDS)

    def log(self) -> str:
        """Return everything that it wrote."""
        return self.log_file.read_text(encoding="utf-8")

    def records(self) -> list[dict[str, Any]]:
        """Return its log, record by record."""
        return [json.loads(line) for line in self.log().splitlines()]


@contextmanager
def operator(server: ApiServer, namespace: str, folder: Path, identity: str, *more: str) -> Iterator[OperatorProcess]:
    """Run a replica that serves one namespace and keeps its Lease there; nothing of it is left afterwards."""
    address, log_file = free_address(), folder / f"{identity}.log"
    options = {
        "--kubeconfig": str(server.kubeconfig),
        "--namespace": namespace,
        "--lease-namespace": namespace,
        "--identity": identity,
        "--metrics-address": f"{address}:{PORT}",
    }
    words = [word for option in options.items() for word in option]
    etcd = () if "--etcd" in more else ("--etcd", NOWHERE)
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tandem_operator", *words, *etcd, *more],
            stdout=log,
            stderr=log,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
    try:
        yield OperatorProcess(process, address, log_file)
    finally:
        process.kill()
        process.wait(END_SECONDS)
