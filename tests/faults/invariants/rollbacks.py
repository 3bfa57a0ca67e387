"""Where a job has gone back to an earlier generation, by its own word."""

from collections.abc import Sequence
from dataclasses import dataclass

from tandem_api.history import RunStarted
from tests.faults.history import History
from tests.faults.values import DesiredValue


@dataclass(frozen=True, slots=True, order=True)
class Rollback:
    """One return: what came after `generation` is undone and made again."""

    at: float
    generation: int


def find_rollbacks(history: History) -> Sequence[Rollback]:
    """Return all returns in the order of time.

    The diary says where each start begins; a new lineage says that numbers are given again.
    """
    found = [
        Rollback(entry.seen_at, entry.record.iteration)
        for entry in history.diary
        if isinstance(entry.record, RunStarted)
    ]
    lineage = ""
    for change in history.changes:
        word = change.value
        if not isinstance(word, DesiredValue):
            continue
        if lineage and word.lineage not in ("", lineage):
            found.append(Rollback(change.at, word.generation))
        lineage = word.lineage or lineage
    return sorted(found)
