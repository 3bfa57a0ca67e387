"""Failures of a job's pods, and what its failure policy says about each.

A failure is answered once, however often it is looked at: a restart of all pods leaves the pods of the attempt before
alone, and `status.handledFailures` keeps what an answer to one container or one pod was, for as long as it can be seen.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from tandem_api.job.failure import ContainerName, FailureAction, FailureMatch, FailurePolicySpec, FailureReason
from tandem_api.job.status import ConditionType
from tandem_operator.reconcile.observed import Observed
from tandem_operator.reconcile.pods import Ending, PodView
from tandem_operator.reconcile.words import is_too_early, seconds_to_cause

STUCK = timedelta(seconds=60)
"""Time after its grace period for which a pod may take to go before that counts as a failure."""

MOST_OF_LOG = 400
"""Characters of a container's last line that are told."""
REPLACE = "replace "
GONE = "gone"
"""In place of the uid of a pod that went unseen."""

EVICTIONS = frozenset(
    {"Evicted", "EvictionByEvictionAPI", "PreemptionByScheduler", "Preempting", "TerminationByKubelet"}
)
NODE_LOSSES = frozenset({"NodeLost", "DeletionByTaintManager", "DeletionByPodGC", "NodeShutdown", "Terminated"})
IMAGE_TROUBLES = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
DEVICE_TROUBLES = frozenset({"UnexpectedAdmissionError", "CreateContainerError", "FailedPrepareDynamicResources"})

WAITS = frozenset(
    {
        FailureReason.IMAGE_PULL,
        FailureReason.UNSCHEDULABLE,
        FailureReason.DEVICE_UNRESOLVABLE,
        FailureReason.STUCK_TERMINATING,
    }
)
"""Reasons that may pass by themselves: without a rule they are shown and waited for."""
OURS = frozenset(ContainerName)
"""Containers that count; those that a pod template adds are their user's affair."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure."""

    key: str
    pod: str
    role: str
    """master, hybrid or rollout."""
    container: str | None
    exit_code: int | None
    reason: FailureReason
    message: str
    """What happened, for people."""
    over: bool = False
    """Whether the pod as a whole has ended or is ending, so that nothing comes back in it."""
    current: bool = True
    """Whether the pod is of the present attempt."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A failure and what is done about it."""

    failure: Failure
    action: FailureAction


def find_failures(observed: Observed, wanted: Mapping[str, str]) -> tuple[Failure, ...]:
    """Return the failures of the present attempt. `wanted`: the role of each pod by name, the master first.

    A pod that is to be replaced, and one of an earlier attempt, can fail in one way only: not to go.
    """
    pods = [pod for pod in observed.pods if pod.name in wanted]
    entries = set(observed.status.handled_failures)
    found = [_stuck(pod, observed) for pod in pods if is_stuck(pod, observed)]
    current = [pod for pod in pods if pod.attempt == observed.status.attempt]
    found += [
        failure
        for pod in current
        if replacement(pod.name, pod.uid) not in entries
        for failure in _of_pod(pod, observed)
    ]
    return (*found, *_lost(observed, wanted))


def answer(failure: Failure, policy: FailurePolicySpec) -> FailureAction:
    """Return what the first rule that matches says; without one, the least that brings the job back.

    An engine that its kubelet starts again finds the weights in its pod's memory and rejoins. Where the pod is gone, so
    are they, and a master's state may be: all pods start again from the newest checkpoint.
    """
    for rule in policy.rules:
        if _matches(rule.match, failure):
            return rule.action
    if failure.reason in WAITS and not failure.over:
        return FailureAction.IGNORE
    if failure.role == "rollout":  # it joins and leaves as it likes; the kubelet starts its containers again
        alive = failure.container is not None and not failure.over
        return FailureAction.IGNORE if alive else FailureAction.REPLACE_POD
    is_engine = failure.container is not None and failure.container != "master" and not failure.over
    return FailureAction.RESTART_CONTAINER if is_engine else FailureAction.RESTART_GANG


def replacement(pod: str, uid: str) -> str:
    """Return the entry of status.handledFailures that says: this pod is to be replaced."""
    return f"{REPLACE}{pod} {uid}"


def remembered(observed: Observed) -> tuple[str, ...]:
    """Return the entries of status.handledFailures that are needed still.

    An ending is remembered while Kubernetes tells of it, a replacement until the successor is there.
    """
    current = [pod for pod in observed.pods if pod.attempt == observed.status.attempt]
    visible = {_ending_key(pod, ending) for pod in current for ending in pod.endings}
    uids = {pod.name: pod.uid for pod in current}
    return tuple(
        entry
        for entry in observed.status.handled_failures
        if (_is_awaited(entry, uids) if entry.startswith(REPLACE) else entry in visible)
    )


def is_stuck(pod: PodView, observed: Observed) -> bool:
    """Return whether a pod is there still, long after it was to be gone."""
    return pod.deleted_at is not None and observed.now >= pod.deleted_at + STUCK


def _is_awaited(entry: str, uids: Mapping[str, str]) -> bool:
    """Return whether the successor of a replaced pod is not there yet. `uids`: of the pods, by name."""
    _, name, uid = entry.split(" ")
    return uids.get(name, uid) == uid


def _matches(match: FailureMatch, failure: Failure) -> bool:
    if match.container is not None and match.container.value != failure.container:
        return False
    if match.exit_codes and failure.exit_code not in match.exit_codes:
        return False
    return match.reason is None or match.reason is failure.reason


def _of_pod(pod: PodView, observed: Observed) -> Iterator[Failure]:
    """Return what went wrong in a pod that is wanted. The end of its containers explains nothing where it must go."""
    disrupted = pod.reason in EVICTIONS | NODE_LOSSES
    if pod.deleted_at is not None:
        if pod.role != "rollout":  # nobody here asked it to go
            reason = _reason_of(pod.reason) if disrupted else FailureReason.POD_LOST
            yield _whole(pod, "lost", reason, _words(pod) if disrupted else "was deleted by someone else", over=True)
        return
    if disrupted:
        yield _whole(pod, "disrupted", _reason_of(pod.reason), _words(pod), over=True)
        return
    endings = [ending for ending in pod.endings if ending.container in OURS and is_too_early(pod, ending, observed)]
    yield from (_ended(pod, ending) for ending in endings)
    is_told = pod.role == "master" and (endings or seconds_to_cause(pod, observed) is not None)
    if pod.phase == "Failed" and not is_told:
        yield _whole(pod, "failed", _reason_of(pod.reason), _words(pod), over=True)
    for waiting in pod.waiting:
        if waiting.reason in IMAGE_TROUBLES | DEVICE_TROUBLES:
            reason = FailureReason.IMAGE_PULL if waiting.reason in IMAGE_TROUBLES else FailureReason.DEVICE_UNRESOLVABLE
            text = f"{waiting.reason}: {waiting.message}".rstrip(": ")
            yield Failure(f"{pod.uid}/{reason}", pod.name, pod.role, waiting.container, None, reason, text)
    if pod.unschedulable is not None:
        yield _whole(pod, "unschedulable", FailureReason.UNSCHEDULABLE, pod.unschedulable)


def _ended(pod: PodView, ending: Ending) -> Failure:
    reason = FailureReason.OOM_KILLED if ending.reason == "OOMKilled" else FailureReason.ERROR
    last_line = ending.message.strip().rpartition("\n")[2][-MOST_OF_LOG:]
    said = f": {last_line}" if last_line else ""
    text = f"container {ending.container} ended with exit code {ending.exit_code} ({ending.reason}){said}"
    over = pod.is_over
    key = _ending_key(pod, ending)
    return Failure(key, pod.name, pod.role, ending.container, ending.exit_code, reason, text, over)


def _ending_key(pod: PodView, ending: Ending) -> str:
    return f"{pod.uid}/{ending.container_id}"


def _whole(pod: PodView, what: str, reason: FailureReason, message: str, *, over: bool = False) -> Failure:
    return Failure(f"{pod.uid}/{what}", pod.name, pod.role, None, None, reason, message, over)


def _stuck(pod: PodView, observed: Observed) -> Failure:
    message = "was to end and has not; is its node gone?"
    current = pod.attempt == observed.status.attempt
    reason = FailureReason.STUCK_TERMINATING
    return Failure(f"{pod.uid}/stuck", pod.name, pod.role, None, None, reason, message, current=current)


def _lost(observed: Observed, wanted: Mapping[str, str]) -> Sequence[Failure]:
    """Return the pods of the gang that went while nobody looked."""
    names = {pod.name for pod in observed.pods}
    names |= {entry.split(" ")[1] for entry in remembered(observed) if entry.startswith(REPLACE)}
    if not _were_all_made(observed, wanted):
        return ()
    message, reason = "was deleted by someone else", FailureReason.POD_LOST
    return [
        Failure(f"{name}/{GONE}", name, role, None, None, reason, message, over=True)
        for name, role in wanted.items()
        if role != "rollout" and name not in names
    ]


def _were_all_made(observed: Observed, wanted: Mapping[str, str]) -> bool:
    """Return whether all pods of the present attempt existed at some time.

    The master is made last; and PodsScheduled is false for as long as one of them is missing.
    """
    master = next(iter(wanted), None)
    if any(pod.name == master and pod.attempt == observed.status.attempt for pod in observed.pods):
        return True
    told = observed.status.conditions
    return any(item.type is ConditionType.PODS_SCHEDULED and item.status != "False" for item in told)


def _words(pod: PodView) -> str:
    return f"{pod.reason or 'failed'}: {pod.message}".rstrip(": ")


def _reason_of(reason: str) -> FailureReason:
    if reason in EVICTIONS:
        return FailureReason.EVICTED
    if reason in NODE_LOSSES:
        return FailureReason.NODE_LOST
    return FailureReason.DEVICE_UNRESOLVABLE if reason in DEVICE_TROUBLES else FailureReason.ERROR
