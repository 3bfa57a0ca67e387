"""Rules that score one response (report, section 2.3.1)."""

from collections.abc import Callable, Mapping

from tandem_api.job.rewards import BuiltinReward

Rule = Callable[[str, str], float]


def exact_match(response: str, answer: str) -> float:
    """Return 1 where `response` without surrounding white space equals `answer`, else 0."""
    return float(response.strip() == answer.strip())


RULES: Mapping[BuiltinReward, Rule] = {BuiltinReward.EXACT_MATCH: exact_match}
