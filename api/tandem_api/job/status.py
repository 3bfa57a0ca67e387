"""Observed state of an RLJob: conditions are the truth, phase is a caption for people."""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from tandem_api.resource import Resource


class Phase(StrEnum):
    """What the devices are for; the word on the wire of the switch protocol."""

    TRAIN = "Train"
    INFER = "Infer"


class Direction(StrEnum):
    """Which way a switch goes."""

    TRAIN_TO_INFER = "TrainToInfer"
    INFER_TO_TRAIN = "InferToTrain"


class Condition(Resource):
    """One Kubernetes condition."""

    type: str
    """CamelCase positive adjective or participle."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: str
    """CamelCase cause, for programs."""
    message: str
    """One sentence, for people."""
    observed_generation: int | None = None
    """metadata.generation that this condition was computed from."""
    last_transition_time: str | None = None
    """RFC 3339 time of the last change of status."""


class RewardStatus(Resource):
    """Reward of the last complete iteration."""

    mean: float
    """Mean over all finished trajectories of the iteration, without the length reward."""


class Readiness(Resource):
    """Pods that are ready, of those wanted."""

    ready: int = Field(ge=0)
    """Pods whose engines are registered."""
    desired: int = Field(ge=0)
    """Pods that the spec asks for."""


class SwitchSummary(Resource):
    """One past switch."""

    epoch: int = Field(ge=1)
    """Number of the switch."""
    direction: Direction
    """Which way."""
    seconds: float = Field(ge=0)
    """From the master's word to the last pod's readiness."""
    slowest_pod: str
    """Pod that was ready last."""
    slowest_stage: str
    """Its longest stage."""
    at: str
    """RFC 3339 time of its start."""


class RLJobStatus(Resource):
    """Observed state of a job."""

    observed_generation: int = Field(default=0, ge=0)
    """metadata.generation last acted on."""
    phase: str = "Pending"
    """Caption for people, derived from the conditions."""
    conditions: tuple[Condition, ...] = ()
    """The truth, by type."""
    iteration: int = Field(default=0, ge=0)
    """Complete iterations."""
    generation: int = Field(default=0, ge=0)
    """Version of the published weights."""
    epoch: int = Field(default=0, ge=0)
    """Number of phase changes so far."""
    reward: RewardStatus | None = None
    """Reward of the last complete iteration."""
    tokens_per_second: float | None = None
    """Sampled tokens over the last Infer phase's duration."""
    hybrid: Readiness | None = None
    """Hybrid pods."""
    elastic: Readiness | None = None
    """Rollout-only pods."""
    restarts: int = Field(default=0, ge=0)
    """Container and pod restarts so far."""
    switches: tuple[SwitchSummary, ...] = Field(default=(), max_length=10)
    """The last ten switches, newest first."""
