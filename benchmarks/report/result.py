"""What a part of a benchmark hands back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Figures = Mapping[str, float | int]
DIGITS = 4


@dataclass(frozen=True, slots=True)
class Result:
    """Figures of one part, what they were made of, and what could not be measured here."""

    figures: Figures
    samples: Mapping[str, object]
    left_out: Mapping[str, str] = field(default_factory=dict)
    """By what is left out: why."""


def suffixed(results: Mapping[str, Result], suffix: str) -> Result:
    """Return several results as one, with a suffix on every figure; their samples are kept under their names."""
    return Result(
        {f"{key}{suffix}": value for result in results.values() for key, value in result.figures.items()},
        {name: result.samples for name, result in results.items()},
        {f"{key}{suffix}": why for result in results.values() for key, why in result.left_out.items()},
    )


class PartError(Exception):
    """A part could not be measured; the message says why, for people."""


def rounded(figures: Figures) -> dict[str, float | int]:
    """Return figures to four significant digits; whole numbers stay."""
    return {key: float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value for key, value in figures.items()}


def last_words(output: str, num_lines: int = 3) -> str:
    """Return the last lines that a program has printed."""
    lines: Sequence[str] = [line for line in output.splitlines() if line.strip()]
    return "\n".join(lines[-num_lines:])
