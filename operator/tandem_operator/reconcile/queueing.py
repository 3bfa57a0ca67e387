"""What a decision does besides about the objects that stand for pods: the Workload in the queue, the PodGroup."""

from dataclasses import replace

from tandem_operator.kube.resources import KUEUE_WORKLOAD, RESOURCE_CLAIM_TEMPLATE
from tandem_operator.plan.kueue import wants_queue
from tandem_operator.reconcile.admission import (
    EVICTED,
    FINISHED,
    QUOTA_RESERVED,
    WorkloadView,
    finished,
    pods_ready,
    released,
)
from tandem_operator.reconcile.decision import Child, Decision, Manifest
from tandem_operator.reconcile.observed import Observed, Wanted


def with_queue(observed: Observed, wanted: Wanted, decision: Decision) -> Decision:
    """Return the decision with what the queue and the gang's scheduler are told. `wanted`: of the present spec.

    They are told last: a Workload gives its quota back, and a PodGroup goes, only when no pod that runs is left.
    """
    if decision.status_first or decision.delete_job:
        return decision
    view, ended = observed.workload, decision.ended
    if ended is not None and view is not None:
        report = _end(observed, view, ended)
    elif view is None or view.is_going:
        report = None
    else:
        report = _running(observed, view)
    return replace(
        decision,
        apply=(*decision.apply, *_asked(observed, wanted, decision)),
        discard=_discarded(observed, decision),
        report=() if report is None or view is None else ((_child(view), report),),
    )


def _asked(observed: Observed, wanted: Wanted, decision: Decision) -> tuple[Manifest, ...]:
    """Return the Workload of a job that is to run and stands in no queue yet; first what the claims of its pods name.

    Kueue counts devices by the claim templates, and looks again only after a while where one is missing.
    """
    plan = wanted.plan
    is_idle = observed.job.spec.suspend or decision.ended is not None
    if is_idle or plan is None or plan.workload is None or not observed.has_kueue or observed.workload is not None:
        return ()
    templates = [item for item in wanted.groundwork if item.kind == RESOURCE_CLAIM_TEMPLATE.kind]
    missing = [item for item in templates if observed.applied.get((item.kind, item.name)) != item.hash]
    return tuple(item.manifest for item in missing) or (plan.workload.manifest(),)


def _end(observed: Observed, view: WorkloadView, ended: str) -> Manifest | None:
    """Return the word that the job is over, which frees its quota; None where it was said, or pods run still."""
    if view.holds(FINISHED) or view.is_going or _num_running(observed) > 0:
        return None
    return finished(view, succeeded=ended == "Completed", message=f"the RLJob is {ended}", now=observed.now)


def _running(observed: Observed, view: WorkloadView) -> Manifest | None:
    """Return what the queue is told of a job that is not over."""
    if view.holds(EVICTED):
        gone = _num_running(observed) == 0
        return released(view, observed.now) if gone and view.holds(QUOTA_RESERVED) else None
    if not view.is_admitted:
        return None
    gang = [pod for pod in observed.pods if pod.role != "rollout" and pod.attempt == observed.status.attempt]
    are_ready = len(gang) == 1 + observed.job.spec.hybrid.replicas and all(pod.ready for pod in gang)
    return pods_ready(view, are_ready, observed.now)


def _discarded(observed: Observed, decision: Decision) -> tuple[Child, ...]:
    """Return what stands for pods that are not wanted now: while the job is suspended, waits in a queue, or is over.

    The Workload of a job that is over stays, as its record; one that is suspended leaves its queue.
    """
    if _num_running(observed) > 0:
        return ()
    is_over, may_run = decision.ended is not None, observed.standing.may_run
    groups = observed.groups if is_over or observed.job.spec.suspend or not may_run else ()
    view = observed.workload
    leaves = view is not None and not view.is_going and not is_over
    leaves = leaves and (observed.job.spec.suspend or not wants_queue(observed.job))
    return (*groups, *((_child(view),) if view is not None and leaves else ()))


def _num_running(observed: Observed) -> int:
    return sum(not pod.is_over for pod in observed.pods)


def _child(view: WorkloadView) -> Child:
    return Child(KUEUE_WORKLOAD, view.name, view.uid)
