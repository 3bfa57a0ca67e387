"""Quantities as text for people: durations, counts and numbers of any size, and `–` for those that do not exist."""

from tandem_api.job.status import Direction

ABSENT = "–"
ARROWS = {Direction.TRAIN_TO_INFER: "train→infer", Direction.INFER_TO_TRAIN: "infer→train"}
"""Caption of each direction."""


def clock_text(seconds: float | None) -> str:
    """Return a duration as a clock shows it: 1:04, 12:31, 2:03:10."""
    if seconds is None:
        return ABSENT
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def seconds_text(seconds: float | None) -> str:
    """Return a short duration with its unit: 0.31 s, 12.4 s, 130 s."""
    return ABSENT if seconds is None else f"{digits_text(seconds)} s"


def digits_text(seconds: float) -> str:
    """Return a short duration without its unit, three digits at most that matter."""
    if seconds < 9.995:
        return f"{seconds:.2f}"
    return f"{seconds:.1f}" if seconds < 99.95 else f"{seconds:,.0f}"


def fixed_text(value: float | None, decimals: int) -> str:
    """Return a number with so many decimals and thousands separated."""
    return ABSENT if value is None else f"{value:,.{decimals}f}"


def signed_text(value: float | None, decimals: int) -> str:
    """Return a difference with its sign: +0.31."""
    return ABSENT if value is None else f"{value:+,.{decimals}f}"


def tiny_text(value: float | None) -> str:
    """Return a number of unknown magnitude in two digits that matter: 3.1e-06."""
    return ABSENT if value is None else f"{value:.2g}"


def share_text(share: float | None) -> str:
    """Return a share of one as a percentage."""
    return ABSENT if share is None else f"{share:.0%}"


def plural_text(count: int, noun: str) -> str:
    """Return a count with its noun: 1 pod, 2 pods, 3 switches."""
    if count == 1:
        return f"{count} {noun}"
    return f"{count:,} {noun}{'es' if noun.endswith('ch') else 's'}"
