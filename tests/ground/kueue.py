"""Kueue as it is installed: its controllers, its webhooks and its conversion, on a loopback address."""

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.ground.access import Access
from tests.ground.api_server import ApiServer
from tests.ground.fake_nodes import GPU_CLASS
from tests.ground.processes import Running, start
from tests.tandem_checkpoint.etcd_process import free_address

READY_SECONDS = 180.0
PROBES_PORT = 8081
WEBHOOK_PORT = 9443
NAMESPACE = "kueue-system"
SERVICE = "kueue-webhook-service"
SECRET = "kueue-webhook-server-cert"
CONVERTED = ("clusterqueues", "cohorts", "localqueues", "multikueueclusters", "workloads")
"""Kinds of which Kueue converts the older version."""
GPU_RESOURCE = "nvidia.com/gpu"
"""What quota is given for, where a pod claims devices of the class; Kueue refuses claims of a class without a name."""
OWN_PATH = "-kueue-x-k8s-io-"
"""Part of the path of a webhook about Kueue's own kinds; the others are about jobs that it is not asked to manage."""


def definitions(programs: Mapping[str, Path]) -> Sequence[Path]:
    """Return the files of Kueue's CRDs."""
    return sorted(programs["kueue-manifests"].glob("kueue.x-k8s.io_*.yaml"))


@contextmanager
def run_kueue(
    server: ApiServer, programs: Mapping[str, Path], pods_ready_seconds: int | None = None
) -> Iterator[Running]:
    """Run Kueue beside an API server that has its CRDs, until it is ready; raise ProgramError.

    `pods_ready_seconds` is how long an admitted workload may be without `PodsReady`; None leaves it to Kueue.
    """
    address = free_address()
    folder = server.log_folder.parent / f"kueue-{address}"
    certificates = folder / "certificates"
    certificates.mkdir(mode=0o700, parents=True)
    configuration = folder / "configuration.json"
    configuration.write_text(json.dumps(_configuration(address, certificates, pods_ready_seconds)))
    _install(server, programs["kueue-manifests"] / "manifests.yaml", address)
    command: list[str | Path] = [programs["kueue"], f"--config={configuration}", f"--kubeconfig={server.kubeconfig}"]
    running = start("kueue", command, server.log_folder)
    try:
        running.until_ready(lambda: _take_certificates(server, certificates), READY_SECONDS)
        running.until_ready(lambda: _ready(address), READY_SECONDS)
        yield running
    finally:
        running.kill()


def _configuration(address: str, certificates: Path, pods_ready_seconds: int | None) -> dict[str, object]:
    waiting = {"waitForPodsReady": {"timeout": f"{pods_ready_seconds}s"}} if pods_ready_seconds else {}
    return {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "namespace": NAMESPACE,
        "manageJobsWithoutQueueName": False,
        "integrations": {"frameworks": ["batch/job"]},
        "internalCertManagement": {"enable": True, "webhookServiceName": SERVICE, "webhookSecretName": SECRET},
        "leaderElection": {"leaderElect": False},
        "health": {"healthProbeBindAddress": f"{address}:{PROBES_PORT}"},
        "metrics": {"bindAddress": "0"},
        "webhook": {"host": address, "port": WEBHOOK_PORT, "certDir": str(certificates)},
        "resources": {"deviceClassMappings": [{"name": GPU_RESOURCE, "deviceClassNames": [GPU_CLASS]}]},
        # An API server of its own, which would listen on every address.
        "featureGates": {"VisibilityOnDemand": False},
        **waiting,
    }


def _install(server: Access, webhooks: Path, address: str) -> None:
    """Apply what Kueue expects to find; its Service leads the API server to the address by name alone."""
    metadata = {"namespace": NAMESPACE}
    server.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, **metadata}},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": SERVICE, **metadata},
            "spec": {"type": "ExternalName", "externalName": address},
        },
        *(_own_webhooks(manifest) for manifest in yaml.safe_load_all(webhooks.read_text())),
    )
    client = {"service": _service("/convert")}
    webhook = {"clientConfig": client, "conversionReviewVersions": ["v1"]}
    patch = json.dumps({"spec": {"conversion": {"strategy": "Webhook", "webhook": webhook}}})
    names = [f"{kind}.kueue.x-k8s.io" for kind in CONVERTED]
    server.kubectl("patch", "customresourcedefinitions", *names, "--type=merge", "-p", patch)


def _service(path: str) -> dict[str, object]:
    return {"namespace": NAMESPACE, "name": SERVICE, "path": path, "port": WEBHOOK_PORT}


def _own_webhooks(manifest: dict[str, object]) -> dict[str, object]:
    """Return a webhook configuration as an installation has it, without the webhooks for jobs."""
    webhooks = manifest["webhooks"]
    metadata = manifest["metadata"]
    assert isinstance(webhooks, list)
    assert isinstance(metadata, dict)
    own = [each for each in webhooks if OWN_PATH in each["clientConfig"]["service"]["path"]]
    led = [{**each, "clientConfig": {"service": _service(each["clientConfig"]["service"]["path"])}} for each in own]
    return {**manifest, "metadata": {"name": f"kueue-{metadata['name']}"}, "webhooks": led}


def _take_certificates(server: Access, folder: Path) -> bool:
    """Return whether Kueue has made its certificate, and put it where it looks for it, as a mounted Secret does."""
    data = json.loads(server.kubectl("get", "secret", SECRET, "-n", NAMESPACE, "-o", "json")).get("data", {})
    if "tls.crt" not in data:
        return False
    for name in ("tls.key", "tls.crt"):
        file = folder / name
        file.touch(mode=0o600)
        file.write_bytes(base64.b64decode(data[name]))
    return True


def _ready(address: str) -> bool:
    """Return whether it says that it is ready; while it makes its certificate, it only says that it is alive."""
    try:
        with urllib.request.urlopen(f"http://{address}:{PROBES_PORT}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
