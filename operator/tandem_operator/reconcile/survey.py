"""What a cluster offers a job beyond nodes: gangs, queues, priorities. Read once for each answer of a queue."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic

from pydantic import JsonValue

from tandem_api.job import RLJob
from tandem_api.job.operations import GangProvider
from tandem_operator.kube.cache import ChildCache
from tandem_operator.kube.client import KubeClient
from tandem_operator.kube.manifest import Manifest, number, section, sections
from tandem_operator.kube.resources import (
    KUEUE_WORKLOAD,
    POD_GROUP,
    POD_GROUP_BETA,
    PRIORITY_CLASS,
    RESOURCE_FLAVOR,
    VOLCANO_POD_GROUP,
    ResourceKind,
)
from tandem_operator.plan.kueue import wants_queue
from tandem_operator.plan.surroundings import Admission, Assignment
from tandem_operator.reconcile.admission import WorkloadView

GANG_KINDS: Mapping[GangProvider, tuple[ResourceKind, ...]] = {
    GangProvider.NONE: (),
    GangProvider.NATIVE: (POD_GROUP_BETA, POD_GROUP),
    GangProvider.VOLCANO: (VOLCANO_POD_GROUP,),
}
"""PodGroups of each provider, the newest version first."""
ABSENT_SECONDS = 30.0
"""For how long a kind is taken for absent without asking again."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What the planner is told of the cluster."""

    gang_api: str | None = None
    """apiVersion of the PodGroup that the job asks for; None where it asks for none or the cluster serves none."""
    priority: int = 0
    admission: Admission = field(default_factory=Admission)

    @property
    def key(self) -> tuple[str | None, int, str]:
        """Return what a plan that was made for this offer is known by."""
        return (self.gang_api, self.priority, self.admission.id)


class Surveyor:
    """Asks the cluster of one operator."""

    def __init__(self, client: KubeClient, cache: ChildCache, clock: Callable[[], float] = monotonic) -> None:
        self._client = client
        self._cache = cache
        self._clock = clock
        self._absent_at: dict[ResourceKind, float] = {}
        """When a kind was last found not to be served."""

    async def serves(self, kind: ResourceKind) -> bool:
        """Return whether the cluster has a kind; asked anew, every 30 s at most, where the cache knows none of it.

        A queue that was installed a moment ago must not be passed by.
        """
        if self._cache.serves(kind):
            return True
        if self._clock() - self._absent_at.get(kind, float("-inf")) < ABSENT_SECONDS:
            return False
        if await self._client.serves(kind):
            self._cache.look_again(kind)
            return True
        self._absent_at[kind] = self._clock()
        return False

    async def has_queues(self, job: RLJob) -> bool:
        """Return whether there is a Kueue that the job can wait in; False for a job that asks for none."""
        return wants_queue(job) and await self.serves(KUEUE_WORKLOAD)

    async def survey(self, job: RLJob, view: WorkloadView | None, known: Offer, *, has_kueue: bool) -> Offer:
        """Return the offer for a job. What `known` tells is not read again; ApiError where it cannot be read."""
        priority_class = job.spec.scheduling.priority_class_name
        priority = known.priority
        asks = has_kueue and view is None and not job.spec.suspend
        if asks and priority_class is not None:
            priority = number(await self._client.get(PRIORITY_CLASS, None, priority_class), "value")
        admission = known.admission
        if view is not None and view.is_admitted and view.admission_id != admission.id:
            admission = await _admission(self._client, view)
        return Offer(await self._gang_api(job.spec.scheduling.gang), priority, admission)

    async def _gang_api(self, provider: GangProvider) -> str | None:
        """Return the newest served version of a provider's PodGroup."""
        for kind in GANG_KINDS[provider]:
            if await self.serves(kind):
                return kind.api_version
        return None


async def _admission(client: KubeClient, view: WorkloadView) -> Admission:
    """Return the nodes that an admitted Workload was given, out of its flavors and what admission checks add."""
    names = sorted({name for flavors in view.flavors.values() for name in flavors})
    flavors = {name: await client.get(RESOURCE_FLAVOR, None, name) for name in names}
    return Admission(view.admission_id, {role: _assignment(role, view, flavors) for role in view.flavors})


def _assignment(role: str, view: WorkloadView, flavors: Mapping[str, Manifest]) -> Assignment:
    given = [flavors[name] for name in view.flavors[role]]
    labels: dict[str, JsonValue] = {}
    for flavor in given:
        labels |= section(flavor, "spec", "nodeLabels")
    labels |= view.node_labels.get(role, {})
    tolerations = [item for flavor in given for item in sections(flavor, "spec", "tolerations")]
    return Assignment(
        node_labels=tuple((key, str(value)) for key, value in sorted(labels.items())),
        tolerations=(*tolerations, *view.tolerations.get(role, ())),
    )
