"""The two operators: how each is started, and what it makes pods from."""

import json
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.operator_bench.cluster import BenchCluster
from benchmarks.operator_bench.manifests import Manifest, jobset, rljob
from tests.ground.keys import ClusterKeys
from tests.ground.processes import Running, start
from tests.tandem_checkpoint.etcd_process import free_address

READY_SECONDS = 90.0
STOP_SECONDS = 30.0
PROBES_PORT = 8081
WEBHOOK_PORT = 9443
OUR_PROGRAM = Path(sys.executable).with_name("tandem-operator")
PER_SECOND = 2000
"""Limit of each operator's own requests, far above what a few cores need; twice as many may go at once."""


@dataclass(frozen=True, slots=True)
class Contender:
    """An operator, seen from the benchmark."""

    name: str
    user: str
    """Its name at the API server."""
    group_path: str
    plural: str
    manifest: Callable[[str, str], Manifest]
    """Of a job, from namespace and name."""
    command: Callable[[BenchCluster, str], list[str]]
    """From the address where probes are served."""
    has_metrics: bool

    def collection(self, namespace: str) -> str:
        """Return the path of its jobs."""
        return f"{self.group_path}/namespaces/{namespace}/{self.plural}"

    @contextmanager
    def run(self, cluster: BenchCluster, programs: Mapping[str, Path]) -> Iterator["RunningOperator"]:
        """Start it and wait until it is ready; at the end it gives its lease up. Raise ProgramError."""
        address = free_address()
        command = [str(programs[self.name]), *self.command(cluster, address)]
        running = start(self.name, command, cluster.folder / "log")
        try:
            operator = RunningOperator(running, f"http://{address}:{PROBES_PORT}")
            running.until_ready(operator.ready, READY_SECONDS)
            yield operator
            running.process.terminate()
            running.process.wait(STOP_SECONDS)
        except Exception as error:  # whatever it was, its words are added, and it is raised again
            error.add_note(f"last words of {self.name}:\n{running.last_words()}")
            raise
        finally:
            running.kill()


@dataclass(frozen=True, slots=True)
class RunningOperator:
    """A started operator."""

    running: Running
    url: str

    @property
    def pid(self) -> int:
        """Return its process."""
        return self.running.process.pid

    def ready(self) -> bool:
        """Return whether it says that it is ready."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def metrics(self) -> str:
        """Return its metrics."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as answer:
            text: str = answer.read().decode()
            return text


def _our_command(cluster: BenchCluster, address: str) -> list[str]:
    return [
        f"--kubeconfig={cluster.kubeconfigs['tandem-operator']}",
        f"--etcd={cluster.etcd_endpoint}",
        "--lease-namespace=default",
        f"--metrics-address={address}:{PROBES_PORT}",
        f"--writes-per-second={PER_SECOND}",
    ]


def _jobset_command(cluster: BenchCluster, address: str) -> list[str]:
    """Webhooks are served and nobody asks them: the API server knows of none."""
    certificates = cluster.folder / "jobset-certificates"
    _copy_certificates(cluster.keys, certificates)
    configuration = {
        "apiVersion": "config.jobset.x-k8s.io/v1alpha1",
        "kind": "Configuration",
        "leaderElection": {"leaderElect": True, "resourceNamespace": "default", "resourceName": f"jobset-{address}"},
        "internalCertManagement": {"enable": False},
        "webhook": {"host": address, "port": WEBHOOK_PORT, "certDir": str(certificates)},
        "metrics": {"bindAddress": "0"},
        "health": {"healthProbeBindAddress": f"{address}:{PROBES_PORT}"},
        "clientConnection": {"qps": PER_SECOND, "burst": 2 * PER_SECOND},
    }
    file = cluster.folder / f"jobset-{address}.json"
    file.write_text(json.dumps(configuration))
    return [f"--config={file}", f"--kubeconfig={cluster.kubeconfigs['jobset']}", "--zap-log-level=info"]


def _copy_certificates(keys: ClusterKeys, folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(keys.server_certificate, folder / "tls.crt")
    shutil.copy(keys.server_key, folder / "tls.key")


OURS = Contender(
    "tandem-operator", "tandem-operator", "/apis/tandem.dev/v1alpha1", "rljobs", rljob, _our_command, has_metrics=True
)
JOBSET = Contender(
    "jobset-controller",
    "jobset",
    "/apis/jobset.x-k8s.io/v1alpha2",
    "jobsets",
    jobset,
    _jobset_command,
    has_metrics=False,
)
