"""The way into a cluster: its address, the administrator's token and kubectl."""

import json
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

KUBECTL_SECONDS = 120.0
POLL_SECONDS = 0.2


class KubectlError(Exception):
    """What kubectl said on stderr."""


@dataclass(frozen=True, slots=True)
class Access:
    """A cluster as its administrator sees it."""

    kubeconfig: Path
    url: str
    ca_file: Path
    token: str = field(repr=False)
    kubectl_program: Path

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout_seconds: float = KUBECTL_SECONDS) -> str:
        """Run kubectl and return what it writes; raise KubectlError."""
        done = subprocess.run(
            [str(self.kubectl_program), f"--kubeconfig={self.kubeconfig}", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
            env={"HOME": str(self.kubeconfig.parent), "PATH": "/usr/bin:/bin"},
        )
        if done.returncode != 0:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def apply(self, *manifests: object) -> None:
        """Apply manifests, given as plain data, as the field manager `test`."""
        stdin = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
        self.kubectl("apply", "--server-side", "--field-manager=test", "-f", "-", stdin=stdin)

    def value(self, kind: str, name: str, path: str, namespace: str = "default") -> str:
        """Return one value of an object by JSONPath without its braces; empty where the object has none."""
        return self.kubectl("get", kind, name, "-n", namespace, "-o", f"jsonpath={{{path}}}")

    def ready(self) -> bool:
        """Return whether the API server says that it is ready."""
        request = urllib.request.Request(f"{self.url}/readyz", headers={"Authorization": f"Bearer {self.token}"})
        context = ssl.create_default_context(cafile=str(self.ca_file))
        try:
            with urllib.request.urlopen(request, timeout=5, context=context) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def define(ground: Access, definitions: Sequence[Path]) -> None:
    """Apply CRDs and wait until the API server serves their objects; raise KubectlError."""
    files = [f"--filename={definition}" for definition in definitions]
    if files:
        ground.kubectl("apply", "--server-side", *files)
        ground.kubectl("wait", "--for=condition=Established", "--timeout=60s", *files)


def write_kubeconfig(path: Path, url: str, ca_file: Path, token: str) -> None:
    """Write a kubeconfig that only its owner can read."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "ground", "cluster": {"server": url, "certificate-authority": str(ca_file)}}],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "ground", "context": {"cluster": "ground", "user": "admin"}}],
        "current-context": "ground",
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(content, indent=1))


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until the condition holds; raise TimeoutError that says what did not happen."""
    deadline = monotonic() + seconds
    while not condition():
        if monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        sleep(POLL_SECONDS)
