"""What the failures of a job, taken together, do to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tandem_api.job.failure import FailureAction, FailureReason
from tandem_api.job.status import MAX_HANDLED_FAILURES
from tandem_operator.plan.job import Plan
from tandem_operator.plan.names import LABEL_ROLE
from tandem_operator.reconcile.failures import GONE, Answer, Failure, answer, find_failures, remembered, replacement
from tandem_operator.reconcile.observed import Observed


@dataclass(frozen=True, slots=True)
class Answered:
    """The change of the status that the failures ask for; nothing where there is none to answer."""

    changes: Mapping[str, object] = field(default_factory=dict)
    """Fields of the status, by their Python names."""
    message: str = ""
    fails: tuple[str, str] | None = None
    """Reason and message with which the job fails."""


def answered(observed: Observed, plan: Plan) -> Answered:
    """Return what is done about the failures that have not been answered yet.

    All failures seen at once are answered together: a restart of all pods counts once, whatever ended first.
    """
    wanted = {pod.metadata.name: pod.metadata.labels[LABEL_ROLE] for pod in plan.pods}
    handled = set(observed.status.handled_failures)
    found = [failure for failure in find_failures(observed, wanted) if failure.key not in handled]
    policy = observed.job.spec.failure_policy
    answers = [Answer(failure, _possible(failure, answer(failure, policy))) for failure in found]
    answers = [item for item in answers if item.action is not FailureAction.IGNORE]
    if not answers:
        return Answered()
    fatal = next((item.failure for item in answers if item.action is FailureAction.FAIL_JOB), None)
    if fatal is not None:
        return Answered({}, "", ("FailurePolicy", _told(observed, fatal)))
    first = answers[0].failure
    if observed.status.restarts >= policy.max_restarts:
        limit = f"spec.failurePolicy.maxRestarts: {policy.max_restarts} restarts are used up"
        return Answered({}, "", ("MaxRestartsExceeded", f"{limit}; the last cause: {_told(observed, first)}"))
    return _counted(observed, answers)


def _possible(failure: Failure, action: FailureAction) -> FailureAction:
    """Return the action, or another where it cannot be done.

    A master is not started again in its pod, nor any container in a pod that has ended. A pod that does not go has been
    asked to already: it is made again once it is gone, and is never forced.
    """
    if failure.reason is FailureReason.STUCK_TERMINATING:
        useless = action is FailureAction.REPLACE_POD or not failure.current
        return FailureAction.IGNORE if useless and action is not FailureAction.FAIL_JOB else action
    if action is not FailureAction.RESTART_CONTAINER:
        return action
    if failure.container == "master":
        return FailureAction.RESTART_GANG
    return FailureAction.REPLACE_POD if failure.over or failure.container is None else action


def _counted(observed: Observed, answers: Sequence[Answer]) -> Answered:
    """Return the status after answers that are bounded: the number of restarts, and what is remembered of them."""
    status = observed.status
    gang = next((item.failure for item in answers if item.action is FailureAction.RESTART_GANG), None)
    uids = {pod.name: pod.uid for pod in observed.pods}
    entries = dict.fromkeys(remembered(observed))
    for item in answers:
        name = item.failure.pod
        replaced = item.action is FailureAction.REPLACE_POD
        entries[replacement(name, uids.get(name, GONE)) if replaced else item.failure.key] = None
    message = _told(observed, (gang or answers[0].failure))
    if gang is None and len(entries) <= MAX_HANDLED_FAILURES:
        return Answered({"restarts": status.restarts + 1, "handled_failures": tuple(entries)}, message)
    if gang is None:
        message += f"; with more than {MAX_HANDLED_FAILURES} single restarts at a time all pods are started again"
    changes = {"restarts": status.restarts + 1, "attempt": status.attempt + 1, "handled_failures": ()}
    return Answered(changes, message)


def _told(observed: Observed, failure: Failure) -> str:
    """Return a failure for people; of the master, its own words say more than its exit code."""
    progress = observed.progress
    said = f"; it says: {progress.error}" if failure.container == "master" and progress and progress.error else ""
    return f"{failure.pod}: {failure.message}{said}"
