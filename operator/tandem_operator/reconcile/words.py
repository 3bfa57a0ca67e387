"""The master's words, and what they are worth: which are its last, and which are those of an earlier master."""

from datetime import timedelta

from tandem_api.job.status import Condition, ConditionType
from tandem_api.registry import Progress
from tandem_operator.reconcile.observed import Observed
from tandem_operator.reconcile.pods import Ending, PodView

LAST_WORDS = frozenset({"completed", "stopped", "failed"})
"""`progress.activity` of a master that writes nothing more."""
LAST_WORD_WAIT = timedelta(seconds=15)
"""Time after a master's end in which its last word may still be on its way."""
GAVE_UP = 1
"""Exit code of a master that ends because it cannot go on."""
CAUSE_WAIT = timedelta(seconds=5)
"""Time after that in which the end of the engine that made it give up may still be on its way."""

ENGINES_KNOWN = frozenset({"EnginesRegistered", "EnginesLost"})
"""Reasons of EnginesReady once the engines of this attempt have followed a switch."""


def is_too_early(pod: PodView, ending: Ending, observed: Observed) -> bool:
    """Return whether a container ended before its time: an engine has none, a master ends after the last iteration."""
    if ending.container != "master":
        return True
    if ending.exit_code != 0:
        return seconds_to_cause(pod, observed) is None
    progress = observed.progress
    if progress is None or progress.iteration >= progress.iterations:
        return False
    return seconds_to_last_word(pod, observed) is None


def seconds_to_last_word(pod: PodView, observed: Observed) -> float | None:
    """Return for how long the last word of a master that ended well is waited for; None: it is there, or too late.

    The pod's end and the word come on two ways: the word may be the later one.
    """
    ended_at = next((end.ended_at for end in pod.endings if end.container == "master" and end.exit_code == 0), None)
    progress = observed.progress
    if ended_at is None or progress is None or progress.activity in LAST_WORDS or is_all_done(progress):
        return None
    left = (ended_at + LAST_WORD_WAIT - observed.now).total_seconds()
    return left if left > 0 else None


def seconds_to_cause(pod: PodView, observed: Observed) -> float | None:
    """Return for how long a master that gave up is not judged yet; None: it did not, or long enough ago.

    Within milliseconds of an engine a master gives up too. What the engine's own end says is the cause, and what a user
    has rules for; but a kubelet looks at its containers once a second, and each node has its own.
    """
    ended_at = next((end.ended_at for end in pod.endings if _gave_up(end)), None)
    if ended_at is None:
        return None
    left = (ended_at + CAUSE_WAIT - observed.now).total_seconds()
    return left if left > 0 else None


def _gave_up(ending: Ending) -> bool:
    return ending.container == "master" and ending.exit_code == GAVE_UP


def is_all_done(progress: Progress | None) -> bool:
    """Return whether the master said that its last iteration is complete."""
    return progress is not None and progress.iteration >= progress.iterations


def current_phase(observed: Observed) -> str | None:
    """Return what the devices are for; None while the engines start, whatever an earlier master said.

    A switch has a number higher than all before it, of earlier masters too. So a phase is of this attempt if this
    attempt was known to switch already, or if its switch is newer than the newest that the status tells of.
    """
    progress, attempt = observed.progress, observed.status.attempt
    if progress is None or progress.phase is None:
        return None
    if not any(pod.role == "master" and pod.attempt == attempt and pod.phase != "Pending" for pod in observed.pods):
        return None
    if were_engines_known(observed) or progress.epoch > observed.status.epoch:
        return progress.phase.value
    return None


def starting_activity(observed: Observed, unheard: str) -> str:
    """Return what the master of this attempt does before its first switch; `unheard` while it has said nothing."""
    progress = observed.progress
    return unheard if progress is None or progress.phase is not None else progress.activity


def were_engines_known(observed: Observed) -> bool:
    """Return whether the status says that the engines of this attempt have followed a switch."""
    condition = condition_of(observed, ConditionType.ENGINES_READY)
    return condition is not None and condition.reason in ENGINES_KNOWN


def condition_of(observed: Observed, kind: ConditionType) -> Condition | None:
    """Return a condition as it was written last."""
    return next((condition for condition in observed.status.conditions if condition.type is kind), None)
