"""What one reward term says of one response, or why it says nothing: no answer is never the same as a wrong one."""

import math
from dataclasses import dataclass
from enum import StrEnum

from tandem_api.resource import Resource


class Question(Resource):
    """What a reward function is asked."""

    problem_id: str
    """Identity of the problem."""
    prompt: str
    """The problem, as its line of the problem set has it."""
    response: str
    """The decoded response."""
    answer: str
    """Ground truth."""


class Trouble(StrEnum):
    """Why there is no value."""

    TIMED_OUT = "TimedOut"
    """No answer within the term's deadline."""
    CRASHED = "Crashed"
    """The function raised, its process ended, or its service could not be reached."""
    INVALID = "Invalid"
    """The answer is no finite number."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A value, or a trouble with its details in one line."""

    value: float | None = None
    trouble: Trouble | None = None
    detail: str = ""


def verdict_of(value: object) -> Verdict:
    """Return the verdict that an answer stands for: whatever is a finite number."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return Verdict(trouble=Trouble.INVALID, detail=f"the answer is {_shown(value)}, wanted a number")
    if not math.isfinite(number):
        return Verdict(trouble=Trouble.INVALID, detail=f"the answer is {number}, wanted a finite number")
    return Verdict(value=number)


def _shown(value: object) -> str:
    kind = type(value).__name__
    return f"a {kind}" if kind != "NoneType" else "nothing"
