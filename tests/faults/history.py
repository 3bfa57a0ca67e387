"""What a campaign has seen of a job from outside: the only input of the checker."""

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from tandem_api.history import Record
from tests.faults.values import Value


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What the checker must know of the job."""

    hybrid_pods: tuple[str, ...]
    strategy: str = "Restart"
    budget_tokens: int = 8
    to_infer_seconds: float = 60.0
    to_train_seconds: float = 60.0
    max_logprob_difference: float = 1e-4

    def deadline_seconds(self, phase: str) -> float:
        """Return the time that a change into `phase` may take."""
        return self.to_infer_seconds if phase == "Infer" else self.to_train_seconds


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one key of the registry, in the order of revisions."""

    at: float
    """Unix time in seconds at which the campaign learnt of it."""
    life: int
    """Number of the database: grows where etcd starts empty."""
    revision: int
    """Revision of that database."""
    key: str
    """Without the job's prefix."""
    value: Value | None
    """None: deleted, or its lease has ended."""


@dataclass(frozen=True, slots=True, order=True)
class RunningProcess:
    """One process of a pod."""

    kind: str
    """One of engine-train, engine-rollout, rank, zygote, server."""
    pid: int


@dataclass(frozen=True, slots=True)
class DeviceSample:
    """Who holds a hybrid pod's devices at one moment.

    Read in this order: who holds the token, which engines run, who holds the token. Only who held it both times
    counts, so a hand-over in between cannot be taken for two holders.
    """

    at: float
    """Unix time in seconds, before the first reading."""
    pod: str
    holders: tuple[str, ...]
    """Roles (train, rollout) whose engine holds the token; `unknown` for a process that is not known."""
    engines: tuple[int, ...]
    """Server processes that have the weights in their memory; one that was only forked ahead has not."""
    processes: tuple[RunningProcess, ...]
    """All processes of the pod."""

    def pids(self, kind: str) -> frozenset[int]:
        return frozenset(process.pid for process in self.processes if process.kind == kind)


@dataclass(frozen=True, slots=True)
class SegmentCheck:
    """The campaign's own comparison of a segment with its registered checksums, made when a pod said Serving."""

    at: float
    pod: str
    generation: int
    num_pieces: int
    broken: tuple[str, ...]
    """Tensors whose bytes are not those that were registered."""


@dataclass(frozen=True, slots=True)
class DiaryEntry:
    """One line of metrics.jsonl."""

    seen_at: float
    record: Record


@dataclass(frozen=True, slots=True)
class SegmentRow:
    """One segment of a trajectory in the buffer."""

    generation: int
    num_tokens: int
    num_token_ids: int
    num_logprobs: int
    num_bad_logprobs: int
    """Log-probabilities that are no number, infinite, or above 0."""
    digest: str
    """Of its tokens and log-probabilities."""


@dataclass(frozen=True, slots=True)
class TrajectoryRow:
    """One trajectory in the buffer."""

    id: str
    iteration: int
    """Iteration that drew it."""
    group: str
    state: str
    finished_iteration: int | None
    trained_iteration: int | None
    segments: tuple[SegmentRow, ...]


@dataclass(frozen=True, slots=True)
class BufferSnapshot:
    """What has changed in the buffer since the snapshot before; one read transaction."""

    at: float
    changed: tuple[TrajectoryRow, ...]
    vanished: tuple[str, ...]
    committed: tuple[int, ...]
    """All committed iterations."""


@dataclass(frozen=True, slots=True)
class Disturbance:
    """One injection, from its beginning until it was undone."""

    name: str
    began_at: float
    ended_at: float
    seam: str
    """What was hurt: `train`, `rollout`, `master`, `etcd`, ..."""


@dataclass(frozen=True, slots=True)
class Intrusion:
    """A write that somebody stale has tried."""

    at: float
    what: str
    accepted: bool


@dataclass(frozen=True, slots=True)
class Session:
    """One life of `tandem up`, from its start to its end."""

    started_at: float
    ended_at: float
    exit_code: int | None
    """None: it was ended by the campaign."""
    last_words: str = ""


@dataclass(frozen=True, slots=True)
class History:
    """Everything that was seen of one job, over all its sessions."""

    job: JobFacts
    changes: tuple[Change, ...] = ()
    samples: tuple[DeviceSample, ...] = ()
    segments: tuple[SegmentCheck, ...] = ()
    diary: tuple[DiaryEntry, ...] = ()
    snapshots: tuple[BufferSnapshot, ...] = ()
    disturbances: tuple[Disturbance, ...] = ()
    intrusions: tuple[Intrusion, ...] = ()
    sessions: tuple[Session, ...] = field(default=())


HISTORY: TypeAdapter[History] = TypeAdapter(History)


def write_history(history: History, path: Path) -> None:
    """Write a history as JSON."""
    path.write_bytes(HISTORY.dump_json(history))


def read_history(path: Path) -> History:
    """Read what write_history wrote."""
    return HISTORY.validate_json(path.read_bytes())
