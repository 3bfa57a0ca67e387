"""How a job is switched, kept and bounded in time."""

from enum import StrEnum

from pydantic import Field

from tandem_api.resource import Resource


class SwitchStrategy(StrEnum):
    """What happens to the server between two Infer phases."""

    RESTART = "Restart"
    """Killed and forked again from the zygote: frees everything, the report's way (section 2.6.3)."""


class SwitchSpec(Resource):
    """The change between training and inference."""

    strategy: SwitchStrategy = SwitchStrategy.RESTART
    """What happens to the server between two Infer phases."""
    train_to_infer_deadline_seconds: float = Field(default=300.0, gt=0)
    """Time in which all pods must serve the new generation; then the job fails and names who is missing."""
    infer_to_train_deadline_seconds: float = Field(default=120.0, gt=0)
    """Time in which all trainers must hold the devices again; then the job fails and names who is missing."""
    max_logprob_difference: float | None = Field(default=None, gt=0)
    """Largest difference, in nats, between the log-probability of a sampled token as vLLM gave it and as the trainer
    computes it with the same generation; more stops the job before it trains on a broken hand-over.
    Absent: 1e-4 with Float32, 1.0 with BFloat16."""


class CheckpointsSpec(Resource):
    """Durable state of the job: replay buffer, metrics, checkpoints, final policy."""

    claim_name: str | None = None
    """PersistentVolumeClaim, mounted in the master and in all trainers; `tandem up` uses the run folder."""
    every_iterations: int = Field(default=10, ge=1)
    """Iterations between two checkpoints; a stop writes one in any case."""
    keep_last: int = Field(default=3, ge=1)
    """Checkpoints kept; older ones are removed after a newer one is complete."""
