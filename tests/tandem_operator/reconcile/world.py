"""A small world for the operator's decisions: an API server that holds one RLJob, kubelets, a master and a clock."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tandem_api.job import RLJob
from tandem_api.job.status import ConditionType, Phase, RLJobStatus
from tandem_api.registry import Progress
from tandem_operator.plan.names import LABEL_ROLE
from tandem_operator.plan.revision import ANNOTATION_APPLIED_HASH, ANNOTATION_ATTEMPT
from tandem_operator.reconcile.pods import write_time
from tests.tandem_operator.jobs import job_with
from tests.tandem_operator.reconcile.kueue_world import Kueue

Manifest = dict[str, Any]
START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
GRACE = timedelta(seconds=30)
ITERATIONS = 3


class ConflictError(Exception):
    """The RLJob is not at the resource version that a write named."""


class AlreadyExistsError(Exception):
    """A pod of this name is there."""


class CrashError(Exception):
    """The operator ended between two writes."""


@dataclass
class World:
    """What is true. Every write checks what must never happen."""

    body: Manifest = field(default_factory=dict)
    pods: dict[str, Manifest] = field(default_factory=dict)
    applied: dict[tuple[str, str], str] = field(default_factory=dict)
    progress: Progress | None = None
    now: datetime = START
    gone: bool = False
    events: list[tuple[str, str]] = field(default_factory=list)
    """Reason and message of each, in order."""
    writes: list[str] = field(default_factory=list)
    made: dict[int, list[str]] = field(default_factory=dict)
    """Names of the pods made, by attempt, in order."""
    removed: list[str] = field(default_factory=list)
    hanging: set[str] = field(default_factory=set)
    """uids of pods whose node answers no more."""
    kueue: Kueue | None = None
    """None in a cluster that has none."""
    groups: dict[str, str] = field(default_factory=dict)
    """uid of each PodGroup, by name."""
    epoch: int = 0
    version: int = 1
    num_uids: int = 0

    @classmethod
    def with_job(cls, **spec: Any) -> "World":
        """Return a world in which a job was just applied."""
        defaults: dict[str, Any] = {
            "hybrid": {"replicas": 2, "gpusPerPod": 1, "gpu": {"sharing": "None"}},
            "rollout": {"elastic": {"replicas": 0, "gpusPerPod": 1}},
            "recipe": {"iterations": ITERATIONS},
        }
        document = job_with(uid="job-uid", **(defaults | spec)).model_dump(
            mode="json", by_alias=True, exclude_none=True
        )
        document.pop("status", None)
        document["metadata"] |= {"generation": 1, "resourceVersion": "1"}
        return cls(body=document)

    # --- the API server ---

    @property
    def job(self) -> RLJob:
        return RLJob.model_validate({key: value for key, value in self.body.items() if key != "status"})

    @property
    def status(self) -> RLJobStatus:
        return RLJobStatus.model_validate(self.body.get("status") or {})

    def write_status(self, resource_version: str, status: RLJobStatus, job: RLJob) -> Manifest:
        """Replace the status as server-side apply of its whole does; ConflictError where somebody was faster."""
        self.writes.append("status")
        if resource_version != self.body["metadata"]["resourceVersion"]:
            raise ConflictError
        document = status.model_dump(mode="json", by_alias=True, exclude_none=True)
        after, before = RLJobStatus.model_validate(document), self.status
        limit = max(before.restarts, job.spec.failure_policy.max_restarts)
        assert after.attempt >= before.attempt, "an attempt went back"
        assert before.restarts <= after.restarts <= limit, "more restarts than spec.failurePolicy.maxRestarts"
        assert not self.has_ended or _ends(after) == _ends(before), "the end of a job was taken back"
        self.body["status"] = document
        self._touch()
        return deepcopy(self.body)

    def create_pod(self, manifest: Mapping[str, Any]) -> Manifest:
        """Make a pod; AlreadyExistsError where there is one of its name."""
        pod = deepcopy(dict(manifest))
        name = pod["metadata"]["name"]
        self.writes.append(f"create {name}")
        if name in self.pods:
            raise AlreadyExistsError(name)
        assert not self.has_ended, f"{name} was made after the end"
        made = self.made.setdefault(attempt_of(pod), [])
        if role_of(pod) == "master":
            hybrid = {f"{self.body['metadata']['name']}-hybrid-{index}" for index in range(self.num_hybrid)}
            assert hybrid <= set(made), "the master was made before its members"
        made.append(name)
        self.num_uids += 1
        pod["metadata"]["uid"] = f"uid-{self.num_uids}"
        pod["status"] = {"phase": "Pending", "conditions": []}
        self.pods[name] = pod
        return deepcopy(pod)

    def delete_pod(self, name: str, uid: str | None = None) -> None:
        """Ask a pod to go; one without a node goes at once. Nothing where another pod has its name by now."""
        self.writes.append(f"delete {name}")
        pod = self.pods.get(name)
        if pod is None or (uid is not None and pod["metadata"]["uid"] != uid):
            return
        if not _is_scheduled(pod):
            del self.pods[name]
        elif "deletionTimestamp" not in pod["metadata"]:
            pod["metadata"] |= {"deletionTimestamp": write_time(self.now + GRACE), "deletionGracePeriodSeconds": 30}

    def apply(self, manifest: Mapping[str, Any]) -> None:
        """Make or change a child that is no pod."""
        kind, metadata = str(manifest["kind"]), manifest["metadata"]
        self.writes.append(f"apply {(kind, metadata['name'])}")
        if kind == "Workload":
            assert self.kueue is not None, "a Workload was sent to a cluster without Kueue"
            self.kueue.apply(manifest)
            return
        if kind == "PodGroup":
            self.num_uids += 1
            self.groups.setdefault(metadata["name"], f"uid-{self.num_uids}")
        self.applied[(kind, str(metadata["name"]))] = metadata["annotations"][ANNOTATION_APPLIED_HASH]

    def discard(self, kind: str, name: str, uid: str) -> None:
        """Delete a child that is no pod, if it is still the one that is meant."""
        self.writes.append(f"delete {(kind, name)}")
        assert not self.running_pods, f"{kind} {name} went before its pods"
        if kind == "Workload" and self.kueue is not None:
            self.kueue.delete(uid)
        elif self.groups.get(name) == uid:
            del self.groups[name], self.applied[(kind, name)]

    def report(self, patch: Mapping[str, Any]) -> None:
        """Merge a patch into the status of the Workload."""
        self.writes.append("report")
        assert self.kueue is not None
        if "admission" in patch["status"]:
            assert not self.running_pods, "quota was given back while pods run"
        self.kueue.patch_status(patch)

    def remove_pod(self, name: str, uid: str) -> None:
        """Carry out a Removal."""
        self.removed.append(name)
        self.delete_pod(name, uid)

    # --- people ---

    def edit(self, section: str, value: Any) -> None:
        """Set a field of the spec, by its dotted path in camelCase."""
        *path, last = section.split(".")
        place = self.body["spec"]
        for step in path:
            place = place.setdefault(step, {})
        if place.get(last) != value:
            place[last] = value
            self.body["metadata"]["generation"] += 1
            self._touch()

    # --- kubelets ---

    def schedule(self, name: str) -> None:
        """Give a pod a node."""
        self._set_condition(name, "PodScheduled", "True")

    def refuse_node(self, name: str, words: str) -> None:
        """Let the scheduler say that it finds no node."""
        self._set_condition(name, "PodScheduled", "False", words)

    def start(self, name: str) -> None:
        """Run the containers of a pod."""
        self.schedule(name)
        status = self.pods[name]["status"]
        containers = [item["name"] for item in self.pods[name]["spec"]["containers"]]
        status["phase"] = "Running"
        status["containerStatuses"] = [
            {"name": item, "restartCount": 0, "state": {"running": {}}, "lastState": {}} for item in containers
        ]
        self._set_condition(name, "Ready", "True")

    def cannot_start(self, name: str, container: str, reason: str, message: str = "") -> None:
        """Let a container of a pod that has a node wait."""
        self.schedule(name)
        waiting = {"name": container, "restartCount": 0, "state": {"waiting": {"reason": reason, "message": message}}}
        self.pods[name]["status"]["containerStatuses"] = [waiting]

    def end_container(self, name: str, container: str, exit_code: int, reason: str = "Error") -> None:
        """End a container. The kubelet starts it again, but not the master."""
        status = self.pods[name]["status"]
        found = next(item for item in status["containerStatuses"] if item["name"] == container)
        self.num_uids += 1
        ended = {
            "exitCode": exit_code,
            "reason": reason if exit_code else "Completed",
            "containerID": f"containerd://{self.num_uids}",
            "finishedAt": write_time(self.now),
        }
        if role_of(self.pods[name]) != "master":
            found |= {"lastState": {"terminated": ended}, "restartCount": found["restartCount"] + 1}
            return
        found["state"] = {"terminated": ended}
        status["phase"] = "Succeeded" if exit_code == 0 else "Failed"
        self._set_condition(name, "Ready", "False")

    def end_everywhere(self, container: str, exit_code: int) -> None:
        """End a container in every hybrid pod."""
        for name in [name for name, pod in self.pods.items() if role_of(pod) == "hybrid"]:
            self.end_container(name, container, exit_code)

    def fail_pod(self, name: str, reason: str, message: str = "") -> None:
        """End a pod as a whole: evicted, or not admitted by its node."""
        self.schedule(name)
        status = self.pods[name]["status"]
        status |= {"phase": "Failed", "reason": reason, "message": message}
        for item in status.get("containerStatuses", ()):
            self.num_uids += 1
            item["state"] = {"terminated": {"exitCode": 137, "reason": "Error", "containerID": f"c://{self.num_uids}"}}
        self._set_condition(name, "Ready", "False")

    def disrupt(self, name: str, reason: str) -> None:
        """Delete a pod as the eviction API, the scheduler or the taint manager does: saying so in a condition."""
        self._set_condition(name, "DisruptionTarget", "True", reason=reason)
        self.delete_pod(name)

    def hang(self, name: str) -> None:
        """Let the pod's node answer no more."""
        self.hanging.add(self.pods[name]["metadata"]["uid"])

    def finish(self, name: str) -> None:
        """Let a pod that was asked to go be gone, unless it hangs."""
        if self.pods[name]["metadata"]["uid"] not in self.hanging:
            del self.pods[name]

    # --- the master ---

    def speak(self, *, switch: bool = False, **told: Any) -> None:
        """Let the master write its progress; `switch`: after one more switch, which has a new number."""
        known = self.progress or Progress(activity="starting", iteration=0, iterations=ITERATIONS, generation=0)
        if switch:
            self.epoch += 1
            told = {"phase": Phase.INFER, "epoch": self.epoch, "activity": "sampling"} | told
        self.progress = known.model_copy(update=told)

    def complete(self) -> None:
        """Let the master end its last iteration, say so and end."""
        self.speak(switch=True, iteration=ITERATIONS, activity="completed")
        self.end_container(self.master, "master", 0)

    # --- reading ---

    @property
    def master(self) -> str:
        return f"{self.body['metadata']['name']}-master"

    @property
    def num_hybrid(self) -> int:
        return int(self.body["spec"]["hybrid"]["replicas"])

    @property
    def running_pods(self) -> list[str]:
        return [name for name, pod in self.pods.items() if pod["status"]["phase"] not in ("Succeeded", "Failed")]

    @property
    def names(self) -> list[str]:
        """Short names of all pods, sorted."""
        prefix = f"{self.body['metadata']['name']}-"
        return sorted(name.removeprefix(prefix) for name in self.pods)

    @property
    def going(self) -> list[str]:
        """Short names of the pods that were asked to go."""
        prefix = f"{self.body['metadata']['name']}-"
        asked = [name for name, pod in self.pods.items() if "deletionTimestamp" in pod["metadata"]]
        return sorted(name.removeprefix(prefix) for name in asked)

    @property
    def has_ended(self) -> bool:
        return bool(_ends(self.status))

    def condition(self, kind: str) -> tuple[str, str, str]:
        """Return status, reason and message of a condition."""
        found = next(item for item in self.status.conditions if item.type == kind)
        return found.status, found.reason, found.message

    def reasons(self) -> list[str]:
        """Return the reasons of all events, in order."""
        return [reason for reason, _ in self.events]

    def attempts(self) -> set[int]:
        """Return the attempts of the pods that are there."""
        return {attempt_of(pod) for pod in self.pods.values()}

    def uids(self) -> dict[str, str]:
        """Return the uid of each pod, by name."""
        return {name: pod["metadata"]["uid"] for name, pod in self.pods.items()}

    def _touch(self) -> None:
        self.version += 1
        self.body["metadata"]["resourceVersion"] = str(self.version)

    def _set_condition(self, name: str, kind: str, status: str, message: str = "", reason: str = "") -> None:
        told = self.pods[name]["status"]
        others = [item for item in told["conditions"] if item["type"] != kind]
        told["conditions"] = [*others, {"type": kind, "status": status, "message": message, "reason": reason}]


def role_of(pod: Mapping[str, Any]) -> str:
    """Return what a pod is for."""
    return str(pod["metadata"]["labels"][LABEL_ROLE])


def attempt_of(pod: Mapping[str, Any]) -> int:
    """Return the attempt that a pod was made in."""
    return int(pod["metadata"]["annotations"][ANNOTATION_ATTEMPT])


def _is_scheduled(pod: Manifest) -> bool:
    return any(item["type"] == "PodScheduled" and item["status"] == "True" for item in pod["status"]["conditions"])


def _ends(status: RLJobStatus) -> list[tuple[str, str]]:
    ends = (ConditionType.COMPLETED, ConditionType.FAILED)
    return [(item.type.value, item.reason) for item in status.conditions if item.type in ends and item.status == "True"]
