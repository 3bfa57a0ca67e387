"""Histories written by hand, for the tests of the checker."""

from collections.abc import Sequence
from dataclasses import replace

from tandem_api.history import IterationRecord, RunEnded, RunStarted, SwitchRecord
from tandem_api.job.status import Direction
from tests.faults.history import (
    BufferSnapshot,
    Change,
    DeviceSample,
    DiaryEntry,
    History,
    JobFacts,
    RunningProcess,
    SegmentRow,
    TrajectoryRow,
)
from tests.faults.values import (
    DesiredValue,
    LayoutValue,
    MasterValue,
    MemberValue,
    Phase,
    PieceValue,
    PublishedValue,
    ShardValue,
    StatusValue,
    Value,
)

POD = "job-hybrid-0"
FACTS = JobFacts(hybrid_pods=(POD,), budget_tokens=8, to_infer_seconds=40.0, to_train_seconds=40.0)
TRAIN, ROLLOUT = f"status/{POD}/train", f"status/{POD}/rollout"
SHARD = f"weights/0/shards/{POD}/0"
SERVER = RunningProcess("server", 7)
RANK = RunningProcess("rank", 5)


def changes(*steps: tuple[str, Value | None], begin: float = 100.0) -> tuple[Change, ...]:
    """Return one change a second, in one life of the registry."""
    return tuple(Change(begin + number, 1, number + 1, key, value) for number, (key, value) in enumerate(steps))


def word(
    epoch: int, phase: Phase, generation: int = 0, *, deadline: float = 0.0, lineage: str = ""
) -> tuple[str, DesiredValue]:
    return "desired", DesiredValue(epoch=epoch, phase=phase, generation=generation, deadline=deadline, lineage=lineage)


def status(
    key: str,
    state: str,
    epoch: int,
    *,
    incarnation: str = "",
    generation: int | None = None,
    device_bytes: int | None = None,
    error: str | None = None,
) -> tuple[str, StatusValue]:
    writer = incarnation or ("t1" if key == TRAIN else "r1")
    value = StatusValue(
        incarnation=writer, epoch=epoch, state=state, generation=generation, device_bytes=device_bytes, error=error
    )
    return key, value


def shard(*, xxh3: int = 1, incarnation: str = "t1", lineage: str = "") -> tuple[str, ShardValue]:
    pieces = (PieceValue(tensor="w", offset_bytes=0, num_bytes=4, xxh3=xxh3),)
    value = ShardValue(
        generation=0, incarnation=incarnation, lineage=lineage, segment="weights-0.segment", pieces=pieces
    )
    return SHARD, value


MASTER = ("master", MasterValue(incarnation="m1"))
TRAINER = (f"members/{POD}/train", MemberValue(incarnation="t1"))
SERVERS = (f"members/{POD}/rollout", MemberValue(incarnation="r1"))
LAYOUT = ("weights/0/layout", LayoutValue(generation=0, shards=(f"{POD}/0",)))
PUBLISHED = ("weights/published", PublishedValue(generation=0))
TO_INFER: Sequence[tuple[str, Value | None]] = (
    MASTER,
    TRAINER,
    SERVERS,
    word(1, "Infer", deadline=143.0),
    status(TRAIN, "Switching", 1),
    status(ROLLOUT, "Switching", 1),
    LAYOUT,
    shard(),
    status(TRAIN, "Idle", 1, device_bytes=0),
    PUBLISHED,
    status(ROLLOUT, "Serving", 1, generation=0),
)
"""A job's first switch, as it should be."""
TO_TRAIN: Sequence[tuple[str, Value | None]] = (
    word(2, "Train", deadline=151.0),
    status(ROLLOUT, "Switching", 2),
    status(TRAIN, "Switching", 2),
    status(ROLLOUT, "Idle", 2, device_bytes=0),
    status(TRAIN, "Training", 2, device_bytes=4096),
)
"""And its second one."""


def calm() -> History:
    """Return a history in which all is well: one iteration of one trajectory group."""
    rows = (row("a", state="Trained", finished=1, trained=1), row("b", state="Trained", finished=1, trained=1))
    return History(
        job=FACTS,
        changes=changes(*TO_INFER, *TO_TRAIN),
        samples=(
            sample(103.0, holders=("train",)),
            sample(110.5, holders=("rollout",), engines=(7,)),
            sample(115.5, holders=("train",)),
        ),
        diary=(
            entry(99.0, started(0)),
            entry(110.2, switched(1)),
            entry(115.2, switched(2)),
            entry(117.0, committed(1)),
        ),
        snapshots=(BufferSnapshot(117.5, rows, (), (1,)),),
    )


def sample(
    at: float, *, holders: Sequence[str] = (), engines: Sequence[int] = (), processes: Sequence[RunningProcess] = ()
) -> DeviceSample:
    return DeviceSample(at, POD, tuple(holders), tuple(engines), tuple(processes) or (RANK, SERVER))


def segment(generation: int = 0, num_tokens: int = 4, *, digest: str = "x") -> SegmentRow:
    return SegmentRow(generation, num_tokens, num_tokens, num_tokens, 0, digest)


def row(
    key: str,
    *,
    state: str = "Unfinished",
    iteration: int = 1,
    finished: int | None = None,
    trained: int | None = None,
    segments: Sequence[SegmentRow] | None = None,
    group: str = "g",
) -> TrajectoryRow:
    kept = (segment(),) if segments is None else tuple(segments)
    return TrajectoryRow(key, iteration, group, state, finished, trained, kept)


def snapshot(
    *rows: TrajectoryRow,
    at: float = 120.0,
    vanished: Sequence[str] = (),
    committed: Sequence[int] = (),
) -> BufferSnapshot:
    return BufferSnapshot(at, rows, tuple(vanished), tuple(committed))


def entry(at: float, record: RunStarted | SwitchRecord | IterationRecord | RunEnded) -> DiaryEntry:
    return DiaryEntry(at, record)


def started(iteration: int) -> RunStarted:
    return RunStarted(at=0.0, job="job", iteration=iteration, iterations=100)


def switched(epoch: int) -> SwitchRecord:
    direction = Direction.TRAIN_TO_INFER if epoch % 2 else Direction.INFER_TO_TRAIN
    return SwitchRecord(
        epoch=epoch, iteration=1, generation=0, direction=direction, started_at=0.0, seconds=0.0, stages=()
    )


def committed(iteration: int, *, difference: float = 1e-6) -> IterationRecord:
    figures = dict.fromkeys(("seconds", "reward", "response_tokens", "tokens_per_second", "kl", "loss"), 0.0)
    return IterationRecord.model_validate(
        figures
        | dict.fromkeys(("finished", "unfinished", "trained", "sampled_tokens"), 0)
        | {
            "iteration": iteration,
            "generation": iteration,
            "at": 0.0,
            "max_abs_logprob_difference": difference,
            "gradient_norm": 0.0,
        }
    )


def with_changes(*steps: tuple[str, Value | None]) -> History:
    """Return a history of these changes alone."""
    return History(job=FACTS, changes=changes(*steps))


def followed_by(history: History, *steps: tuple[str, Value | None]) -> History:
    """Return the history with more changes at its end."""
    last = history.changes[-1]
    more = [
        Change(last.at + number, last.life, last.revision + number, key, value)
        for number, (key, value) in enumerate(steps, start=1)
    ]
    return replace(history, changes=(*history.changes, *more))
