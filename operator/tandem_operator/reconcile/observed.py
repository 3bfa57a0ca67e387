"""Everything that one decision is made from."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from tandem_api.job import RLJob
from tandem_api.job.status import RLJobStatus
from tandem_api.registry import Progress
from tandem_operator.plan.job import Plan
from tandem_operator.plan.kueue import wants_queue
from tandem_operator.plan.objects import SupportingObject
from tandem_operator.plan.revision import applied_hash, stamped
from tandem_operator.reconcile.admission import NO_QUEUE, Standing, WorkloadView, standing_in
from tandem_operator.reconcile.decision import Child, Manifest
from tandem_operator.reconcile.pods import PodView


@dataclass(frozen=True, slots=True)
class Observed:
    """One job and its children at one moment."""

    job: RLJob
    generation: int
    """metadata.generation of the RLJob."""
    status: RLJobStatus
    """As the operator wrote it last; the defaults for a new job."""
    pods: tuple[PodView, ...]
    applied: Mapping[tuple[str, str], str]
    """Hash of what was applied to each child that is no pod, by kind and name."""
    progress: Progress | None
    """The master's newest word, from the registry."""
    now: datetime
    strangers: frozenset[str] = frozenset()
    """Names of pods under the job's label that it does not own: of a deleted job of the same name, for instance."""
    groups: tuple[Child, ...] = ()
    """PodGroups of the job that nobody has deleted."""
    workload: WorkloadView | None = None
    """What stands for the job in its queue."""
    has_kueue: bool = False
    """Whether the cluster has Kueue."""

    @property
    def standing(self) -> Standing:
        """Return whether the job's queue lets it have pods."""
        queue = self.job.spec.scheduling.queue_name
        if queue is None or not wants_queue(self.job):
            return NO_QUEUE
        return standing_in(queue, self.workload, is_served=self.has_kueue)

    def pod(self, name: str) -> PodView | None:
        """Return the pod of this name."""
        return next((pod for pod in self.pods if pod.name == name), None)


@dataclass(frozen=True, slots=True)
class Stamped:
    """A child that is no pod, as it would be applied: worked out once, compared at every look."""

    kind: str
    name: str
    hash: str
    manifest: Manifest

    @classmethod
    def of(cls, item: SupportingObject) -> Self:
        """Return an object with the hash that it carries as an annotation."""
        manifest = item.manifest()
        return cls(item.kind, item.metadata.name, applied_hash(manifest), stamped(manifest))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the planner makes of the job's spec at the present attempt; None where it refuses the spec."""

    plan: Plan | None
    spec_hash: str
    problem: str | None
    """Why the planner refuses the spec: `spec.field: problem; fix`."""
    groundwork: tuple[Stamped, ...] = ()
    """What is applied before the pods are made; the Secret is not: it is made once, with them."""
    followers: tuple[Stamped, ...] = ()
    """What is applied once all pods have nodes."""
    lacks_gang: bool = False
    """Whether the job asks for a gang that the cluster does not have."""
