"""The history of a run, read back from `metrics.jsonl`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from tandem_api.history import (
    RECORD,
    CheckpointRecord,
    EvaluationRecord,
    IterationRecord,
    PhaseRecord,
    Record,
    RunEnded,
    RunStarted,
    SelfTestRecord,
    SwitchRecord,
)


class HistoryError(ValueError):
    """A history that cannot be read; the message names file and line."""


@dataclass(frozen=True, slots=True)
class Run:
    """One life of a master: from its start to its end, or to the last record it left when it was killed."""

    started: RunStarted
    """Its first record."""
    until: float
    """Unix time, in seconds, of the last thing that is known of it."""
    ended: RunEnded | None = None
    """Its last word; None while it runs, and for ever when it was killed."""

    @property
    def seconds(self) -> float:
        return self.until - self.started.at


@dataclass(frozen=True, slots=True)
class History:
    """All that a job wrote down, over all its runs."""

    runs: tuple[Run, ...] = ()
    """Oldest first: more than one when the job was resumed."""
    iterations: tuple[IterationRecord, ...] = ()
    """By number; of an iteration that was done twice, the later."""
    switches: tuple[SwitchRecord, ...] = ()
    """All switches in order of time, those of discarded iterations included: they took place."""
    phases: tuple[PhaseRecord, ...] = ()
    """All phases in order of time, as with the switches."""

    evaluations: tuple[EvaluationRecord, ...] = ()
    """By set and generation, the sets in the order in which they were first told of; those without a result left
    out."""

    @property
    def sets(self) -> dict[str, tuple[EvaluationRecord, ...]]:
        """The evaluations of each held-out set, by generation."""
        groups: dict[str, list[EvaluationRecord]] = {}
        for record in self.evaluations:
            groups.setdefault(record.name, []).append(record)
        return {name: tuple(records) for name, records in groups.items()}

    @property
    def ended(self) -> RunEnded | None:
        """The last word of the last run."""
        return self.runs[-1].ended if self.runs else None

    @property
    def wanted_iterations(self) -> int | None:
        """Iterations of the recipe, by the last run."""
        return self.runs[-1].started.iterations if self.runs else None

    @property
    def generation(self) -> int | None:
        """Generation published last; None before the first iteration."""
        return self.iterations[-1].generation if self.iterations else None


@dataclass(slots=True)
class _Draft:
    """A history while records are added to it."""

    runs: list[Run]
    switches: list[SwitchRecord]
    phases: list[PhaseRecord]
    iterations: dict[int, IterationRecord] = field(default_factory=dict)
    evaluations: dict[tuple[str, int], EvaluationRecord] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        match record:
            case RunStarted():
                self._start(record)
            case RunEnded():
                self._seen(record.at, record)
            case SwitchRecord():
                self.switches.append(record)
                self._seen(record.started_at + record.seconds)
            case PhaseRecord():
                self.phases.append(record)
                self._seen(record.started_at + record.seconds)
            case IterationRecord():
                self.iterations[record.iteration] = record
                self._seen(record.at)
            case CheckpointRecord():
                self._seen(record.at)
            case SelfTestRecord():
                self._seen(record.at)
            case EvaluationRecord():
                if not record.error:
                    self.evaluations[record.name, record.generation] = record
                self._seen(record.at)

    def _start(self, started: RunStarted) -> None:
        """Open a run; iterations after the one it resumes from are void: their weights are not its ancestors."""
        self.runs.append(Run(started=started, until=started.at))
        self.iterations = {number: record for number, record in self.iterations.items() if number <= started.iteration}
        self.evaluations = {
            (name, generation): record
            for (name, generation), record in self.evaluations.items()
            if generation <= started.iteration
        }

    def _seen(self, at: float, ended: RunEnded | None = None) -> None:
        if self.runs:
            run = self.runs[-1]
            self.runs[-1] = Run(started=run.started, until=max(run.until, at), ended=ended or run.ended)


def extend(history: History, records: Iterable[Record]) -> History:
    """Return the history with more records, in the order in which they were written."""
    draft = _Draft(
        runs=list(history.runs),
        switches=list(history.switches),
        phases=list(history.phases),
        iterations={record.iteration: record for record in history.iterations},
        evaluations={(record.name, record.generation): record for record in history.evaluations},
    )
    for record in records:
        draft.add(record)
    return History(
        runs=tuple(draft.runs),
        iterations=tuple(draft.iterations[number] for number in sorted(draft.iterations)),
        switches=tuple(draft.switches),
        phases=tuple(draft.phases),
        evaluations=_by_set(draft.evaluations.values()),
    )


def _by_set(records: Iterable[EvaluationRecord]) -> tuple[EvaluationRecord, ...]:
    sets: dict[str, list[EvaluationRecord]] = {}
    for record in records:
        sets.setdefault(record.name, []).append(record)
    return tuple(record for group in sets.values() for record in sorted(group, key=lambda item: item.generation))


def read_history(path: Path) -> History:
    """Return the history that a `metrics.jsonl` holds; a last line that was torn by a crash is left out.

    Raises: HistoryError: the file is missing, or a line is no record; the message is `file:line: problem; fix`.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise HistoryError(f"{path}: no such file; name the folder of a run that has started") from error
    return extend(History(), _records(path, content))


def _records(path: Path, content: bytes) -> Iterator[Record]:
    *lines, rest = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _parse(path, number, line)
    # What follows the last newline was being written when the writer died, unless it is whole by luck.
    if rest.strip():
        try:
            yield _parse(path, len(lines) + 1, rest)
        except HistoryError:
            return


def _parse(path: Path, number: int, line: bytes) -> Record:
    try:
        return RECORD.validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        problem = f"{where}: {first['msg']}" if where else first["msg"]
        raise HistoryError(
            f"{path}:{number}: {problem}; remove the line, or read the file with the version that wrote it"
        ) from error
