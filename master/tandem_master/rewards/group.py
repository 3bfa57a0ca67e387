"""From the rewards of a group to advantages: the mean reward is the baseline (report, section 2.3.2)."""

from tandem_api.job.recipe import LengthRewardSpec
from tandem_master.rewards.length import Booleans, Floats, Integers, length_rewards


def length_weight(spec: LengthRewardSpec, iteration: int) -> float:
    """Return the weight of the length reward in `iteration` (from 1): none at first, constant after the warm-up."""
    return spec.weight if iteration > spec.warmup_iterations else 0.0


def advantages(rewards: Floats, num_tokens: Integers, correct: Booleans, length_weight: float) -> Floats:
    """Return each response's reward minus the mean of its group, float64 [k]; the length reward is in both.

    rewards: float64 [k]. num_tokens: int64 [k], lengths of the responses. correct: bool [k].
    """
    total: Floats = rewards + length_weight * length_rewards(num_tokens, correct)
    centred: Floats = total - total.mean()
    return centred
