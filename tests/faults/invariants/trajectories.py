"""Invariant 4: no trajectory is lost and none is trained twice; an iteration commits once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tandem_api.history import IterationRecord
from tests.faults.history import BufferSnapshot, Change, History, TrajectoryRow
from tests.faults.invariants.rollbacks import Rollback, find_rollbacks
from tests.faults.invariants.violation import Violation
from tests.faults.values import ProgressValue

ORDER: Mapping[str, int] = {"Unfinished": 0, "Finished": 1, "Unscored": 1, "Trained": 2, "Rejected": 2}
"""States only go forward, a rollback aside."""


def check_kept_trajectories(history: History) -> list[Violation]:
    """Return every loss and every repetition that the buffer or the diary shows."""
    rollbacks = find_rollbacks(history)
    ledger = Ledger()
    found = _repeated_commits(history, rollbacks)
    for before, snapshot in zip((None, *history.snapshots), history.snapshots, strict=False):
        since = before.at if before is not None else 0.0
        kept = min((one.generation for one in rollbacks if since < one.at <= snapshot.at), default=None)
        found += ledger.take(snapshot, kept)
        found += _undurable(history.changes, rollbacks, ledger, snapshot.at)
    return found


def _undurable(
    changes: Sequence[Change], rollbacks: Sequence[Rollback], ledger: "Ledger", at: float
) -> list[Violation]:
    """What the master has acknowledged since the last return is in the buffer."""
    since = max((one.at for one in rollbacks if one.at <= at), default=0.0)
    said = [
        (change.value.iteration + 1, change.value.completed_trajectories)
        for change in changes
        if since < change.at <= at and isinstance(change.value, ProgressValue) and change.value.activity == "sampling"
    ]
    iteration, count = said[-1] if said else (0, 0)
    durable = sum(row.finished_iteration == iteration for row in ledger.rows.values())
    if durable < count:
        return [Violation(4, at, f"iteration {iteration}: {count} trajectories acknowledged, {durable} durable")]
    return []


def _repeated_commits(history: History, rollbacks: Sequence[Rollback]) -> list[Violation]:
    """The committed iterations count up by one from where each return says that it begins."""
    found = []
    done: int | None = None
    commits = [(entry.seen_at, entry.record) for entry in history.diary if isinstance(entry.record, IterationRecord)]
    steps: list[tuple[float, int, bool]] = [(one.at, one.generation, False) for one in rollbacks]
    steps += [(at, record.iteration, True) for at, record in commits]
    for at, iteration, is_commit in sorted(steps):
        if is_commit and done is not None and iteration != done + 1:
            found.append(Violation(4, at, f"iteration {iteration} committed after {done}"))
        if not is_commit and done is not None and iteration > done:
            text = f"a run starts after iteration {iteration}, {done} was the last that committed"
            found.append(Violation(4, at, text))
        done = iteration
    return found


@dataclass(slots=True)
class Ledger:
    """The buffer as put together from its snapshots."""

    rows: dict[str, TrajectoryRow] = field(default_factory=dict)
    committed: frozenset[int] = frozenset()

    def take(self, snapshot: BufferSnapshot, kept: int | None) -> list[Violation]:
        """Take in a snapshot and return what it shows. `kept`: generation that the buffer was rolled back to."""
        problems = [f"trajectory {lost} is gone" for lost in snapshot.vanished if not _may_go(self.rows[lost], kept)]
        for row in snapshot.changed:
            before = self.rows.get(row.id)
            problems += [f"trajectory {row.id}: {text}" for text in _own_problems(row, snapshot)]
            if before is not None:
                problems += [f"trajectory {row.id}: {text}" for text in _changes(before, row, kept)]
            self.rows[row.id] = row
        for lost in snapshot.vanished:
            self.rows.pop(lost, None)
        problems += self._commits(snapshot, kept) + self._groups(snapshot)
        self.committed = frozenset(snapshot.committed)
        return [Violation(4, snapshot.at, text) for text in problems]

    def _commits(self, snapshot: BufferSnapshot, kept: int | None) -> list[str]:
        now = frozenset(snapshot.committed)
        problems = []
        if now != frozenset(range(1, len(now) + 1)):
            problems.append(f"the committed iterations have a gap: {_short(now)}")
        lost = frozenset(i for i in self.committed - now if kept is None or i <= kept)
        if lost:
            problems.append(f"iterations {_short(lost)} are no longer committed")
        return problems

    def _groups(self, snapshot: BufferSnapshot) -> list[str]:
        """A group is trained as a whole, in one iteration, and in the first that commits after it is complete."""
        touched = {row.group for row in snapshot.changed}
        newest = max(snapshot.committed, default=0)
        groups: dict[str, list[TrajectoryRow]] = {}
        for row in self.rows.values():
            if row.group in touched and row.state != "Unscored":
                groups.setdefault(row.group, []).append(row)
        problems = []
        for group, rows in groups.items():
            trained = {row.trained_iteration for row in rows}
            if len(trained) > 1:
                problems.append(f"group {group} is trained in parts: {sorted(map(str, trained))}")
            elif trained == {None} and all((row.finished_iteration or newest + 1) <= newest for row in rows):
                problems.append(f"group {group} was complete and was never trained")
        return problems


def _may_go(row: TrajectoryRow, kept: int | None) -> bool:
    """Tell whether a rollback to generation `kept` removes the trajectory: it was drawn by a later iteration."""
    return kept is not None and row.iteration > kept + 1


def _own_problems(row: TrajectoryRow, snapshot: BufferSnapshot) -> list[str]:
    problems = []
    is_left_out = row.state == "Rejected"  # before the commit: its iteration draws others in its place
    if (row.state == "Trained" or is_left_out) != (row.trained_iteration is not None):
        problems.append(f"is {row.state}, trained in iteration {row.trained_iteration}")
    if not is_left_out and row.trained_iteration is not None and row.trained_iteration not in snapshot.committed:
        problems.append(f"is trained in iteration {row.trained_iteration}, which is not committed")
    if row.state != "Unfinished" and row.finished_iteration is None:
        problems.append(f"is {row.state} without having finished")
    return problems


def _changes(before: TrajectoryRow, after: TrajectoryRow, kept: int | None) -> list[str]:
    problems = []
    old = [segment for segment in before.segments if kept is None or segment.generation <= kept]
    if tuple(old) != after.segments[: len(old)]:
        problems.append("lost or changed what it had sampled")
    if before.trained_iteration not in (None, after.trained_iteration) and not _is_undone(
        before.trained_iteration, kept
    ):
        problems.append(f"was trained in iteration {before.trained_iteration}, and now {after.trained_iteration}")
    undone = _is_undone(before.finished_iteration, None if kept is None else kept + 1)
    undone = undone or _is_undone(before.trained_iteration, kept)
    if ORDER[after.state] < ORDER[before.state] and not undone:
        problems.append(f"was {before.state} and is {after.state} again")
    return problems


def _is_undone(iteration: int | None, kept: int | None) -> bool:
    return iteration is not None and kept is not None and iteration > kept


def _short(numbers: Iterable[int]) -> str:
    ordered = sorted(numbers)
    return ", ".join(map(str, ordered[:5])) + (", ..." if len(ordered) > 5 else "")
