"""What has been measured so far, in a file that is whole after every case: a run that was cut short goes on there."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from tests.parity.cases import ALL, Case
from tests.parity.measure import Measured


@dataclass(slots=True)
class Results:
    """Cases by family and name, and how far a family's servers are from transformers."""

    path: Path
    measured: dict[tuple[str, str], Measured] = field(default_factory=dict)
    gaps: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """By family: nats, by tensor-parallel ranks of SERVER_SPLITS."""
    days: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return what a file has; nothing where there is none."""
        if not path.exists():
            return cls(path)
        found: dict[str, Any] = json.loads(path.read_text())
        cases = [Measured(**{**one, "to_servers": tuple(one["to_servers"])}) for one in found["measured"]]
        return cls(
            path,
            {(one.family, one.case): one for one in cases},
            {family: tuple(gaps) for family, gaps in found["gaps"].items()},
            set(found["days"]),
        )

    def has(self, case: Case) -> bool:
        return (case.family, case.name) in self.measured

    def add_servers(self, family: str, gaps: Sequence[float]) -> None:
        """Note a family's servers; where they were asked before, the larger distances count."""
        before = self.gaps.get(family, gaps)
        self.gaps[family] = tuple(max(pair) for pair in zip(before, gaps, strict=True))
        self._write()

    def add(self, measured: Measured) -> None:
        self.measured[measured.family, measured.case] = measured
        self.days.add(f"{datetime.now(UTC):%Y-%m-%d}")
        self._write()

    def missing(self) -> Iterator[Case]:
        """Yield the cases that nobody has measured."""
        return (case for case in ALL if not self.has(case))

    def _write(self) -> None:
        found = {
            "days": sorted(self.days),
            "gaps": self.gaps,
            "measured": [asdict(one) for one in self.measured.values()],
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_suffix(".new")
        aside.write_text(json.dumps(found, indent=1) + "\n")
        aside.replace(self.path)
