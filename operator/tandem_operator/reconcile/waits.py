"""How long until something is due: a deadline, the end of a wait, a pod that ought to be gone."""

from datetime import timedelta

from tandem_api.job.status import ConditionType
from tandem_operator.reconcile.failures import STUCK
from tandem_operator.reconcile.observed import Observed
from tandem_operator.reconcile.pods import read_time
from tandem_operator.reconcile.words import condition_of

FIRST_RESTART_SECONDS = 2.0
"""Wait before the first restart of all pods; it doubles with each."""
LONGEST_RESTART_SECONDS = 300.0


def seconds_to_deadline(observed: Observed) -> float | None:
    """Return the time left until spec.activeDeadlineSeconds, negative after it; None where there is no deadline."""
    limit, started = observed.job.spec.active_deadline_seconds, observed.status.start_time
    return None if limit is None else _seconds_after(observed, started, limit)


def seconds_to_live(observed: Observed, completed: str | None) -> float | None:
    """Return the time left until an ended job is deleted, negative after it; None where its end has no time."""
    return _seconds_after(observed, completed, observed.job.spec.ttl_seconds_after_finished)


def seconds_to_stuck(observed: Observed) -> float | None:
    """Return the time left until the first of the pods that are ending counts as stuck; None where none can."""
    left = [
        (pod.deleted_at + STUCK - observed.now).total_seconds() for pod in observed.pods if pod.deleted_at is not None
    ]
    return soonest(*left)


def restart_delay_seconds(observed: Observed) -> float:
    """Return how long a restart still has to wait. The wait begins when Progressing became false for it."""
    progressing = condition_of(observed, ConditionType.PROGRESSING)
    if progressing is None or progressing.reason != "Restarting" or progressing.last_transition_time is None:
        return 0.0
    doublings = max(0, observed.status.restarts - 1)
    wait = min(LONGEST_RESTART_SECONDS, FIRST_RESTART_SECONDS * 2.0 ** min(doublings, 10))
    return max(0.0, wait - (observed.now - read_time(progressing.last_transition_time)).total_seconds())


def soonest(*waits: float | None) -> float | None:
    """Return the shortest wait that is not over; None where there is none."""
    return min((wait for wait in waits if wait is not None and wait > 0), default=None)


def _seconds_after(observed: Observed, moment: str | None, seconds: int) -> float | None:
    if moment is None:
        return None
    return (read_time(moment) + timedelta(seconds=seconds) - observed.now).total_seconds()
