"""What one trial has shown, as its file holds it."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Outcome(BaseModel):
    """One run of the loop. By iteration, from the first to the last."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    rate: float
    seed: int
    own: float | None = None
    """What the method's own number was, None where the recipe's default."""
    is_real: bool = False
    """Whether it was a job of `tandem up`, with vLLM and Megatron-Core."""
    rewards: tuple[float, ...]
    """Mean reward of the samples that finished in an iteration, without the length reward."""
    response_tokens: tuple[float, ...]
    """Their mean length, tokens."""
    accuracies: tuple[float, ...] = ()
    """Chance that a sample of the policy after an iteration is right, over held-out problems; the first before the
    first iteration. None of real jobs."""
    hard_shares: tuple[float, ...] = ()
    """Share of the hardest problems among those that an iteration drew. None of real jobs."""
    max_abs_logprob_difference: float
    """Largest of all iterations, nats."""
    seconds: float
    """Wall time, start and end included."""


def read_outcome(path: Path) -> Outcome:
    """Return what a file holds."""
    return Outcome.model_validate_json(path.read_text())
