"""A real API server on loopback: etcd, kube-apiserver, and the controllers that tidy up after owners."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.ground import commands
from tests.ground.access import Access, define, write_kubeconfig
from tests.ground.keys import make_keys
from tests.ground.processes import Running, listens, start
from tests.tandem_checkpoint.etcd_process import free_address

START_SECONDS = 120.0
SERVICES = "198.18.0.0/24"
"""A network set aside for measurements (RFC 2544); nothing routes to it."""
NO_PODS = (f"--controllers={','.join(commands.DEPENDENT_CONTROLLERS)}", *commands.POD_GROUPS)
"""Flags of the controllers where pods never run."""


@dataclass(frozen=True, slots=True)
class ApiServer(Access):
    """A running API server; pods are objects here and never run."""

    log_folder: Path
    etcd_url: str
    api_process: Running

    def logs(self) -> Path:
        """Return the folder of the logs of all its programs."""
        return self.log_folder


@contextmanager
def run_api_server(
    folder: Path,
    programs: Mapping[str, Path],
    definitions: Sequence[Path] = (),
    controllers: Sequence[str] = NO_PODS,
) -> Iterator[ApiServer]:
    """Run it with the definitions (CRDs) applied; afterwards nothing of it is left but `folder`. Raise ProgramError.

    The definitions come before the garbage collector: it asks for new kinds of object only every 30 s.
    """
    address = free_address()
    at = commands.Addresses(address, address, address, SERVICES)
    keys = make_keys(folder / "keys", [address, "198.18.0.1"])
    kubeconfig, logs = folder / "kubeconfig", folder / "log"
    write_kubeconfig(kubeconfig, at.api_url, keys.ca_certificate, keys.token)
    with ExitStack() as stack:
        etcd = start("etcd", commands.etcd(programs["etcd"], folder / "etcd", address), logs)
        stack.callback(etcd.kill)
        etcd.until_ready(lambda: listens(address, commands.ETCD_PORT), START_SECONDS)
        flags = ["--endpoint-reconciler-type=none", f"--cert-dir={folder}", *commands.POD_GROUPS_API]
        api = start("kube-apiserver", commands.api_server(programs["kube-apiserver"], keys, at, flags), logs)
        stack.callback(api.kill)
        server = ApiServer(
            kubeconfig, at.api_url, keys.ca_certificate, keys.token, programs["kubectl"], logs, at.etcd_url, api
        )
        api.until_ready(server.ready, START_SECONDS)
        define(server, definitions)
        manager = commands.controllers(programs["kube-controller-manager"], keys, kubeconfig, controllers)
        stack.callback(start("kube-controller-manager", manager, logs).kill)
        yield server
