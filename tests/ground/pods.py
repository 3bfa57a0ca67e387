"""Small pods for the tests of the node."""

from collections.abc import Sequence

from pydantic import JsonValue

from tests.ground.access import KubectlError, until
from tests.ground.real_node import RealNode

READY_SECONDS = 60.0
FOREVER = "import time; time.sleep(3600)"


def container(node: RealNode, name: str, code: str = FOREVER, **more: JsonValue) -> dict[str, JsonValue]:
    """Return a container that runs Python code with the machine's Python."""
    return {
        "name": name,
        "image": node.image,
        "command": [str(node.python), "-c", code],
        "volumeMounts": node.host_mounts.volume_mounts(),
        **more,
    }


def pod(
    node: RealNode, name: str, namespace: str, containers: Sequence[JsonValue], **spec: JsonValue
) -> dict[str, JsonValue]:
    """Return a pod of these containers that ends quickly when it is deleted."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {
            "containers": list(containers),
            "volumes": node.host_mounts.volumes(),
            "terminationGracePeriodSeconds": 2,
            **spec,
        },
    }


def await_ready(node: RealNode, name: str, namespace: str) -> None:
    node.kubectl("wait", f"pod/{name}", "-n", namespace, "--for=condition=Ready", f"--timeout={READY_SECONDS:.0f}s")


def output_of(node: RealNode, name: str, namespace: str, container_name: str) -> str:
    """Wait until a container has written something, and return it."""

    def output() -> str:
        try:
            return node.kubectl("logs", name, "-n", namespace, "-c", container_name).strip()
        except KubectlError:  # a container that is not started yet has no log
            return ""

    until(output, READY_SECONDS, f"{container_name} of {name} says something")
    return output()


def status_of(node: RealNode, name: str, namespace: str, container_name: str, path: str) -> str:
    """Return a value of a container's status by JSONPath."""
    chosen = f".status.containerStatuses[?(@.name=='{container_name}')]"
    return node.value("pod", name, f"{chosen}{path}", namespace)
