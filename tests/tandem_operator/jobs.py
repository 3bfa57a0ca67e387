"""Jobs, surroundings and plans for the tests of the planner."""

from typing import Any

from hypothesis import strategies as st

from tandem_api.job import RLJob
from tandem_operator.plan.job import Plan, Surroundings, plan_job
from tandem_operator.plan.objects import Container, Pod

SURROUNDINGS = Surroundings(
    etcd_endpoints=("etcd-0:2379", "etcd-1:2379"), token="s3cret", shared_memory_bytes=1_073_741_824
)


def job_with(*, name: str = "math-8b", namespace: str = "research", uid: str | None = None, **spec: Any) -> RLJob:
    """Return a valid job with sections of its spec replaced, in camelCase as a user writes them."""
    return RLJob.model_validate(
        {
            "metadata": {"name": name, "namespace": namespace, "uid": uid},
            "spec": {
                "policy": {"model": {"path": "/models/tiny"}},
                "data": {"train": [{"name": "math", "path": "/data/math.jsonl"}]},
                "rewards": [{"name": "answer", "builtin": "ExactMatch"}],
                **spec,
            },
        }
    )


def plan_with(
    *, name: str = "math-8b", uid: str | None = None, around: Surroundings = SURROUNDINGS, **spec: Any
) -> Plan:
    """Return the plan of a job with sections of its spec replaced."""
    return plan_job(job_with(name=name, uid=uid, **spec), around)


def pod_of(plan: Plan, name: str) -> Pod:
    """Return one pod by name."""
    return next(pod for pod in plan.pods if pod.metadata.name == name)


def container_of(pod: Pod, name: str) -> Container:
    """Return one container by name."""
    return next(container for container in pod.spec.containers if container.name == name)


def env_of(container: Container) -> dict[str, str | None]:
    """Return the variables of a container; one that takes its value from the pod shows the field's path."""
    return {
        item.name: item.value
        if item.value_from is None or item.value_from.field_ref is None
        else item.value_from.field_ref.field_path
        for item in container.env
    }


def mounts_of(container: Container) -> dict[str, str]:
    """Return the volume at each mount path."""
    return {mount.mount_path: mount.name for mount in container.volume_mounts}


QUANTITIES = st.sampled_from(["500m", "16", "64Gi", "1.5T"])
RESOURCES = st.fixed_dictionaries(
    {},
    optional={
        "requests": st.dictionaries(st.sampled_from(["cpu", "ephemeral-storage"]), QUANTITIES),
        "limits": st.dictionaries(st.sampled_from(["memory", "hugepages-2Mi"]), QUANTITIES),
    },
)
TEMPLATES = st.fixed_dictionaries(
    {},
    optional={
        "metadata": st.fixed_dictionaries(
            {},
            optional={
                "labels": st.dictionaries(st.sampled_from(["team", "cost"]), st.text()),
                "annotations": st.dictionaries(st.text(min_size=1), st.text()),
            },
        ),
        "spec": st.fixed_dictionaries(
            {},
            optional={
                "tolerations": st.just([{"key": "nvidia.com/gpu", "operator": "Exists"}]),
                "nodeSelector": st.dictionaries(st.text(min_size=1), st.text()),
                "volumes": st.just([{"name": "models", "hostPath": {"path": "/models"}}]),
                "containers": st.lists(
                    st.fixed_dictionaries(
                        {"name": st.sampled_from(["master", "trainer", "rollout"])},
                        optional={"env": st.just([{"name": "HF_HOME", "value": "/hf"}]), "image": st.just("mine:1")},
                    ),
                    max_size=3,
                ),
            },
        ),
    },
)
DEVICES = st.integers(1, 32)
CLAIMED = st.fixed_dictionaries(
    {"sharing": st.just("DRA")},
    optional={
        "selectors": st.lists(st.text(min_size=1), max_size=2),
        "deviceClassName": st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,20}[a-z0-9])?", fullmatch=True),
    },
)
RDMA = st.fixed_dictionaries({}, optional={"count": st.integers(1, 8)}) | st.just({"hostNetwork": True})
PODS_AND_SIZES = {"replicas": st.integers(1, 3), "gpusPerPod": DEVICES}
ON_GPUS = st.fixed_dictionaries(
    PODS_AND_SIZES,
    optional={
        "gpu": CLAIMED | st.just({"sharing": "VisibleAll"}),
        "sharedMemory": QUANTITIES,
        "rdma": RDMA,
        "resources": RESOURCES,
    },
)
ON_CPUS = st.fixed_dictionaries(
    {**PODS_AND_SIZES, "gpu": st.just({"sharing": "None"})},
    optional={"sharedMemory": QUANTITIES, "resources": RESOURCES},
)
JOBS = st.builds(
    job_with,
    name=st.from_regex(r"[a-z]([-a-z0-9]{0,48}[a-z0-9])?", fullmatch=True),
    uid=st.none() | st.uuids().map(str),
    hybrid=ON_GPUS | ON_CPUS,
    rollout=st.fixed_dictionaries(
        {"elastic": st.fixed_dictionaries({"replicas": st.integers(0, 3), "gpusPerPod": DEVICES})},
        optional={
            "resources": RESOURCES,
            "engineArgs": st.dictionaries(st.text(), st.integers() | st.booleans() | st.none() | st.text()),
        },
    ),
    checkpoints=st.fixed_dictionaries({}, optional={"claimName": st.sampled_from(["disk", "research.math-8b"])}),
    scheduling=st.fixed_dictionaries(
        {}, optional={"priorityClassName": st.just("high"), "topologyKey": st.just("topology.kubernetes.io/rack")}
    ),
    podTemplate=TEMPLATES,
)
"""Any valid job, small enough to plan quickly."""
