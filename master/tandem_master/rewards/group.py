"""From the rewards of a group to advantages: the mean reward is the baseline (report, section 2.3.2)."""

import numpy as np

from tandem_api.job.recipe import LengthRewardSpec, ObjectiveName
from tandem_master.rewards.length import Booleans, Floats, Integers, length_rewards

STANDARDISED = frozenset({ObjectiveName.GRPO, ObjectiveName.DAPO})
LEAST_SPREAD = 1e-6
"""Standard deviation below which rewards count as equal: what is left is rounding, and would be blown up."""


def length_weight(spec: LengthRewardSpec, iteration: int) -> float:
    """Return the weight of the length reward in `iteration` (from 1): none at first, constant after the warm-up."""
    return spec.weight if iteration > spec.warmup_iterations else 0.0


def rewards_with_length(rewards: Floats, num_tokens: Integers, correct: Booleans, length_weight: float) -> Floats:
    """Return what each response of a group is worth, float64 [k]: its reward and its weighted length reward."""
    total: Floats = rewards + length_weight * length_rewards(num_tokens, correct)
    return total


def advantages(
    rewards: Floats,
    num_tokens: Integers,
    correct: Booleans,
    length_weight: float,
    objective: ObjectiveName = ObjectiveName.MIRROR_DESCENT,
) -> Floats:
    """Return what each response is credited with, float64 [k]; the length reward is part of every reward.

    The reward minus the mean of the group (eq. 3); RLOO: minus the mean of the others; GRPO and DAPO: over the group's
    standard deviation, 0 where all rewards are the same.

    rewards: float64 [k]. num_tokens: int64 [k], lengths of the responses. correct: bool [k].
    """
    total = rewards_with_length(rewards, num_tokens, correct, length_weight)
    centred: Floats = total - total.mean()
    if objective is ObjectiveName.RLOO and len(total) > 1:
        return centred * (len(total) / (len(total) - 1))
    if objective in STANDARDISED:
        spread = total.std()
        return centred / spread if spread > LEAST_SPREAD else np.zeros(len(total))
    return centred
