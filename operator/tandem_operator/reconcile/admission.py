"""Where a job stands in Kueue's queue: what the queue says of its Workload, and what it is told in return.

The rules are those of Kueue's own integrations (pkg/controller/jobframework/reconciler.go of v0.19): no pod before the
Workload is admitted; pods go when it is evicted, and then its quota is given back; PodsReady and Finished are told.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pydantic import JsonValue

from tandem_operator.kube.manifest import Manifest, name_of, resource_version_of, section, sections, text, uid_of
from tandem_operator.reconcile.pods import write_time

ADMITTED, QUOTA_RESERVED, EVICTED, FINISHED = "Admitted", "QuotaReserved", "Evicted", "Finished"
PODS_READY, REQUEUED = "PodsReady", "Requeued"
REQUEUED_AT_ONCE = frozenset({"Preempted", "NodeFailures"})
"""Reasons of an eviction after which the job may be admitted again without anybody's doing."""
MOST_CHARACTERS = 32_768
"""Longest message of a condition (metav1.Condition)."""


@dataclass(frozen=True, slots=True)
class Word:
    """One condition of a Workload."""

    holds: bool
    reason: str
    message: str
    since: str


@dataclass(frozen=True, slots=True)
class WorkloadView:
    """A job's Workload as Kueue has left it."""

    name: str
    uid: str
    resource_version: str
    is_going: bool
    """Whether it is being deleted, or will be."""
    words: Mapping[str, Word]
    """Conditions, by type."""
    conditions: tuple[Manifest, ...]
    """The same as they are written."""
    cluster_queue: str
    """Whose quota it has; empty without."""
    flavors: Mapping[str, tuple[str, ...]]
    """Names of the resource flavors that each set of pods was given."""
    node_labels: Mapping[str, Mapping[str, str]]
    """What admission checks add for each set of pods, as tolerations below."""
    tolerations: Mapping[str, tuple[Manifest, ...]]

    def holds(self, kind: str) -> bool:
        """Return whether a condition is true."""
        word = self.words.get(kind)
        return word is not None and word.holds

    @property
    def is_admitted(self) -> bool:
        """Return whether pods may run."""
        return self.holds(ADMITTED) and not (self.holds(EVICTED) or self.holds(FINISHED) or self.is_going)

    @property
    def admission_id(self) -> str:
        """Return what tells this permission from an earlier one."""
        return f"{self.uid}/{self.words[ADMITTED].since}" if self.is_admitted else ""


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether the job may have pods, and condition Admitted, which says so to people."""

    may_run: bool
    reason: str
    message: str


NO_QUEUE = Standing(True, "NoQueue", "no queue is asked for")


def read_workload(manifest: Manifest, owner: str | None) -> WorkloadView:
    """Return the view of a Workload as the API server tells it. `owner`: uid of the job.

    That of an earlier job of the same name is about to go: it says nothing about this one.
    """
    owners = {text(item, "uid") for item in sections(manifest, "metadata", "ownerReferences")}
    conditions = sections(manifest, "status", "conditions")
    assignments = sections(manifest, "status", "admission", "podSetAssignments")
    updates = [
        update
        for check in sections(manifest, "status", "admissionChecks")
        for update in sections(check, "podSetUpdates")
    ]
    return WorkloadView(
        name=name_of(manifest),
        uid=uid_of(manifest),
        resource_version=resource_version_of(manifest),
        is_going="deletionTimestamp" in section(manifest, "metadata") or owner not in owners,
        words={text(item, "type"): _word(item) for item in conditions},
        conditions=conditions,
        cluster_queue=text(manifest, "status", "admission", "clusterQueue"),
        flavors={text(item, "name"): _texts(section(item, "flavors")) for item in assignments},
        node_labels={text(item, "name"): _labels(section(item, "nodeSelector")) for item in updates},
        tolerations={text(item, "name"): sections(item, "tolerations") for item in updates},
    )


def standing_in(queue: str, view: WorkloadView | None, *, is_served: bool) -> Standing:
    """Return where a job stands that asks for a queue. `is_served`: whether the cluster has Kueue at all."""
    if not is_served:
        return Standing(True, "QueueAbsent", f"this cluster has no Kueue: the job runs without queue {queue}")
    waits = f"waits in queue {queue} for its turn"
    if view is None or view.is_going:
        return Standing(False, "Queued", waits)
    evicted, reserved = view.words.get(EVICTED), view.words.get(QUOTA_RESERVED)
    if evicted is not None and evicted.holds:
        return Standing(False, "Evicted", f"queue {queue}: {evicted.reason}: {evicted.message}")
    if view.is_admitted:
        return Standing(True, "Admitted", f"queue {queue}: quota of cluster queue {view.cluster_queue}")
    said = reserved.message if reserved is not None and not reserved.holds else ""
    return Standing(False, "Queued", f"{waits}: {said}" if said else waits)


def released(view: WorkloadView, now: datetime) -> Manifest:
    """Return the patch that gives the quota of an evicted Workload back, for when no pod is left."""
    cause = view.words[EVICTED]
    conditions = _with(view.conditions, REQUEUED, cause.reason in REQUEUED_AT_ONCE, cause.reason, cause.message, now)
    conditions = _with(conditions, QUOTA_RESERVED, False, "Pending", cause.message, now)
    conditions = _with(conditions, ADMITTED, False, "NoReservation", "The workload has no reservation", now)
    return _patch(view, conditions, admission=None)


def finished(view: WorkloadView, *, succeeded: bool, message: str, now: datetime) -> Manifest:
    """Return the patch that tells the end of the job, which frees its quota."""
    reason = "Succeeded" if succeeded else "Failed"
    return _patch(view, _with(view.conditions, FINISHED, True, reason, message, now))


def pods_ready(view: WorkloadView, are_ready: bool, now: datetime) -> Manifest | None:
    """Return the patch that tells whether all pods run; None where it is told.

    Kueue evicts a Workload that does not say so in time (waitForPodsReady, 30 minutes by default).
    """
    told = view.words.get(PODS_READY)
    if told is not None and told.holds == are_ready:
        return None
    recovers = told is not None and (told.holds or told.reason in ("WaitForRecovery", "Recovered"))
    reasons = ("Recovered", "WaitForRecovery") if recovers else ("Started", "WaitForStart")
    message = "all pods are ready" if are_ready else "not all pods are ready"
    return _patch(view, _with(view.conditions, PODS_READY, are_ready, reasons[not are_ready], message, now))


def _with(
    conditions: tuple[Manifest, ...], kind: str, holds: bool, reason: str, message: str, now: datetime
) -> tuple[Manifest, ...]:
    """Return the conditions with one set; its time moves only with its status."""
    old = next((item for item in conditions if text(item, "type") == kind), {})
    status = "True" if holds else "False"
    since = text(old, "lastTransitionTime") if text(old, "status") == status else ""
    new: Manifest = {
        **old,
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message[:MOST_CHARACTERS],
        "lastTransitionTime": since or write_time(now),
    }
    return (*(item for item in conditions if text(item, "type") != kind), new)


def _patch(view: WorkloadView, conditions: tuple[Manifest, ...], **fields: JsonValue) -> Manifest:
    """Return a merge patch of the status that is refused where the Workload has changed meanwhile."""
    status: dict[str, JsonValue] = {"conditions": list(conditions), **fields}
    return {"metadata": {"resourceVersion": view.resource_version}, "status": status}


def _word(condition: Manifest) -> Word:
    return Word(
        holds=text(condition, "status") == "True",
        reason=text(condition, "reason"),
        message=text(condition, "message"),
        since=text(condition, "lastTransitionTime"),
    )


def _texts(mapping: Manifest) -> tuple[str, ...]:
    return tuple(sorted({value for value in mapping.values() if isinstance(value, str)}))


def _labels(mapping: Manifest) -> Mapping[str, str]:
    return {key: value for key, value in mapping.items() if isinstance(value, str)}
