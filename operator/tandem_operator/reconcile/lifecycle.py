"""The decision about one job: a pure function of what is observed.

Everything that is counted (attempts, restarts, failures) is in the status, and is written before it is acted upon. So
an operator may end between any two steps, and the next one goes on from there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tandem_api.job.status import Condition, ConditionType
from tandem_operator.plan.job import Plan
from tandem_operator.plan.names import LABEL_ROLE
from tandem_operator.plan.objects import Pod
from tandem_operator.reconcile.answers import answered
from tandem_operator.reconcile.conditions import Situation, describe_stuck, next_status, notes_between
from tandem_operator.reconcile.decision import Decision, Manifest, Note, Removal
from tandem_operator.reconcile.failures import is_stuck, remembered, replacement
from tandem_operator.reconcile.observed import Observed, Wanted
from tandem_operator.reconcile.pods import PodView, write_time
from tandem_operator.reconcile.queueing import with_queue
from tandem_operator.reconcile.waits import (
    restart_delay_seconds,
    seconds_to_deadline,
    seconds_to_live,
    seconds_to_stuck,
    soonest,
)
from tandem_operator.reconcile.words import (
    condition_of,
    current_phase,
    is_all_done,
    seconds_to_cause,
    seconds_to_last_word,
    starting_activity,
)


@dataclass(frozen=True, slots=True)
class Pause:
    """Why a job has no pods though it is not over."""

    pausing: str
    """Caption and reason while pods end."""
    paused: str
    """The same once they are gone."""
    cause: str
    suspended: Literal["True", "False"]
    """Condition Suspended once they are gone."""


BY_USER = Pause("Suspending", "Suspended", "spec.suspend is true", "True")
WAITING = "; it waits: "
"""Between the cause of a restart and what holds it up."""


def decide(observed: Observed, wanted: Wanted) -> Decision:
    """Return the next step for the job."""
    return with_queue(observed, wanted, _next(observed, wanted))


def _next(observed: Observed, wanted: Wanted) -> Decision:
    """Return the next step, but for what a queue and a gang's scheduler are told."""
    ended = _ended(observed)
    if ended is not None:
        return _after_the_end(observed, ended)
    newest = max((pod.attempt for pod in observed.pods), default=0)
    if newest > observed.status.attempt:
        return _catch_up(observed, newest)
    if _is_complete(observed):
        return _end(observed, "Completed", "Completed", _summary(observed))
    if observed.job.spec.suspend:
        return _pause(observed, BY_USER)
    if not observed.standing.may_run:
        return _pause(observed, Pause("Evicting", "Queued", observed.standing.message, "False"))
    return _go_on(observed, wanted)


def _go_on(observed: Observed, wanted: Wanted) -> Decision:
    """Return the next step of a job that may have pods."""
    overdue = _overdue(observed)
    if overdue is not None:
        return _end(observed, "Failed", "DeadlineExceeded", overdue)
    if wanted.plan is None:
        situation = Situation("Pending", "False", "InvalidSpec", wanted.problem or "")
        return _step(observed, situation, wake_after_seconds=soonest(seconds_to_deadline(observed)))
    if _is_of_another_spec(observed, wanted):
        situation = Situation("Starting", "False", "SpecChanged", "the spec has changed: all pods are made anew")
        return _step(observed, situation, True, {"attempt": observed.status.attempt + 1})
    answer = answered(observed, wanted.plan)
    if answer.fails is not None:
        return _end(observed, "Failed", *answer.fails)
    if answer.changes:
        return _step(observed, Situation("Restarting", "False", "Restarting", answer.message), True, answer.changes)
    return _converge(observed, wanted, wanted.plan)


def _step(
    observed: Observed,
    situation: Situation,
    status_first: bool = False,
    changes: Mapping[str, object] | None = None,
    wake_after_seconds: float | None = None,
) -> Decision:
    """Return a decision that only writes what was found."""
    status = next_status(observed, situation, **(changes or {}))
    notes = notes_between(observed.status, status)
    return Decision(status, status_first=status_first, notes=notes, wake_after_seconds=wake_after_seconds)


def _end(observed: Observed, result: Literal["Completed", "Failed"], reason: str, message: str) -> Decision:
    situation = Situation(result, "False", reason, message, ended=result)
    return _step(observed, situation, True, {"completion_time": write_time(observed.now)})


def _catch_up(observed: Observed, attempt: int) -> Decision:
    """Take over the attempt of pods that are newer than the status: it was lost, or this copy of it is old.

    An old copy is not written over: the write names its resource version.
    """
    known = condition_of(observed, ConditionType.PROGRESSING)
    situation = Situation("Starting", "True", "Starting", "the pods are starting")
    if known is not None:
        situation = Situation(observed.status.phase, known.status, known.reason, known.message)
    return _step(observed, situation, True, {"attempt": attempt})


def _is_complete(observed: Observed) -> bool:
    """Return whether the master ended well after the last iteration, and not because it was asked to go."""
    master = _master(observed)
    if master is None or not _ended_well(master):
        return False
    if observed.progress is None:
        return master.deleted_at is None
    return is_all_done(observed.progress)


def _ended_well(master: PodView) -> bool:
    """Return whether the master's container ended with success, whatever else runs in its pod."""
    endings = [ending.exit_code for ending in master.endings if ending.container == "master"]
    return endings[:1] == [0] or (master.phase == "Succeeded" and not endings)


def _is_of_another_spec(observed: Observed, wanted: Wanted) -> bool:
    """Return whether pods of this attempt were made for a spec that was changed since, while it was suspended."""
    attempt = observed.status.attempt
    return any(pod.attempt == attempt and pod.spec_hash != wanted.spec_hash for pod in observed.pods)


def _converge(observed: Observed, wanted: Wanted, plan: Plan) -> Decision:
    """Remove pods that are not wanted; then make those that are missing, the master last."""
    status, names = observed.status, {pod.metadata.name for pod in plan.pods}
    entries = set(remembered(observed))
    old = [pod for pod in observed.pods if pod.attempt != status.attempt]
    unwanted = [
        pod
        for pod in observed.pods
        if pod.attempt == status.attempt and (pod.name not in names or replacement(pod.name, pod.uid) in entries)
    ]
    delay = restart_delay_seconds(observed)
    strangers = sorted(observed.strangers & names)
    missing, master = ((), None) if old or delay > 0 or strangers else _missing(observed, plan)
    made = (*missing, *(() if master is None else (master,)))
    started = status.start_time or (write_time(observed.now) if made or observed.pods else None)
    next_ = next_status(observed, _situation(observed, old, delay, strangers), start_time=started)
    return Decision(
        status=next_,
        apply=_applied(observed, wanted, made),
        create=(plan.secret.manifest(), *(pod.manifest() for pod in missing)) if made else (),
        master=None if master is None else master.manifest(),
        remove=(*_going(observed, old), *_removals(unwanted)),
        notes=(*notes_between(status, next_), *_notes_of(observed, wanted, made)),
        wake_after_seconds=soonest(
            delay, seconds_to_deadline(observed), seconds_to_stuck(observed), _seconds_to_verdict(observed)
        ),
    )


def _missing(observed: Observed, plan: Plan) -> tuple[Sequence[Pod], Pod | None]:
    """Return the members that are to be made now, and the master where it is to be.

    While a member is going, the master waits for its successor.
    """
    present = {pod.name for pod in observed.pods}
    going = {pod.name for pod in observed.pods if pod.deleted_at is not None}
    gang = {pod.metadata.name for pod in plan.members if pod.metadata.labels[LABEL_ROLE] != "rollout"}
    missing = [pod for pod in plan.members if pod.metadata.name not in present]
    return missing, None if plan.master.metadata.name in present or going & gang else plan.master


def _going(observed: Observed, old: Sequence[PodView]) -> tuple[Removal, ...]:
    """Return which pods of earlier attempts go now: after a failure all, else the master first."""
    known = condition_of(observed, ConditionType.PROGRESSING)
    failed = known is not None and known.reason == "Restarting"
    return _removals(old) if failed else _in_order(observed, old)


def _removals(pods: Sequence[PodView]) -> tuple[Removal, ...]:
    return tuple(Removal(pod.name, pod.uid) for pod in pods if pod.deleted_at is None)


def _notes_of(observed: Observed, wanted: Wanted, made: Sequence[Pod]) -> tuple[Note, ...]:
    """Return the events that tell which pods are made, and that the gang which was asked for is none."""
    if not made:
        return ()
    gang = observed.job.spec.scheduling.gang
    absent = f"spec.scheduling.gang: this cluster does not serve {gang} PodGroups; pods are placed one by one"
    lacking = (Note("Warning", "GangAbsent", absent),) if wanted.lacks_gang else ()
    names = [pod.metadata.name for pod in made]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return (*lacking, Note("Normal", "PodsCreated", f"attempt {observed.status.attempt}: {shown}"))


def _applied(observed: Observed, wanted: Wanted, made: Sequence[Pod]) -> tuple[Manifest, ...]:
    """Return the children that are no pods and not as they should be; followers only once every pod has a node."""
    placed = not made and all(pod.scheduled for pod in observed.pods if pod.role != "rollout")
    due = (*wanted.groundwork, *wanted.followers) if placed else wanted.groundwork
    return tuple(item.manifest for item in due if observed.applied.get((item.kind, item.name)) != item.hash)


def _situation(observed: Observed, old: Sequence[PodView], delay: float, strangers: Sequence[str]) -> Situation:
    known = condition_of(observed, ConditionType.PROGRESSING)
    if old or delay > 0:
        stuck = next((pod for pod in old if is_stuck(pod, observed)), None)
        held_up = "" if stuck is None else f"{WAITING}{describe_stuck(stuck)}"
        if known is not None and known.reason == "Restarting":
            cause = known.message.partition(WAITING)[0]
            return Situation("Restarting", "False", "Restarting", cause + held_up)
        return Situation("Starting", "False", "OldPodsEnding", f"the pods of before are ending{held_up}")
    if strangers:
        message = f"{strangers[0]}: is a pod of somebody else; delete it, or give the job another name"
        return Situation("Starting", "False", "NameTaken", message)
    progress, phase = observed.progress, current_phase(observed)
    if progress is None or phase is None:
        return Situation("Starting", "True", "Starting", starting_activity(observed, "the pods are starting"))
    counts = ""
    if progress.wanted_trajectories and phase == "Infer":
        counts = f": {progress.completed_trajectories} of {progress.wanted_trajectories} trajectories complete"
    message = f"iteration {min(progress.iteration + 1, progress.iterations)} of {progress.iterations}{counts}"
    reason = "Rollout" if phase == "Infer" else "Training"
    return Situation(phase, "True", reason, message)


def _pause(observed: Observed, pause: Pause) -> Decision:
    """End the master, which keeps its state, then the members. Pods that come after a pause are a new attempt."""
    if not observed.pods:
        situation = Situation(pause.paused, "False", pause.paused, pause.cause, suspended=pause.suspended)
        return _step(observed, situation, changes={"start_time": None})
    if any(pod.attempt == observed.status.attempt for pod in observed.pods):
        situation = Situation(pause.pausing, "False", pause.pausing, f"{pause.cause}: the pods are asked to end")
        return _step(observed, situation, True, {"attempt": observed.status.attempt + 1})
    stuck = next((pod for pod in observed.pods if is_stuck(pod, observed)), None)
    message = f"{len(observed.pods)} pods are ending" if stuck is None else describe_stuck(stuck)
    status = next_status(observed, Situation(pause.pausing, "False", pause.pausing, message))
    return Decision(
        status,
        remove=_in_order(observed, observed.pods),
        notes=notes_between(observed.status, status),
        wake_after_seconds=soonest(seconds_to_stuck(observed)),
    )


def _after_the_end(observed: Observed, ended: Condition) -> Decision:
    """Free the devices, keep the master's pod for its log, and delete the job when its time has come."""
    result: Literal["Completed", "Failed"] = "Completed" if ended.type is ConditionType.COMPLETED else "Failed"
    situation = Situation(result, "False", ended.reason, ended.message, ended=result)
    completed = observed.status.completion_time or ended.last_transition_time
    status = next_status(observed, situation, completion_time=completed)
    kept = _master(observed)
    has_log = kept is not None and has_ended(kept)
    pods = [pod for pod in observed.pods if not (has_log and pod is kept)]
    left = seconds_to_live(observed, completed)
    return Decision(
        status=status,
        remove=_in_order(observed, pods),
        notes=notes_between(observed.status, status),
        ended=result,
        delete_job=left is not None and left <= 0 and not _saving(observed, pods),
        wake_after_seconds=soonest(left, seconds_to_stuck(observed)),
    )


def _in_order(observed: Observed, pods: Sequence[PodView]) -> tuple[Removal, ...]:
    """Return the pods to remove now: the master alone while it runs, since it saves through its trainers."""
    return _removals(_saving(observed, pods) or pods)


def _saving(observed: Observed, pods: Sequence[PodView]) -> Sequence[PodView]:
    """Return the masters that still run. One that does not go for long saves nothing any more."""
    running = [pod for pod in pods if pod.role == "master" and not has_ended(pod)]
    return [pod for pod in running if not is_stuck(pod, observed)]


def has_ended(master: PodView) -> bool:
    """Return whether the master's container has ended, which its pod's phase may tell a moment later."""
    return master.is_over or any(ending.container == "master" for ending in master.endings)


def _master(observed: Observed) -> PodView | None:
    """Return the master's pod of the present attempt."""
    attempt = observed.status.attempt
    return next((pod for pod in observed.pods if pod.role == "master" and pod.attempt == attempt), None)


def _seconds_to_verdict(observed: Observed) -> float | None:
    """Return for how long the end of the master is not judged yet."""
    master = _master(observed)
    if master is None:
        return None
    return soonest(seconds_to_last_word(master, observed), seconds_to_cause(master, observed))


def _ended(observed: Observed) -> Condition | None:
    for kind in (ConditionType.COMPLETED, ConditionType.FAILED):
        condition = condition_of(observed, kind)
        if condition is not None and condition.status == "True":
            return condition
    return None


def _summary(observed: Observed) -> str:
    progress = observed.progress
    return "the master ended with success" if progress is None else f"all {progress.iterations} iterations are done"


def _overdue(observed: Observed) -> str | None:
    left = seconds_to_deadline(observed)
    if left is None or left > 0:
        return None
    return f"spec.activeDeadlineSeconds: {observed.job.spec.active_deadline_seconds} s have passed; give it more"
