"""What the operator does when a container or a pod of a job fails."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from tandem_api.invariant import Guarded, Invariant
from tandem_api.resource import Resource

MAX_RULES = 32
MAX_EXIT_CODES = 32


class FailureAction(StrEnum):
    """What is done about a failure."""

    RESTART_CONTAINER = "RestartContainer"
    """The kubelet starts the container again in its pod; the other container keeps running. A master cannot be started
    again in its pod: for it this means RestartGang. Where the pod has ended too, it means ReplacePod."""
    REPLACE_POD = "ReplacePod"
    """The pod is deleted and made again; the others keep running and wait for it."""
    RESTART_GANG = "RestartGang"
    """All pods are deleted and made again; the job goes on from its last checkpoint."""
    FAIL_JOB = "FailJob"
    """The job fails at once, whatever `maxRestarts` says."""
    IGNORE = "Ignore"
    """Nothing is done and nothing is counted."""


class FailureReason(StrEnum):
    """Why a container or a pod failed, as far as Kubernetes tells."""

    ERROR = "Error"
    """A container ended with an exit code other than 0."""
    OOM_KILLED = "OOMKilled"
    """A container used more memory than it may."""
    IMAGE_PULL = "ImagePull"
    """An image cannot be pulled."""
    DEVICE_UNRESOLVABLE = "DeviceUnresolvable"
    """A claimed device cannot be prepared or given to the containers."""
    UNSCHEDULABLE = "Unschedulable"
    """No node takes the pod."""
    EVICTED = "Evicted"
    """The pod was evicted or preempted."""
    NODE_LOST = "NodeLost"
    """The pod's node is gone or not ready."""
    STUCK_TERMINATING = "StuckTerminating"
    """The pod was to end and has not, long after its grace period."""
    POD_LOST = "PodLost"
    """The pod was deleted, or ended, by someone else."""


class ContainerName(StrEnum):
    """The containers that Tandem runs."""

    MASTER = "master"
    TRAINER = "trainer"
    ROLLOUT = "rollout"


CONTAINER_REASONS = (FailureReason.ERROR, FailureReason.OOM_KILLED)
"""Reasons after which the pod is still there and its container has an exit code."""


def _of_container(reason: FailureReason | None) -> bool:
    return reason is None or reason in CONTAINER_REASONS


class FailureMatch(Guarded):
    """Which failures a rule is for; all that is given must agree."""

    container: ContainerName | None = None
    """Container that failed; absent means any."""
    exit_codes: tuple[Annotated[int, Field(ge=1, le=255)], ...] = Field(default=(), max_length=MAX_EXIT_CODES)
    """Exit codes of the container; none means any."""
    reason: FailureReason | None = None
    """Cause; absent means any."""

    invariants = (
        Invariant(
            field="",
            cel="has(self.container) || has(self.reason) || self.exitCodes.size() > 0",
            holds=lambda match: match.container is not None or match.reason is not None or len(match.exit_codes) > 0,
            message="matches every failure; name a container, exitCodes or a reason",
        ),
        Invariant(
            field="exitCodes",
            cel="self.exitCodes.size() == 0 || !has(self.reason) || self.reason in ['Error', 'OOMKilled']",
            holds=lambda match: not match.exit_codes or _of_container(match.reason),
            message="never match, because with this reason no container has ended; remove them or use reason Error",
        ),
        Invariant(
            field="exitCodes",
            cel="self.exitCodes.all(code, self.exitCodes.exists_one(other, other == code))",
            holds=lambda match: len(set(match.exit_codes)) == len(match.exit_codes),
            message="holds a code twice; write each once",
        ),
    )


class FailureRule(Guarded):
    """One rule: what is done about which failures."""

    match: FailureMatch  # `on` would read better, but YAML 1.1, and so kubectl, takes that word for true
    """Which failures."""
    action: FailureAction
    """What is done."""

    invariants = (
        Invariant(
            field="action",
            cel="self.action != 'RestartContainer' || !has(self.match.reason)"
            " || self.match.reason in ['Error', 'OOMKilled']",
            holds=lambda rule: rule.action is not FailureAction.RESTART_CONTAINER or _of_container(rule.match.reason),
            message="is RestartContainer, but with this reason there is no pod to restart it in; use ReplacePod",
        ),
    )


class FailurePolicySpec(Resource):
    """How failures are answered."""

    max_restarts: int = Field(default=10, ge=0, le=10_000)
    """Restarts, of containers, pods and gangs together, after which the next failure fails the job."""
    rules: tuple[FailureRule, ...] = Field(default=(), max_length=MAX_RULES)
    """Rules in order: the first that matches is followed. Without a match an engine's container is started again in its
    pod, where it rejoins the job; after the end of the master, or the loss of a hybrid pod, all pods start again from
    the newest checkpoint; a rollout-only pod is replaced alone; and what may pass by itself (ImagePull,
    DeviceUnresolvable, Unschedulable, StuckTerminating) is shown and waited for."""
