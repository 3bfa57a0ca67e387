"""Funnels, put together with what the program gives them."""

from tandem_api.registry import Progress
from tandem_operator.kube.cache import WatchedKind
from tandem_operator.kube.resources import KUEUE_WORKLOAD, POD
from tandem_operator.kube.slim import slim_metadata, slim_pod, slim_status
from tandem_operator.program.leader import Assembly, FunnelRunner, Parts
from tandem_operator.program.logs import about
from tandem_operator.reconcile.funnel import POD_GROUP_KINDS, SUPPORTING_KINDS, Funnels, Hooks
from tandem_operator.reconcile.record import Place
from tandem_operator.reconcile.steps import Cluster

WATCHED = (
    WatchedKind(POD, slim_pod),
    *(WatchedKind(kind, slim_metadata) for kind in SUPPORTING_KINDS),
    *(WatchedKind(kind, slim_metadata, optional=True) for kind in POD_GROUP_KINDS),
    WatchedKind(KUEUE_WORKLOAD, slim_status, optional=True),
)


def assemble() -> Assembly:
    """Return what tandem-operator does with RLJobs."""
    return Assembly(WATCHED, build_funnels)


def build_funnels(parts: Parts) -> FunnelRunner:
    """Return the funnels of one operator."""

    def progress(namespace: str, name: str) -> Progress | None:
        seen = parts.progress.get(namespace, name)
        return None if seen is None else seen.progress

    metrics, settings = parts.metrics, parts.settings
    hooks = Hooks(
        progress=progress,
        timed=metrics.timed_reconcile,
        about=about,
        count_error=metrics.count_error,
        show_queue=metrics.show_queue,
        forget=metrics.conditions.forget,
        note_conditions=metrics.conditions.note,
    )
    place = Place(etcd_endpoints=settings.etcd, master_image=settings.master_image, etcd_secret=settings.etcd_secret)
    return Funnels(Cluster(parts.client, parts.cache, parts.recorder), place, hooks, settings.workers)
