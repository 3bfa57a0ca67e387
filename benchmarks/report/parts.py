"""What the parts of a benchmark have said so far."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic

from benchmarks.report.result import Result, rounded

Part = Callable[[], Result]


@dataclass(slots=True)
class Report:
    """What the parts have said so far."""

    figures: dict[str, float | int] = field(default_factory=dict)
    samples: dict[str, Mapping[str, object]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])
    """The machine's mean load of a minute, before the first part."""

    def add(self, name: str, part: Part) -> None:
        """Measure a part; its failure is noted and loses nothing that others have measured."""
        began = monotonic()
        try:
            result = part()
        except Exception as error:  # noqa: BLE001 - whatever it is, the other parts' figures are kept, and it is told
            self.failed[name] = "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])
            _say(f"{name}: failed after {monotonic() - began:.0f} s: {self.failed[name]}")
            return
        self.figures |= rounded(result.figures)
        self.samples[name] = result.samples
        self.left_out |= result.left_out
        for what, why in result.left_out.items():
            _say(f"{name}: {what} left out: {why}")
        _say(f"{name}: measured in {monotonic() - began:.0f} s")


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
