"""The rights of operator/deploy/operator.yaml on a cluster of tests, and a kubeconfig of who has no more than these."""

from pathlib import Path

import yaml

from tests.ground.access import write_kubeconfig
from tests.ground.api_server import ApiServer

DEPLOY = Path(__file__).parents[2] / "operator" / "deploy" / "operator.yaml"
ACCOUNT = "system:serviceaccount:tandem-system:tandem-operator"


def grant_rights(server: ApiServer) -> str:
    """Make the operator's ServiceAccount with its roles; return a token of it."""
    manifests = [item for item in yaml.safe_load_all(DEPLOY.read_text()) if item["kind"] != "Deployment"]
    server.apply(*manifests)
    return server.kubectl("create", "token", "tandem-operator", "-n", "tandem-system").strip()


def kubeconfig_with_rights(server: ApiServer, folder: Path) -> Path:
    """Return a new kubeconfig of the operator's ServiceAccount."""
    path = folder / "kubeconfig"
    write_kubeconfig(path, server.url, server.ca_file, grant_rights(server))
    return path
