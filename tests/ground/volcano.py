"""Volcano's scheduler: it places the pods that name it, gang by gang."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from tests.ground.access import KubectlError
from tests.ground.api_server import ApiServer
from tests.ground.processes import Running, listens, start
from tests.tandem_checkpoint.etcd_process import free_address

READY_SECONDS = 120.0
PROBES_PORT = 11251
CONFIGURATION = """\
actions: "enqueue, allocate, backfill"
tiers:
- plugins: [{name: priority}, {name: gang, enablePreemptable: false}, {name: conformance}]
- plugins: [{name: overcommit}, {name: predicates}, {name: proportion}, {name: nodeorder}, {name: binpack}]
"""
"""Plugins of Volcano's own installation."""


def definitions(programs: Mapping[str, Path]) -> Sequence[Path]:
    """Return the files of Volcano's CRDs, but for its own kinds of job."""
    return sorted(programs["volcano-manifests"].glob("*.yaml"))


@contextmanager
def run_volcano(server: ApiServer, programs: Mapping[str, Path]) -> Iterator[Running]:
    """Run it beside an API server that has its CRDs, until its queue `default` is open; raise ProgramError."""
    address = free_address()
    configuration = server.log_folder.parent / f"volcano-{address}.yaml"
    configuration.write_text(CONFIGURATION)
    command: list[str | Path] = [
        programs["volcano-scheduler"],
        f"--kubeconfig={server.kubeconfig}",
        f"--scheduler-conf={configuration}",
        "--leader-elect=false",
        "--schedule-period=200ms",
        "--cache-dumper=false",
        "--enable-healthz",
        f"--healthz-address={address}:{PROBES_PORT}",
    ]
    running = start("volcano-scheduler", command, server.log_folder)
    try:
        running.until_ready(lambda: listens(address, PROBES_PORT), READY_SECONDS)
        for queue in ("root", "default"):
            running.until_ready(partial(open_queue, server, queue), READY_SECONDS)
        yield running
    finally:
        running.kill()


def open_queue(server: ApiServer, name: str) -> bool:
    """Open a queue, as Volcano's controllers would; return whether it is there."""
    path = ("queues.scheduling.volcano.sh", name, "--subresource=status", "--type=merge")
    with suppress(KubectlError):
        server.kubectl("patch", *path, "-p", '{"status":{"state":"Open"}}')
        return True
    return False
