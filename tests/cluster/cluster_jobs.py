"""RLJobs on the node, and how they are looked at."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.jobs import EXAMPLES
from tests.ground.access import until
from tests.ground.real_node import RealNode

CONTAINERS = ("master", "trainer", "rollout")


def cluster_job(
    node: RealNode, namespace: str, toy: Path, state: Path, example: str = "01-reverse-digits", **recipe: Any
) -> dict[str, Any]:
    """Return an example for the node: its programs come from the machine, its state lies in a folder of it."""
    job: dict[str, Any] = yaml.safe_load((EXAMPLES / example / "rljob.yaml").read_text())
    job["metadata"]["namespace"] = namespace
    spec = job["spec"]
    spec["policy"]["model"]["path"] = str(toy / "policy")
    spec["data"]["train"][0]["path"] = str(toy / "data" / "train.jsonl")
    spec["hybrid"]["sharedMemory"] = "256Mi"
    spec["recipe"].update(recipe)
    spec["podTemplate"] = _pod_template(node, toy, state)
    return job


def _pod_template(node: RealNode, toy: Path, state: Path) -> dict[str, Any]:
    template: dict[str, Any] = node.host_mounts.pod_template(*CONTAINERS)
    state.mkdir(parents=True, exist_ok=True)
    template["spec"]["volumes"] += [
        {"name": "toy", "hostPath": {"path": str(toy), "type": "Directory"}},
        {"name": "state", "hostPath": {"path": str(state), "type": "Directory"}},
    ]
    template["spec"]["terminationGracePeriodSeconds"] = 15
    for container in template["spec"]["containers"]:
        container["imagePullPolicy"] = "Never"
        container["env"].append({"name": "PATH", "value": f"{node.python.parent}:/usr/bin:/bin"})
        container["volumeMounts"].append({"name": "toy", "mountPath": str(toy), "readOnly": True})
    return template


@dataclass(frozen=True)
class ClusterJob:
    """One applied job."""

    node: RealNode
    namespace: str
    name: str = "reverse-digits"

    def get(self) -> Mapping[str, Any]:
        found: dict[str, Any] = json.loads(
            self.node.kubectl("get", "rlj", self.name, "-n", self.namespace, "-o", "json")
        )
        return found

    @property
    def status(self) -> Mapping[str, Any]:
        status: Mapping[str, Any] = self.get().get("status") or {}
        return status

    def pods(self) -> dict[str, Mapping[str, Any]]:
        """Return the pods of the job by name."""
        text = self.node.kubectl("get", "pods", "-n", self.namespace, "-l", f"tandem.dev/job={self.name}", "-o", "json")
        return {pod["metadata"]["name"]: pod for pod in json.loads(text)["items"]}

    def condition(self, kind: str) -> Mapping[str, Any]:
        """Return one condition; an empty one before the operator has written it."""
        conditions = self.status.get("conditions", [])
        return next((item for item in conditions if item["type"] == kind), {"status": "", "reason": "", "message": ""})

    def wait_for_phase(self, phase: str, seconds: float) -> None:
        try:
            until(lambda: self._has_phase(phase), seconds, f"{self.name} does not become {phase}")
        except TimeoutError as error:
            error.add_note(f"it is {self.status}")
            raise

    def wait_for_iteration(self, iteration: int, seconds: float) -> None:
        until(
            lambda: self.status.get("iteration", 0) >= iteration,
            seconds,
            f"{self.name} does not reach iteration {iteration}",
        )

    def container_id(self, pod: str, container: str) -> str:
        statuses = self.pods()[pod]["status"].get("containerStatuses", [])
        return str(next(item["containerID"] for item in statuses if item["name"] == container))

    def log_of(self, pod: str, container: str) -> str:
        return self.node.kubectl("logs", pod, "-n", self.namespace, "-c", container)

    def environment_of(self, pod: str, container: str) -> dict[str, str]:
        """Return the environment of a container's first process."""
        pid = self.node.process_of(self.container_id(pod, container))
        entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
        return dict(entry.split("=", 1) for entry in entries if entry)

    def events(self) -> list[str]:
        """Return the reasons of the events that the operator has recorded."""
        return [str(event["reason"]) for event in self._events()]

    def messages(self, reason: str) -> list[str]:
        """Return what the events of one reason say."""
        return [str(event["message"]) for event in self._events() if event["reason"] == reason]

    def _events(self) -> list[Mapping[str, Any]]:
        text = self.node.kubectl("get", "events", "-n", self.namespace, "-o", "json")
        return [item for item in json.loads(text)["items"] if item["involvedObject"]["kind"] == "RLJob"]

    def _has_phase(self, phase: str) -> bool:
        now = self.status.get("phase")
        assert phase == "Failed" or now != "Failed", self.condition("Failed")["message"]
        return bool(now == phase)
