"""The status that people read: conditions, caption and what the master says."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from statistics import median
from typing import Any, Literal

from tandem_api.job.status import (
    MANY_SILENT_ITERATIONS,
    Condition,
    ConditionType,
    ElasticReadiness,
    Readiness,
    RewardStatus,
    RLJobStatus,
    describe_silence,
)
from tandem_api.registry import Progress
from tandem_operator.plan.names import role_selector
from tandem_operator.reconcile.decision import Note
from tandem_operator.reconcile.failures import is_stuck, remembered
from tandem_operator.reconcile.observed import Observed
from tandem_operator.reconcile.pods import PodView, write_time
from tandem_operator.reconcile.words import current_phase, starting_activity, were_engines_known

MOST_CHARACTERS = 1024
"""Longest message of a condition."""

ALL_SCHEDULED = "AllScheduled"
Truth = Literal["True", "False", "Unknown"]
WARNINGS = frozenset(
    {
        "Unschedulable",
        "StuckTerminating",
        "ContainersNotReady",
        "EnginesLost",
        "NameTaken",
        "InvalidSpec",
        "Restarting",
        "Evicted",
        "Evicting",
        "QueueAbsent",
        "FailurePolicy",
        "MaxRestartsExceeded",
        "DeadlineExceeded",
        "AllRewardsEqual",
    }
)
"""Reasons whose events are warnings."""
NEWS_OF_PROGRESS = frozenset({"Restarting", "InvalidSpec", "NameTaken", "Suspending", "Evicting"})
"""Reasons of Progressing that are told by an event; other progress is told by the status."""
NEWS_OF_ADMISSION = frozenset({"Queued", "Admitted", "Evicted", "QueueAbsent"})
"""Reasons of Admitted that are told by an event: what a queue says."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What a job is at, as the decision found it."""

    caption: str
    """`status.phase`."""
    progressing: Truth
    reason: str
    message: str
    suspended: Truth = "False"
    ended: Literal["Completed", "Failed"] | None = None


def next_status(observed: Observed, situation: Situation, **changes: Any) -> RLJobStatus:
    """Return the status of this situation. `changes`: further fields, by their Python names."""
    kept = {"handled_failures": remembered(observed)} | _told(observed.progress, observed.status)
    told = observed.status.model_copy(update=kept | changes)
    if told.attempt != observed.status.attempt:
        told = told.model_copy(update={"handled_failures": ()})
    current = [pod for pod in observed.pods if pod.attempt == told.attempt and pod.deleted_at is None]
    spec = observed.job.spec
    return told.model_copy(
        update={
            "observed_generation": observed.generation,
            "phase": situation.caption,
            "hybrid": Readiness(ready=_num_ready(current, "hybrid"), desired=spec.hybrid.replicas),
            "elastic": ElasticReadiness(
                ready=_num_ready(current, "rollout"),
                desired=spec.rollout.elastic.replicas,
                selector=role_selector(observed.job, "rollout"),
            ),
            "conditions": _conditions(observed, situation, current, told.attempt),
        }
    )


def refused_status(before: RLJobStatus, generation: int, problem: str, now: datetime) -> RLJobStatus:
    """Return the status of a job whose spec cannot be read: all stays as it is, and Progressing says why."""
    reason, message = "InvalidSpec", problem[:MOST_CHARACTERS]
    known = {condition.type: condition for condition in before.conditions}
    old = known.get(ConditionType.PROGRESSING)
    since = old.last_transition_time if old is not None and old.status == "False" else None
    known[ConditionType.PROGRESSING] = Condition(
        type=ConditionType.PROGRESSING,
        status="False",
        reason=reason,
        message=message,
        observed_generation=generation,
        last_transition_time=since or write_time(now),
    )
    return before.model_copy(update={"observed_generation": generation, "conditions": tuple(known.values())})


def notes_between(before: RLJobStatus, after: RLJobStatus) -> tuple[Note, ...]:
    """Return an event for each condition that holds anew, or that does not hold for a new reason.

    That all pods have nodes is news only where they had not been given any: the scheduler has told of each already.
    """
    old = {condition.type: (condition.status, condition.reason) for condition in before.conditions}
    again = after.restarts != before.restarts
    return tuple(
        Note("Warning" if condition.reason in WARNINGS else "Normal", condition.reason, condition.message)
        for condition in after.conditions
        if _worth_telling(condition)
        and not (condition.reason == ALL_SCHEDULED and old.get(condition.type, ("", ""))[1] not in WARNINGS)
        and (old.get(condition.type) != (condition.status, condition.reason) or (again and _is_restart(condition)))
    )


def describe_stuck(pod: PodView) -> str:
    """Return for people that a pod does not go, and what they can do."""
    assert pod.deleted_at is not None
    return (
        f"{pod.name} was to be gone at {write_time(pod.deleted_at)} and is not; "
        "look at its node, and if that is gone for good, delete the Node object"
    )


def _is_restart(condition: Condition) -> bool:
    return condition.type is ConditionType.PROGRESSING and condition.reason == "Restarting"


def _worth_telling(condition: Condition) -> bool:
    """Return whether a change into this condition is news."""
    if condition.type is ConditionType.ADMITTED:
        return condition.reason in NEWS_OF_ADMISSION
    if condition.type is ConditionType.PROGRESSING:
        return condition.reason in NEWS_OF_PROGRESS
    if condition.type is ConditionType.REWARD_SIGNAL:
        return condition.reason in WARNINGS
    return condition.status == "True" or condition.reason in WARNINGS


def _told(progress: Progress | None, status: RLJobStatus) -> dict[str, Any]:
    """Return the fields that the master tells; a new master that has told nothing yet leaves the old ones."""
    if progress is None:
        return {}
    told: dict[str, Any] = {"iteration": progress.iteration, "generation": progress.generation}
    if progress.epoch:
        told |= {"epoch": progress.epoch}
    if progress.reward is not None and isfinite(progress.reward):  # JSON has no word for the others
        told |= {"reward": RewardStatus(mean=round(progress.reward, 4))}
    if progress.evaluations:
        told |= {"evaluations": progress.evaluations}
    if progress.tokens_per_second is not None and isfinite(progress.tokens_per_second):
        told |= {"tokens_per_second": round(progress.tokens_per_second, 1)}
    if progress.switches:
        seconds = [switch.seconds for switch in progress.switches]
        told |= {"switches": progress.switches, "switch_seconds_median": round(median(seconds), 3)}
    return told


def _num_ready(pods: Sequence[PodView], role: str) -> int:
    return sum(pod.role == role and pod.ready for pod in pods)


def _conditions(
    observed: Observed, situation: Situation, pods: Sequence[PodView], attempt: int
) -> tuple[Condition, ...]:
    ended, failed = situation.ended is not None, situation.ended == "Failed"
    idle = ended or observed.job.spec.suspend or not observed.standing.may_run
    truths: list[tuple[ConditionType, Truth, str, str]] = [
        (ConditionType.ADMITTED, *_admitted(observed, situation)),
        (ConditionType.PODS_SCHEDULED, *_scheduled(observed, pods, idle)),
        (ConditionType.ENGINES_READY, *_engines(observed, pods, attempt, idle)),
        (ConditionType.PROGRESSING, situation.progressing, situation.reason, situation.message),
        (ConditionType.SUSPENDED, situation.suspended, *_suspended(situation)),
        (ConditionType.COMPLETED, *_end(situation, situation.ended == "Completed")),
        (ConditionType.FAILED, *_end(situation, failed)),
        (ConditionType.REWARD_SIGNAL, *_reward_signal(observed.progress)),
    ]
    old = {condition.type: condition for condition in observed.status.conditions}
    return tuple(_condition(observed, old.get(kind), kind, *truth) for kind, *truth in truths)  # type: ignore[arg-type]


def _condition(
    observed: Observed, old: Condition | None, kind: ConditionType, status: Truth, reason: str, message: str
) -> Condition:
    """Return one condition; its time of transition moves only with its status."""
    kept = old.last_transition_time if old is not None and old.status == status else None
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message[:MOST_CHARACTERS],
        observed_generation=observed.generation,
        last_transition_time=kept or write_time(observed.now),
    )


def _admitted(observed: Observed, situation: Situation) -> tuple[Truth, str, str]:
    if situation.ended is not None:
        return "False", situation.ended, "the job is over"
    if observed.job.spec.suspend:
        return "False", "Suspended", "spec.suspend is true"
    if situation.reason == "InvalidSpec":
        return "False", "InvalidSpec", situation.message
    standing = observed.standing
    return "True" if standing.may_run else "False", standing.reason, standing.message


def _scheduled(observed: Observed, pods: Sequence[PodView], idle: bool) -> tuple[Truth, str, str]:
    stuck = next((pod for pod in observed.pods if is_stuck(pod, observed)), None)
    if stuck is not None:
        return "False", "StuckTerminating", describe_stuck(stuck)
    if idle:
        return "False", "NoPods", "no pod is wanted"
    for pod in pods:
        if pod.unschedulable is not None:
            return "False", "Unschedulable", f"{pod.name}: {pod.unschedulable}"
    num_wanted = 1 + observed.job.spec.hybrid.replicas + observed.job.spec.rollout.elastic.replicas
    if len(pods) < num_wanted:
        return "False", "PodsMissing", f"{len(pods)} of {num_wanted} pods exist"
    pending = [pod.name for pod in pods if pod.phase == "Pending" and not pod.scheduled]
    if pending:
        return "Unknown", "Pending", f"waiting for {', '.join(pending[:3])}"
    return "True", ALL_SCHEDULED, f"all {num_wanted} pods have a node"


def _engines(observed: Observed, pods: Sequence[PodView], attempt: int, idle: bool) -> tuple[Truth, str, str]:
    if idle:
        return "False", "NoPods", "no pod is wanted"
    known = were_engines_known(observed) or current_phase(observed) is not None
    known = known and attempt == observed.status.attempt
    for pod in pods:
        for waiting in pod.waiting:
            text = f"{pod.name}/{waiting.container}: {waiting.reason} {waiting.message}".strip()
            return "False", "EnginesLost" if known else "ContainersNotReady", text
    gang = [pod for pod in pods if pod.role != "rollout"]
    num_missing = 1 + observed.job.spec.hybrid.replicas - len(gang)
    if num_missing > 0:
        return "False", "EnginesLost" if known else "PodsMissing", f"{num_missing} pods of the gang are missing"
    if known and observed.progress is None:
        return "Unknown", "EnginesRegistered", "nothing is heard from the master: the jobs' etcd does not answer"
    if current_phase(observed) is not None:
        return "True", "EnginesRegistered", "every engine is registered and has followed a switch"
    return "False", "Starting", starting_activity(observed, "the master has not spoken yet")


def _reward_signal(progress: Progress | None) -> tuple[Truth, str, str]:
    if progress is None or progress.iteration == 0:
        return "Unknown", "NotYetKnown", "no iteration is complete"
    if progress.silent_iterations < MANY_SILENT_ITERATIONS:
        return "True", "RewardsDiffer", ""
    return "False", "AllRewardsEqual", describe_silence(progress.silent_iterations)


def _suspended(situation: Situation) -> tuple[str, str]:
    if situation.suspended == "True":
        return "Suspended", "spec.suspend is true and no pod is left"
    return ("Suspending", situation.message) if situation.caption == "Suspending" else ("NotSuspended", "")


def _end(situation: Situation, holds: bool) -> tuple[Truth, str, str]:
    if holds:
        return "True", situation.reason, situation.message
    return "False", "NotEnded" if situation.ended is None else situation.ended, ""
