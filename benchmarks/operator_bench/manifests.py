"""The same four pods twice: as an RLJob and as a JobSet."""

from collections.abc import Mapping
from typing import Any

from tandem_api.job import RLJob
from tandem_operator.plan.job import Plan, Surroundings, plan_job
from tandem_operator.plan.objects import Pod

NUM_HYBRID = 3
PODS_PER_JOB = NUM_HYBRID + 1
OWN_LABELS = "app.kubernetes.io/"
GIVEN_BY_JOBSET = ("hostname", "subdomain", "serviceAccountName")
"""Fields of a pod that JobSet's controller fills in itself, or that name a child which only our operator makes."""

Manifest = Mapping[str, Any]


def rljob(namespace: str, name: str) -> Manifest:
    """Return a job of one master and three hybrid pods on CPUs."""
    return {
        "apiVersion": "tandem.dev/v1alpha1",
        "kind": "RLJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "policy": {"model": {"path": "/models/tiny"}},
            "data": {"train": [{"name": "math", "path": "/data/math.jsonl"}]},
            "rewards": [{"name": "answer", "builtin": "ExactMatch"}],
            "hybrid": {"replicas": NUM_HYBRID, "gpusPerPod": 1, "gpu": {"sharing": "None"}},
        },
    }


def jobset(namespace: str, name: str) -> Manifest:
    """Return the JobSet of the same pods, with what JobSet's webhook would fill in."""
    plan = _plan(namespace, name)
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "successPolicy": {"operator": "All"},
            "startupPolicy": {"startupPolicyOrder": "AnyOrder"},
            "replicatedJobs": [
                _replicated_job("master", plan.master, 1),
                _replicated_job("hybrid", plan.members[0], NUM_HYBRID),
            ],
        },
    }


def _plan(namespace: str, name: str) -> Plan:
    surroundings = Surroundings(etcd_endpoints=("127.0.0.1:2379",), token="")
    return plan_job(RLJob.model_validate(rljob(namespace, name)), surroundings)


def _replicated_job(role: str, pod: Pod, num_pods: int) -> Manifest:
    manifest: dict[str, Any] = pod.manifest()
    spec = {key: value for key, value in manifest["spec"].items() if key not in GIVEN_BY_JOBSET}
    if spec["restartPolicy"] == "Always":  # a Job has no such pods
        spec["restartPolicy"] = "OnFailure"
    labels = {key: value for key, value in manifest["metadata"]["labels"].items() if key.startswith(OWN_LABELS)}
    job = {
        "parallelism": num_pods,
        "completions": num_pods,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "template": {"metadata": {"labels": labels}, "spec": spec},
    }
    return {"name": role, "replicas": 1, "template": {"spec": job}}
