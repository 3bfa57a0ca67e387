"""The funnel over HTTP: what one look writes to an API server, and what it keeps away from."""

import asyncio
from collections.abc import AsyncIterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tandem_operator.kube.cache import ChildCache, WatchedKind
from tandem_operator.kube.client import KubeClient
from tandem_operator.kube.credentials import connect
from tandem_operator.kube.recorder import EventRecorder
from tandem_operator.kube.resources import POD
from tandem_operator.reconcile.funnel import OPTIONAL_KINDS, SUPPORTING_KINDS, Funnels
from tandem_operator.reconcile.record import Place
from tandem_operator.reconcile.steps import Cluster
from tests.tandem_operator.kube.conftest import QUICK, write_kubeconfig
from tests.tandem_operator.kube.fake_api import FakeApi, Fault
from tests.tandem_operator.kube.waiting import eventually
from tests.tandem_operator.reconcile.world import World

JOBS = "/apis/tandem.dev/v1alpha1/namespaces/research/rljobs"
PODS = "/api/v1/namespaces/research/pods"
ALL_PODS = ["math-8b-hybrid-0", "math-8b-hybrid-1", "math-8b-master"]


@dataclass
class Stage:
    """One operator's funnels before an API server that holds one RLJob."""

    api: FakeApi
    funnels: Funnels
    body: dict[str, Any]

    def hand_over(self) -> None:
        """Tell the funnels of the job."""
        self.funnels.sink("research", "math-8b", self.body)

    def created(self) -> list[str]:
        """Return the names of the pods that were sent, in order."""
        sent = [body for body in self.api.bodies if body.get("kind") == "Pod"]
        return [str(body["metadata"]["name"]) for body in sent]

    def told(self) -> dict[str, str]:
        """Return the reasons of all conditions that were written last."""
        written = [body["status"] for body in self.api.bodies if body.get("kind") == "RLJob"]
        return {item["type"]: item["reason"] for item in written[-1]["conditions"]} if written else {}


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """Funnels at work over a cache that is filled, before a job that nobody has told them of."""
    api = FakeApi()
    await api.start()
    connection = await connect(write_kubeconfig(tmp_path, api.url))
    client = KubeClient(connection, retry=QUICK)
    wakes: list[tuple[str, str]] = []
    watched = [WatchedKind(kind, optional=kind in OPTIONAL_KINDS) for kind in (POD, *SUPPORTING_KINDS, *OPTIONAL_KINDS)]
    api.unserved |= {"podgroups", "workloads"}
    cache = ChildCache(client, watched, on_change=lambda namespace, job: wakes.append((namespace, job)))
    cluster = Cluster(client, cache, EventRecorder(client, instance="test"))
    funnels = Funnels(cluster, Place(etcd_endpoints=("etcd:2379",)), workers=1)
    body = await api.write(f"{JOBS}/math-8b", deepcopy(World.with_job().body))
    stop = asyncio.Event()
    tasks = [asyncio.create_task(cache.run(), name="cache"), asyncio.create_task(funnels.run(stop), name="funnels")]
    await asyncio.wait_for(cache.synced.wait(), 20)
    yield Stage(api, funnels, body)
    stop.set()
    tasks[0].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await connection.close()
    await api.stop()


async def test_a_new_job_gets_its_pods_the_master_last_and_then_a_status(stage: Stage) -> None:
    stage.hand_over()

    await eventually(stage.told, "a status")

    assert stage.created() == ALL_PODS
    assert stage.told()["PodsScheduled"] == "PodsMissing"


async def test_a_job_that_cannot_be_read_is_told_why_and_gets_no_pod(stage: Stage) -> None:
    stage.body["spec"]["hybrid"]["replicas"] = "many"
    stage.hand_over()

    await eventually(stage.told, "a status")

    assert stage.told() == {"Progressing": "InvalidSpec"}
    assert stage.created() == []


async def test_the_master_is_not_made_while_a_pod_of_a_members_name_is_unknown(stage: Stage) -> None:
    foreign = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "math-8b-hybrid-1"}}
    await stage.api.write(f"{PODS}/math-8b-hybrid-1", foreign)
    stage.hand_over()

    await eventually(stage.told, "a status")

    assert stage.created() == ALL_PODS[:2]
    assert stage.told()["PodsScheduled"] == "PodsMissing"


async def test_a_child_that_is_refused_does_not_keep_the_status_from_people(stage: Stage) -> None:
    stage.api.faults.append(Fault(status=422, method="PATCH"))
    stage.hand_over()

    await eventually(stage.told, "a status")

    assert stage.created() == []
    assert stage.told()["PodsScheduled"] == "PodsMissing"


async def test_a_job_whose_namespace_is_being_deleted_is_left_alone_without_a_word(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    stage.api.faults.append(Fault(status=403, method="PATCH", cause="NamespaceTerminating"))
    stage.hand_over()

    await eventually(lambda: "its namespace is being deleted" in caplog.text, "the word in the log")

    assert [record.levelname for record in caplog.records if "tandem_operator" in record.name] == ["INFO"]
    assert stage.created() == []


async def test_a_status_over_a_newer_job_is_refused_and_the_job_is_looked_at_again(stage: Stage) -> None:
    stage.hand_over()
    newer = await stage.api.write(f"{JOBS}/math-8b", deepcopy(stage.body))
    await eventually(lambda: len(stage.created()) >= len(ALL_PODS), "pods")
    stage.body = newer

    stage.hand_over()

    await eventually(lambda: stage.told().get("Progressing") == "Starting", "a status")
    assert sorted(set(stage.created())) == ALL_PODS


async def test_a_job_that_is_being_deleted_is_left_alone(stage: Stage) -> None:
    stage.body["metadata"]["deletionTimestamp"] = "2026-01-01T12:00:00Z"
    stage.hand_over()
    await eventually(lambda: stage.funnels.heartbeat_age_seconds() == 0.0, "the end of the look")

    assert stage.created() == []
    assert stage.told() == {}
