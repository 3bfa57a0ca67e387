"""The children of all jobs as the operator last heard of them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from tandem_operator.kube.client import KubeClient, Selection
from tandem_operator.kube.index import JOB_LABEL, ChildIndex, JobKey
from tandem_operator.kube.manifest import Manifest, namespace_of
from tandem_operator.kube.reflector import OnChange, Reflector, Slim, WatchTiming
from tandem_operator.kube.resources import ResourceKind, kind_of
from tandem_operator.kube.slim import slim_status

PATIENT_WATCH = WatchTiming()


@dataclass(frozen=True, slots=True)
class WatchedKind:
    """A kind of children to keep."""

    kind: ResourceKind
    slim: Slim = slim_status
    """What is kept of each object."""
    optional: bool = False
    """Whether the cluster may not serve it: then there are none."""


class ChildCache:
    """Children of jobs by job and kind, from one list and watch for each kind and namespace.

    Only objects with the label `tandem.dev/job` are asked for. What it returns is shared: never change it.
    """

    def __init__(
        self,
        client: KubeClient,
        watched: Sequence[WatchedKind],
        *,
        on_change: OnChange,
        namespaces: Sequence[str] = (),
        timing: WatchTiming = PATIENT_WATCH,
    ) -> None:
        self.synced = asyncio.Event()
        """Set once everything has been listed."""
        self._reflectors = {
            (each.kind, namespace): Reflector(
                client,
                Selection(each.kind, namespace, label_selector=JOB_LABEL),
                slim=each.slim,
                optional=each.optional,
                on_change=on_change,
                timing=timing,
            )
            for each in watched
            for namespace in (namespaces or (None,))
        }

    async def run(self) -> None:
        """Keep everything up to date until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for reflector in self._reflectors.values():
                tasks.create_task(reflector.run(), name=f"watch {reflector.what}")
            for reflector in self._reflectors.values():
                await reflector.synced.wait()
            self.synced.set()

    def age_seconds(self) -> float:
        """Return the seconds since the API server was last heard of, of the watch that is worst off."""
        return max((reflector.age_seconds() for reflector in self._reflectors.values()), default=0.0)

    def children(self, namespace: str, job: str, kind: ResourceKind) -> tuple[Manifest, ...]:
        """Return a job's children of one kind, by name; LookupError for a kind or namespace that is not watched."""
        return self._index(kind, namespace).of_job((namespace, job))

    def child(self, namespace: str, job: str, kind: ResourceKind, name: str) -> Manifest | None:
        """Return one child; None where it is not there, LookupError as `children`."""
        return self._index(kind, namespace).named((namespace, job), name)

    def serves(self, kind: ResourceKind) -> bool:
        """Return whether the cluster has a kind; LookupError for one that is not watched."""
        found = [reflector for (watched, _), reflector in self._reflectors.items() if watched == kind]
        if not found:
            raise LookupError(f"{kind.plural}: not watched; add them to the cache's kinds")
        return not any(reflector.is_absent for reflector in found)

    def look_again(self, kind: ResourceKind) -> None:
        """List and watch a kind at once that was not served so far."""
        for (watched, _), reflector in self._reflectors.items():
            if watched == kind:
                reflector.look_again()

    def jobs(self) -> frozenset[JobKey]:
        """Return the jobs that have any children."""
        return frozenset().union(*(reflector.index.jobs() for reflector in self._reflectors.values()))

    def num_objects(self, kind: ResourceKind) -> int:
        """Return how many objects of a kind are known."""
        return sum(len(reflector.index) for (watched, _), reflector in self._reflectors.items() if watched == kind)

    def remember(self, manifest: Manifest) -> None:
        """Take the answer to an own create or apply at once, so that the next look does not miss it.

        Nothing where its kind is not watched, or where the watch is further already.
        """
        reflector = self._reflector(kind_of(manifest), namespace_of(manifest))
        if reflector is not None:
            reflector.remember(manifest)

    def _index(self, kind: ResourceKind, namespace: str) -> ChildIndex:
        """Return the index that holds a kind in a namespace."""
        reflector = self._reflector(kind, namespace)
        if reflector is None:
            raise LookupError(f"{kind.plural} in {namespace}: not watched; add them to the cache's kinds or namespaces")
        return reflector.index

    def _reflector(self, kind: ResourceKind, namespace: str) -> Reflector | None:
        """Return what watches a kind in a namespace."""
        return self._reflectors.get((kind, namespace)) or self._reflectors.get((kind, None))
