"""Objects for the tests of the Kubernetes edge."""

from tandem_operator.kube.manifest import Manifest


def config_map(namespace: str, name: str, *, job: str | None = None, **data: str) -> Manifest:
    """Return a ConfigMap, of a job where one is named."""
    labels: Manifest = {} if job is None else {"tandem.dev/job": job}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "data": dict(data),
    }
