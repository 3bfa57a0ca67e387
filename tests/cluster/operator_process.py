"""The operator as a process of its own, beside the cluster that it works on."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.ground.access import until

PROGRAM = Path(sys.executable).with_name("tandem-operator")
STOP_SECONDS = 30.0


@dataclass(slots=True)
class OperatorProcess:
    """One replica. It may be started again after its end, under another identity."""

    kubeconfig: Path
    etcd: str
    log: Path
    options: tuple[str, ...] = ()
    _process: "subprocess.Popen[bytes] | None" = None
    _starts: int = field(default=0)

    def start(self) -> None:
        self._starts += 1
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(PROGRAM),
                    f"--kubeconfig={self.kubeconfig}",
                    f"--etcd={self.etcd}",
                    "--lease-namespace=default",
                    f"--identity=replica-{os.getpid()}-{self._starts}",
                    "--metrics-address=127.0.0.1:0",
                    *self.options,
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL it: nothing is handed over."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask it to end and return its exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        if self._process is None:
            return 0
        self._process.send_signal(number)
        code = self._process.wait(STOP_SECONDS)
        self._process = None
        return code

    def wait_for_log(self, text: str, seconds: float) -> None:
        until(lambda: text in self.log.read_text(), seconds, f"the operator's log does not say {text!r}")
