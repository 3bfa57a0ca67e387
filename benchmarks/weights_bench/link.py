"""Pods with a network of their own each: network namespaces on one bridge, every link held to one rate.

Made inside a network namespace of the benchmark's own, so nothing else on the machine sees it, and gone with it.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from benchmarks.report.result import PartError

ENTER = ("unshare", "--net", "--kill-child")
AS_ROOT_OF_ITS_OWN = ("--user", "--map-root-user")
BRIDGE = "pods"
BURST, LATENCY = "256kb", "50ms"


@dataclass(slots=True)
class PodProcess:
    """A process in a network namespace of its own; it is told what to do by its input and answers by its output."""

    process: subprocess.Popen[str]
    address: str

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)

    def hear(self) -> str:
        """Return the next line; PartError where the pod has ended instead."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise PartError(f"the pod at {self.address} has ended; its error output says why")
        return line


def isolated(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module in a network namespace of its own. Errors: PartError."""
    missing = [name for name in ("unshare", "ip", "tc") if shutil.which(name) is None]
    if missing:
        raise PartError(f"{missing[0]} is not on PATH; install util-linux and iproute2")
    for words in (ENTER, (*ENTER, *AS_ROOT_OF_ITS_OWN)):
        if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0:
            return [*words, sys.executable, "-m", module, *arguments]
    raise PartError("network namespaces are not permitted here; run as root, or where user namespaces are allowed")


@contextmanager
def linked_pods(commands: Sequence[Sequence[str]], rate_megabits: int) -> Iterator[list[PodProcess]]:
    """Run each command in a pod, and connect the pods: every one sends and receives at most at the rate."""
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "link", "add", BRIDGE, "type", "bridge")
    _run("ip", "link", "set", BRIDGE, "up")
    with ExitStack() as stack:
        pods = []
        for number, command in enumerate(commands):
            process = stack.enter_context(
                subprocess.Popen(["unshare", "--net", *command], stdin=-1, stdout=-1, text=True, bufsize=1)
            )
            stack.callback(process.kill)
            pod = PodProcess(process, f"10.99.0.{number + 1}")
            if pod.hear() != "here\n":
                raise PartError(f"the pod at {pod.address} did not start")
            _connect(pod, number, rate_megabits)
            pods.append(pod)
        yield pods


def _connect(pod: PodProcess, number: int, rate_megabits: int) -> None:
    inside = ("nsenter", "--net", "--target", str(pod.process.pid))
    outer = f"pod{number}"
    limit = ("root", "tbf", "rate", f"{rate_megabits}mbit", "burst", BURST, "latency", LATENCY)
    _run("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", str(pod.process.pid))
    _run("ip", "link", "set", outer, "master", BRIDGE, "up")
    _run("tc", "qdisc", "add", "dev", outer, *limit)  # what the pod receives
    _run(*inside, "ip", "address", "add", f"{pod.address}/24", "dev", "eth0")
    _run(*inside, "ip", "link", "set", "lo", "up")
    _run(*inside, "ip", "link", "set", "eth0", "up")
    _run(*inside, "tc", "qdisc", "add", "dev", "eth0", *limit)  # what it sends


def _run(*words: str) -> None:
    finished = subprocess.run(words, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise PartError(f"{' '.join(words)}: {finished.stderr.strip()}")
