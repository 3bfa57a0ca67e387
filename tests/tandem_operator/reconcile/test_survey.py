"""What the funnel reads of a cluster for a job: its gang, its priority, the nodes that a queue has given."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tandem_operator.kube.cache import ChildCache, WatchedKind
from tandem_operator.kube.client import KubeClient
from tandem_operator.kube.credentials import connect
from tandem_operator.kube.errors import NotFoundError
from tandem_operator.kube.resources import KUEUE_WORKLOAD
from tandem_operator.plan.surroundings import Assignment
from tandem_operator.reconcile.admission import WorkloadView, read_workload
from tandem_operator.reconcile.funnel import OPTIONAL_KINDS
from tandem_operator.reconcile.survey import Offer, Surveyor
from tests.tandem_operator.jobs import job_with
from tests.tandem_operator.kube.conftest import QUICK, write_kubeconfig
from tests.tandem_operator.kube.fake_api import FakeApi
from tests.tandem_operator.kube.waiting import eventually

FLAVORS = "/apis/kueue.x-k8s.io/v1beta2/resourceflavors"
CLASSES = "/apis/scheduling.k8s.io/v1/priorityclasses"
QUEUED = job_with(scheduling={"queueName": "research", "priorityClassName": "high"})


class Reader:
    """A client, a cache of nothing, and the API server behind them."""

    def __init__(self, api: FakeApi, client: KubeClient) -> None:
        self.api, self.client = api, client
        watched = [WatchedKind(kind, optional=True) for kind in OPTIONAL_KINDS]
        self.cache = ChildCache(client, watched, on_change=lambda namespace, job: None)
        self.now = 1000.0
        self.surveyor = Surveyor(client, self.cache, lambda: self.now)

    async def survey(self, view: WorkloadView | None, known: Offer, job: Any = QUEUED) -> Offer:
        return await self.surveyor.survey(job, view, known, has_kueue=await self.surveyor.has_queues(job))


@pytest.fixture
async def reader(tmp_path: Path) -> AsyncIterator[Reader]:
    api = FakeApi()
    api.discovered |= {
        "/apis/kueue.x-k8s.io/v1beta2": ("workloads",),
        "/apis/scheduling.k8s.io/v1beta1": ("podgroups",),
        "/apis/scheduling.k8s.io/v1alpha2": ("podgroups",),
        "/apis/scheduling.volcano.sh/v1beta1": ("podgroups",),
    }
    await api.start()
    connection = await connect(write_kubeconfig(tmp_path, api.url))
    yield Reader(api, KubeClient(connection, retry=QUICK))
    await connection.close()
    await api.stop()


def admitted() -> WorkloadView:
    assignments = [
        {"name": "master", "flavors": {}},
        {"name": "hybrid", "flavors": {"cpu": "spot", "nvidia.com/gpu": "spot"}},
    ]
    update = {
        "name": "hybrid",
        "nodeSelector": {"capacity": "one"},
        "tolerations": [{"key": "new", "operator": "Exists"}],
    }
    said = {"type": "Admitted", "status": "True", "reason": "Admitted", "message": "", "lastTransitionTime": "then"}
    status: Any = {
        "conditions": [said],
        "admission": {"clusterQueue": "all", "podSetAssignments": assignments},
        "admissionChecks": [{"name": "capacity", "state": "Ready", "podSetUpdates": [update]}],
    }
    metadata: Any = {"name": "rljob-math-8b", "uid": "u", "resourceVersion": "1", "ownerReferences": [{"uid": "job"}]}
    return read_workload({"metadata": metadata, "status": status}, "job")


async def test_an_admitted_job_goes_where_its_flavors_and_its_admission_checks_say(reader: Reader) -> None:
    spec = {"nodeLabels": {"pool": "spot"}, "tolerations": [{"key": "spot", "operator": "Exists"}]}
    await reader.api.write(f"{FLAVORS}/spot", {"metadata": {"name": "spot"}, "spec": spec})

    offer = await reader.survey(admitted(), Offer())

    assert offer.admission.id == "u/then"
    assert offer.admission.assignments == {
        "master": Assignment(),
        "hybrid": Assignment(
            (("capacity", "one"), ("pool", "spot")),
            ({"key": "spot", "operator": "Exists"}, {"key": "new", "operator": "Exists"}),
        ),
    }


async def test_the_flavors_of_one_admission_are_read_once(reader: Reader) -> None:
    await reader.api.write(f"{FLAVORS}/spot", {"metadata": {"name": "spot"}, "spec": {}})
    first = await reader.survey(admitted(), Offer())
    num_requests = len(reader.api.requests)

    again = await reader.survey(admitted(), first)

    assert again == first
    assert len(reader.api.requests) == num_requests


async def test_a_flavor_that_is_not_there_is_an_error_and_no_guess(reader: Reader) -> None:
    with pytest.raises(NotFoundError):
        await reader.survey(admitted(), Offer())


async def test_the_priority_of_a_job_is_read_before_it_queues(reader: Reader) -> None:
    await reader.api.write(f"{CLASSES}/high", {"metadata": {"name": "high"}, "value": 1000})

    assert (await reader.survey(None, Offer())).priority == 1000


async def test_nothing_is_read_for_a_job_without_a_queue(reader: Reader) -> None:
    offer = await reader.survey(None, Offer(), job_with(scheduling={"priorityClassName": "high"}))

    assert offer == Offer()
    assert reader.api.requests == []


async def test_a_queue_that_was_installed_a_moment_ago_is_not_passed_by(reader: Reader) -> None:
    reader.api.unserved.add("workloads")
    reading = asyncio.create_task(reader.cache.run())
    await asyncio.wait_for(reader.cache.synced.wait(), 20)
    before = await reader.surveyor.serves(KUEUE_WORKLOAD)

    reader.api.unserved.clear()
    at_once = await reader.surveyor.serves(KUEUE_WORKLOAD)
    reader.now += 31
    later = await reader.surveyor.serves(KUEUE_WORKLOAD)

    assert (before, at_once, later) == (False, False, True)
    await eventually(lambda: reader.cache.serves(KUEUE_WORKLOAD), "the kind in the cache")
    reading.cancel()
    await asyncio.wait([reading])


@pytest.mark.parametrize(
    ("provider", "api"),
    [
        ("None", None),
        ("Native", "scheduling.k8s.io/v1beta1"),
        ("Volcano", "scheduling.volcano.sh/v1beta1"),
    ],
)
async def test_the_newest_pod_group_of_the_provider_is_used(reader: Reader, provider: str, api: str | None) -> None:
    offer = await reader.survey(None, Offer(), job_with(scheduling={"gang": provider}))

    assert offer.gang_api == api
