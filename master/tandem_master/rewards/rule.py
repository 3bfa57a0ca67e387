"""Rules that score one response, and their weighted sum (report, section 2.3.1)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tandem_api.job.policy import BuiltinReward, RewardSpec

Rule = Callable[[str, str], float]


def exact_match(response: str, answer: str) -> float:
    """Return 1 where `response` without surrounding white space equals `answer`, else 0."""
    return float(response.strip() == answer.strip())


RULES: Mapping[BuiltinReward, Rule] = {BuiltinReward.EXACT_MATCH: exact_match}


@dataclass(frozen=True, slots=True)
class Score:
    """What one response is worth."""

    reward: float
    """Sum of the weighted terms."""
    correct: bool
    """Full marks: every rule gave 1. r(x, y, y*) = 1 of the report."""


def score_response(terms: Sequence[RewardSpec], response: str, answer: str) -> Score:
    """Return the weighted sum of all `terms` for the decoded `response`."""
    values = [RULES[term.builtin](response, answer) for term in terms]
    weighted = [term.weight * value for term, value in zip(terms, values, strict=True)]
    return Score(math.fsum(weighted), correct=all(value == 1.0 for value in values))
